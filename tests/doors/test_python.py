"""The Python interface as a person meets it: in a script, in the documentation's examples, in a notebook."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import raystudy as rs

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", "MPLBACKEND": "agg"}


def python(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_importing_it_imports_nothing(tmp_path: Path) -> None:
    code = "import sys, raystudy; print(sorted({'torch', 'ray', 'optuna', 'mlflow', 'numpy', 'pandas'} & set(sys.modules)))"
    began = time.perf_counter()
    assert python(tmp_path, "-c", code).strip() == "[]"
    assert (
        time.perf_counter() - began < 2
    )  # the interpreter's own start included, on a busy machine; 0.01 s of it are ours


def test_every_name_is_there() -> None:
    assert set(rs.__all__) <= set(dir(rs))
    assert all(getattr(rs, name) is not None for name in rs.__all__)
    assert issubclass(rs.InputError, ValueError)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rs.nothing  # noqa: B018


def test_names_are_not_hidden_by_modules() -> None:
    """Importing a room makes it an attribute of the package: none may have the name of a function."""
    rooms = {p.stem for p in (ROOT / "raystudy").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert not rooms & set(rs.__all__)


def test_a_study_says_what_is_wrong_at_once() -> None:
    for wrong, words in (
        (lambda: rs.Study("dividmix"), "did you mean 'dividemix'"),
        (lambda: rs.Study(), "name a METHOD .*dividemix-table1"),
        (lambda: rs.Study("ce", file="dividemix-table1"), "in the study, not both"),
        (
            lambda: rs.Study(file="quick", noise="pair:0.45", network="mlp"),
            "--noise, --network cannot be given with --study",
        ),
        (lambda: rs.Study("ce", trails=3), "unknown argument of Study 'trails'; did you mean 'trials'"),
        (lambda: rs.Study("ce", objective="test/acc"), "training never selects"),
        (lambda: rs.Study("ce", scale="tiny"), "unknown scale 'tiny'"),
        (lambda: rs.run(rs.Study("ce"), cpus=2), "unknown argument .cpus.; choose from: .*cpus_per_trial"),
        (lambda: rs.train("elr", lamda=1.0), "hyperparameter.*'lamda'"),
        (lambda: rs.train("elr", noise="symmetric:0.2,0.5"), "one noise level, not 2"),
        (lambda: rs.load("nothing", storage="nowhere"), "unknown study in nowhere 'nothing'"),
    ):
        with pytest.raises(rs.InputError, match=words):
            wrong()


def test_what_is_of_another_kind_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = ["a", "b", "c"]
    for wrong, words in (
        (lambda: rs.Study(5), "methods is 5; it must be a text, or a list of texts"),
        (lambda: rs.clean(pd.DataFrame({"a": range(99)})), "it must be a text"),
        (lambda: rs.Study("elr", noise=np.zeros(999)), "it must be a text, or a list of texts"),
        (lambda: rs.Study("ce", noise=0.5), "noise is 0.5; it must be a text, or a list of texts"),
        (lambda: rs.Study("ce", noise=[0.2]), r"noise is \[0.2\]"),
        (lambda: rs.Study("ce", noise=[]), "noise is empty"),
        (lambda: rs.Study("ce", trials="2"), "trials is '2'; it must be a whole number"),
        (lambda: rs.Study("ce", trials=2.5), "trials is 2.5; it must be a whole number"),
        (lambda: rs.Study("ce", trials=True), "trials is True"),
        (lambda: rs.Study("ce", epochs=1.5), "epochs is 1.5"),
        (lambda: rs.Study("ce", val_fraction="x"), "val_fraction is 'x'; it must be a number"),
        (lambda: rs.Study("ce", baseline="no"), "baseline is 'no'; it must be True or False"),
        (lambda: rs.Study("ce", dataset=3), "dataset is 3; it must be a text"),
        (lambda: rs.run(rs.Study("ce"), cpus_per_trial="a"), "cpus_per_trial is 'a'"),
        (lambda: rs.run(rs.Study("ce"), max_concurrent=1.5), "max_concurrent is 1.5"),
        (lambda: rs.run(rs.Study("ce"), gpus_per_trial=2), "a trial trains on one GPU"),
        (lambda: rs.Study("ce").plan(gpus_per_trial=2), "a trial trains on one GPU"),
        (lambda: rs.run(rs.Study("ce"), time_budget=30), "time_budget is 30; it must be a text"),
        (lambda: rs.run(rs.Study("ce"), storage=3), "storage is 3; it must be a path"),
        (lambda: rs.load(3), "name is 3"),
        (lambda: rs.train("ce", threads="a"), "threads is 'a'"),
        (lambda: rs.train("ce", noise=3), "noise is 3; it must be a text"),
        (lambda: rs.corrupt(["a", 1, None], "pair:0.2"), "labels are of several kinds"),
        (lambda: rs.corrupt(labels, "pair:0.2", seed=1.5), "seed is 1.5"),
        (lambda: rs.noise(3), "noise is 3"),
        (lambda: rs.Study("ce").plan(probe_seconds="x"), "probe_seconds is 'x'"),
    ):
        with pytest.raises(rs.InputError, match=words) as told:
            wrong()
        assert len(str(told.value).splitlines()) == 1
        assert len(str(told.value)) < 300
    assert not list(tmp_path.iterdir())


def test_the_same_study_as_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asking import requested

    monkeypatch.chdir(tmp_path)
    mine = rs.Study("dividemix", noise=["symmetric:0.2", "pair:0.45"], trials=7, network="mlp").design
    theirs = requested(
        "dividemix", "--noise", "symmetric:0.2", "--noise", "pair:0.45", "--trials", "7", "--network", "mlp"
    )
    assert mine == theirs
    assert rs.Study(file="dividemix-table1", scale="smoke", trials=2).design == requested(
        "--study", "dividemix-table1", "--scale", "smoke", "--trials", "2"
    )


def test_labels_are_flipped_as_in_a_study() -> None:
    """``corrupt`` draws what a study of these labels draws, whatever the labels are called."""
    from raystudy.data.noise import Noise, corrupt

    ids = np.arange(1000) % 4
    want = corrupt(ids, Noise("pair", 0.45, seed=3), 4)
    assert np.array_equal(rs.corrupt(ids, "pair:0.45", seed=3), want)
    names = np.array(["ape", "bee", "cat", "dog"])
    assert np.array_equal(rs.corrupt(names[ids], "pair:0.45", seed=3), names[want])
    assert rs.corrupt(["b", "a"] * 50, "symmetric:1", classes=["a", "b", "c"]).tolist().count("c") > 10
    for labels, noise, words in (
        (ids[:, None], "pair:0.2", r"the shape \(1000, 1\)"),
        (np.zeros(5), "pair:0.2", "labels of 1 class"),
        (ids, "pair:0.2,0.4", "one noise level is asked for"),
        (ids, "instance:0.2", "instance"),
    ):
        with pytest.raises(rs.InputError, match=words):
            rs.corrupt(labels, noise)
    with pytest.raises(rs.InputError, match="label 'd' is none of the classes"):
        rs.corrupt(["a", "d"], "pair:0.2", classes=["a", "b"])


@pytest.mark.slow
def test_a_training_yields_the_records_of_the_command(tmp_path: Path) -> None:
    records = list(rs.train("ce", noise="symmetric:0.2", epochs=2, lr=0.02))
    assert [r["epoch"] for r in records] == [0, 1]
    words = ("-m", "raystudy", "train", "ce", "--noise", "symmetric:0.2", "--epochs", "2", "--set", "lr=0.02")
    shown = re.findall(r"test/acc (\S+)", python(tmp_path, *words))
    assert shown == [f"{r['test/acc']:.4g}" for r in records]


def test_what_there_is() -> None:
    assert "dividemix" in rs.methods().index
    assert "lambda_u" in rs.methods("dividemix").index
    assert "Li" in rs.methods("dividemix").attrs["card"]
    assert rs.datasets().loc["digits", "here"]
    assert "symmetric" in rs.noise().index
    assert rs.noise("pair:0.45", seed=2).seed == 2


@pytest.mark.ray
@pytest.mark.slow
def test_the_examples_of_the_documentation(tmp_path: Path) -> None:
    """docs/python.md, block after block, in one process as a reader would type them; no guard for ``__main__`` is needed."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "typed.py").write_text("\n".join(blocks), encoding="utf-8")
    out = python(tmp_path, "typed.py")
    assert "Study('elr-digits': 4 cells, 2 trials and 1 replicates each)" in out
    assert "unknown method 'dividmix'; did you mean 'dividemix'?" in out
    assert (tmp_path / "studies" / "elr-digits" / "report" / "index.html").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_the_example_of_models(tmp_path: Path) -> None:
    """docs/models.md: a study's model is asked, and read again."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "models.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "typed.py").write_text(block, encoding="utf-8")
    assert python(tmp_path, "typed.py").strip().endswith("True")


def test_the_page_on_models_names_commands_and_options_that_there_are() -> None:
    from raystudy.commands import app

    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for line in re.findall(r"^ {4}raystudy ([^#\n]+)", text, re.M):
        app.build().parse_args(line.split(), exit_on_error=False, print_error=False)
    said = set(re.findall(r"--[a-z][a-z-]+", text)) - {"--env-manager"}
    known = {
        name
        for words in (["model"], ["predict"])
        for argument in app.build()[words[0]].assemble_argument_collection()
        for name in argument.names
    }
    assert said - known == {"--keep-models"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words"), [("compare", ("4", "2")), ("curves", ("3",)), ("own_data", ("3",)), ("classifier", ("4",))]
)
def test_examples(script: str, words: tuple[str, ...], tmp_path: Path) -> None:
    out = python(tmp_path, str(ROOT / "examples" / f"{script}.py"), *words)
    assert "Traceback" not in out
    assert script in ("own_data", "classifier") or (tmp_path / f"{script}.png").stat().st_size > 5000


@pytest.mark.ray
@pytest.mark.slow
def test_a_notebook_shows_progress_in_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real kernel: one output that is replaced, with every cell of the study in it, and frames."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    book = nbformat.v4.new_notebook()
    study = "rs.Study('ce', noise='symmetric:0.2,0.5', trials=1, replicates=1, epochs=3)"
    cells = ("import raystudy as rs", f"results = rs.run({study}, tracking_uri='none')", "results.leaderboard()")
    book.cells = [nbformat.v4.new_code_cell(text) for text in cells]
    client = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = [o for o in book.cells[1].outputs if o.output_type == "display_data"]
    assert len(shown) == 1
    page = shown[0].data["text/html"]
    assert "symmetric 0.5" in page
    assert "4 of 4 trials have ended" in page
    assert "last10" in book.cells[2].outputs[0].data["text/html"]
