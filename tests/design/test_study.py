"""Studies, cells and trials: keys that name the same work by the same name, files that are read back, studies that grow."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from raystudy.data.noise import Noise
from raystudy.design.names import OBJECTIVES, SAMPLERS, SCHEDULERS
from raystudy.design.study import NAME, Cell, Study, slug, study_dir
from raystudy.errors import InputError
from raystudy.learn.spec import TrialSpec

SPEC = TrialSpec(
    method="dividemix",
    version=1,
    point={"lambda_u": 25.0, "alpha": 4.0},
    dataset="digits",
    data_digest="d" * 16,
    noise={"kind": "symmetric", "rate": 0.5, "variant": "inclusive", "seed": 0, "count": "exact_global"},
    noise_digest="n" * 16,
    network="mlp",
    recipe={"optimizer": "sgd", "lr": 0.05, "milestones": [0.5]},
    epochs=60,
    seed=0,
    val_fraction=0.1,
    clean_val=0,
)


def study(**changes: Any) -> Study:
    told = {
        "name": "s",
        "methods": ("ce", "dividemix"),
        "datasets": ("digits",),
        "noises": (Noise("symmetric", 0.2), Noise("pair", 0.45, seed=3)),
        "trials": 5,
        "replicates": 2,
        "epochs": 60,
        "network": "mlp",
    }
    return Study(**(told | changes))


# -- trial keys


def test_the_key_of_a_trial_is_pinned() -> None:
    """A change of this value disowns every trial that was ever recorded."""
    assert SPEC.key == "e6091e352245cee2"


def test_every_field_that_matters_changes_the_key() -> None:
    changed = {
        "method": "mixup",
        "version": 2,
        "point": {"lambda_u": 25.0, "alpha": 4.1},
        "data_digest": "e" * 16,
        "noise_digest": "m" * 16,
        "network": "convnet",
        "recipe": SPEC.recipe | {"lr": 0.06},
        "epochs": 61,
        "seed": 1,
        "val_fraction": 0.2,
        "clean_val": 10,
        "code": "c" * 16,
        "evaluate": {"every": 5, "test": 0, "also": []},
        "filter": "simifeat",
    }
    where_it_lies = {"dataset": "npz:/elsewhere/digits.npz", "noise": {"kind": "given", "rate": 0.0}}
    assert changed.keys() | where_it_lies.keys() == {f.name for f in fields(TrialSpec)}
    keys = [SPEC.key, *(replace(SPEC, **{name: value}).key for name, value in changed.items())]
    assert len(set(keys)) == len(keys)
    assert replace(SPEC, **where_it_lies).key == SPEC.key


def test_the_key_knows_no_order_and_survives_the_ledger() -> None:
    shuffled = replace(SPEC, point=dict(reversed(SPEC.point.items())), recipe=dict(reversed(SPEC.recipe.items())))
    assert shuffled.key == SPEC.key
    assert TrialSpec(**asdict(SPEC)).key == SPEC.key
    assert replace(SPEC, recipe=SPEC.recipe | {"milestones": (0.5,)}).key == SPEC.key  # JSON has one kind of list
    assert replace(SPEC, point={"lambda_u": 25.0}).key != SPEC.key
    assert len(SPEC.key) == 16
    assert set(SPEC.key) <= set("0123456789abcdef")


# -- cells


def test_cell_keys_are_distinct_file_names() -> None:
    datasets = [
        "digits",
        "cifar10",
        "npz:/data/a.npz",
        "npz:/data2/a.npz",
        "npz:/data/a b.npz",
        "npz:/data/a-b.npz",
        "npz:../../etc/x",
    ]
    noises = [
        Noise("symmetric", 0.2),
        Noise("symmetric", 0.2, "exclusive"),
        Noise("symmetric", 0.2, seed=1),
        Noise("symmetric", 0.2, count="bernoulli"),
        Noise("symmetric", 0.25),
        Noise("pair", 0.2),
        Noise("given", 0.0),
    ]
    cells = [Cell(m, d, n) for m in ("ce", "m_correction") for d in datasets for n in noises]
    keys = {c.key for c in cells}
    assert len(keys) == len(cells)
    for key in keys:
        assert NAME.fullmatch(key)
        assert len(f"{key}.jsonl") < 255
    assert Cell("ce", "digits", noises[0]).key == "ce_digits_symmetric-inclusive-0.2"
    assert Cell("ce", "digits", noises[2]).key == "ce_digits_symmetric-inclusive-0.2-seed1"


def test_slug() -> None:
    assert slug("cifar10") == "cifar10"
    assert slug("a b").startswith("a-b-")
    assert slug("a b") != slug("a:b")
    assert len(slug("x" * 500)) <= 67
    assert slug("x" * 500) != slug("x" * 501)


def test_cell_round_trip() -> None:
    cell = Cell("ce", "digits", Noise("pair", 0.45, seed=3))
    assert Cell.from_dict(cell.to_dict()) == cell
    assert cell.condition == "digits pair:0.45 seed 3"
    assert Cell("ce", "digits", Noise("pair", 0.45)).condition == "digits pair:0.45"


def test_the_grid_keeps_a_conditions_methods_together() -> None:
    told = study(datasets=("digits", "mnist"))
    assert [(c.dataset, c.noise.kind, c.method) for c in told.cells()] == [
        (d, n, m) for d in ("digits", "mnist") for n in ("symmetric", "pair") for m in ("ce", "dividemix")
    ]


# -- what a study may be


@pytest.mark.parametrize(
    "name", ["../x", "/etc", ".", "..", "", "x" * 101, "a/b", "a\\b", ".hidden", "-x", "_x", "a b", "a\n", "ä"]
)
def test_names_that_are_no_folder(name: str) -> None:
    for make in (lambda: study(name=name), lambda: study_dir(Path("studies"), name)):
        with pytest.raises(InputError, match=r"study name .* is not usable as a folder") as e:
            make()
        assert "\n" not in str(e.value)


def test_names_that_are_folders() -> None:
    for name in ("a", "0", "dividemix-digits", "A.b_c-9", "x" * 100):
        assert study_dir(Path("studies"), study(name=name).name) == Path("studies") / name


@pytest.mark.parametrize("objective", ["test/acc", "test/loss", "truth/anything"])
def test_the_test_set_is_no_objective(objective: str) -> None:
    with pytest.raises(InputError, match=r"test set or the truth.*choose from: val/acc, val/loss$"):
        study(objective=objective)


@pytest.mark.parametrize(
    ("what", "value", "words"),
    [
        ("objective", "val/ac", ["did you mean 'val/acc'", *OBJECTIVES]),
        ("objective", "train/loss", OBJECTIVES),
        ("objective", "val/clean_acc", OBJECTIVES),
        ("sampler", "tep", ["did you mean 'tpe'", *SAMPLERS]),
        ("scheduler", "ahsa", ["did you mean 'asha'", *SCHEDULERS]),
        ("recipe", "sharde", ["did you mean 'shared'", "paper"]),
        ("trials", 0, ["--trials is 0", "from 1"]),
        ("replicates", -1, ["--replicates is -1", "from 0"]),
        ("epochs", 0, ["--epochs is 0", "from 1"]),
        ("seed", -1, ["--seed is -1", "from 0"]),
        ("seed", 2**31, ["--seed", "to 2147483647"]),
        ("clean_val", -1, ["--clean-val is -1", "from 0"]),
        ("batch", -1, ["batch is -1", "from 0"]),
        ("val_fraction", 0.0, ["--val-fraction is 0", "between 0 and 1"]),
        ("val_fraction", 1.5, ["--val-fraction is 1.5", "between 0 and 1"]),
        ("val_fraction", float("nan"), ["--val-fraction is nan", "between 0 and 1"]),
    ],
)
def test_a_value_that_cannot_be(what: str, value: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as e:
        study(**{what: value})
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value)


# -- study.toml


def test_round_trip(tmp_path: Path) -> None:
    told = study(objective="val/loss", val_fraction=0.25, clean_val=7, batch=3, datasets=("digits", 'npz:/a "b".npz'))
    (tmp_path / "study.toml").write_text(told.to_toml())
    assert Study.from_toml(tmp_path / "study.toml") == told


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("trials", "trails", ["'trails'", "did you mean 'trials'", "replicates"]),
        ("trials = 5", 'trials = "5"', ["trials", "int", "'5'"]),
        ("epochs = 60", "epochs = true", ["epochs", "int", "True"]),
        ("epochs = 60", "epochs = 0", ["epochs is 0"]),
        ("val_fraction = 0.1", 'val_fraction = "x"', ["val_fraction", "float", "'x'"]),
        ('"val/acc"', '"test/acc"', ["'test/acc'", "choose from: val/acc, val/loss"]),
        ('"val/acc"', "5", ["objective", "str", "5"]),
        ('name = "s"', 'name = "../s"', ["'../s'", "not usable as a folder"]),
        ('"tpe"', '"tep"', ["'tep'", "did you mean 'tpe'"]),
        ('kind = "pair"', 'kind = "pear"', ["'pear'", "did you mean 'pair'", "symmetric"]),
        ("rate = 0.45", "rate = 45", ["45", "[0, 1]"]),
        ("rate = 0.45", 'rate = "x"', ["not a study file"]),
        ('datasets = [\n    "digits",\n]', 'datasets = "digits"', ["datasets", "list", "'digits'"]),
        ('network = "mlp"\n', "", ["not a study file", "network"]),
        ('"ce"', '"ce', ["not a study file", "line 3"]),
    ],
)
def test_a_mistake_in_the_file(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    path, text = tmp_path / "study.toml", study().to_toml()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError) as e:
        Study.from_toml(path)
    assert "\n" not in str(e.value)
    for word in [str(path), *words]:
        assert word in str(e.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no study at"):
        Study.from_toml(tmp_path / "study.toml")
    for name, content in (("a", b""), ("b", b"\xff\xfe"), ("c", b"noises = 3"), ("d", b'noises = ["x"]')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"is not a study file: [^\n]*$"):
            Study.from_toml(tmp_path / name)
    with pytest.raises(InputError, match=r"is not a study file: [^\n]*$"):
        Study.from_toml(tmp_path)


# -- growing


def test_a_study_grows() -> None:
    old = study(batch=2)
    new = study(
        methods=("mixup", "ce"), datasets=("mnist",), noises=(Noise("symmetric", 0.8),), trials=9, replicates=4, batch=7
    )
    grown = new.grown_from(old)
    assert grown.methods == ("ce", "dividemix", "mixup")
    assert grown.datasets == ("digits", "mnist")
    assert grown.noises == (*old.noises, Noise("symmetric", 0.8))
    assert (grown.trials, grown.replicates, grown.batch) == (9, 4, 2)


def test_a_study_never_shrinks() -> None:
    old = study()
    assert study(methods=("ce",), noises=old.noises[:1], trials=1, replicates=0).grown_from(old) == old
    assert old.grown_from(old) == old


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("epochs", 61),
        ("network", "convnet"),
        ("recipe", "paper"),
        ("sampler", "random"),
        ("scheduler", "none"),
        ("objective", "val/loss"),
        ("seed", 1),
        ("val_fraction", 0.2),
        ("clean_val", 10),
        ("evaluate", "every:5"),
    ],
)
def test_what_a_trial_is_cannot_change(what: str, value: Any) -> None:
    with pytest.raises(InputError) as e:
        study(**{what: value}).grown_from(study())
    assert "\n" not in str(e.value)
    for word in ["'s'", f"{what}={getattr(study(), what)!r}", repr(value), "--name"]:
        assert word in str(e.value)


def test_how_often_a_study_evaluates_is_in_its_file_only_where_it_is_said(tmp_path: Path) -> None:
    assert "evaluate" not in study().to_toml()
    assert study(evaluate="every:1") == study()
    told = study(evaluate="every:5,100")
    assert told.to_toml() == study().to_toml() + 'evaluate = "every:5,100"\n'
    (tmp_path / "study.toml").write_text(told.to_toml())
    assert Study.from_toml(tmp_path / "study.toml") == told
    with pytest.raises(InputError, match="--evaluate is 'every:0'; it must be every:K or every:K,N"):
        study(evaluate="every:0")
