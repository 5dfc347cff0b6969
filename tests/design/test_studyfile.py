"""Study files: read, checked key by key, shrunk without losing a cell; every shipped one is its table's cells."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import kept
import pytest
import tomli_w
from asking import requested
from hypothesis import given, settings
from hypothesis import strategies as st

from raystudy.data import datasets
from raystudy.data.noise import NOISES, Noise
from raystudy.design import studyfile
from raystudy.design.compose import miniature
from raystudy.design.names import RECIPES
from raystudy.design.study import Block, Cell, Study
from raystudy.design.studyfile import load, read, shipped
from raystudy.errors import InputError
from raystudy.learn.celldata import prepare
from raystudy.learn.methods import METHODS
from raystudy.running.build import Builder

GOOD: dict[str, Any] = {
    "methods": ["ce", "mixup"],
    "datasets": ["digits"],
    "noise": ["symmetric:0.2,0.5"],
    "network": "mlp",
    "epochs": 6,
    "trials": 2,
    "replicates": 1,
}
ROOT = Path("nowhere")


def written(folder: Path, **changes: Any) -> str:
    """A good file with changes; a change of None leaves a key out."""
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps({k: v for k, v in (GOOD | changes).items() if v is not None}))
    return str(path)


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(InputError) as e:
        load(written(folder, **changes), ROOT)
    assert "\n" not in str(e.value)
    assert "mine.toml" in str(e.value)
    return str(e.value)


# -- what a file says


def test_a_product(tmp_path: Path) -> None:
    study = load(written(tmp_path), ROOT)
    assert (study.name, study.network, study.epochs, study.trials, study.replicates) == ("mine", "mlp", 6, 2, 1)
    assert (study.recipe, study.sampler, study.grid) == ("shared", "tpe", ())
    noises = (Noise("symmetric", 0.2), Noise("symmetric", 0.5))
    assert study.cells() == [Cell(m, "digits", n) for n in noises for m in ("ce", "mixup")]


def test_blocks_take_from_the_top_what_they_do_not_say(tmp_path: Path) -> None:
    grid = [
        {},
        {"methods": ["elr"], "noise": ["pair:0.45"], "network": "convnet", "epochs": 9, "recipe": "paper"},
        {"methods": ["ce"], "noise": ["symmetric:0.2"]},  # a cell that is there already
    ]
    study = load(written(tmp_path, grid=grid), ROOT)
    cells = study.cells()
    assert len(cells) == len({c.key for c in cells}) == 5
    assert cells[-1] == Cell("elr", "digits", Noise("pair", 0.45), "convnet", 9, "paper")
    assert cells[0] == Cell("ce", "digits", Noise("symmetric", 0.2))
    assert (study.network_of(cells[-1]), study.epochs_of(cells[-1]), study.recipe_of(cells[-1])) == (
        "convnet",
        9,
        "paper",
    )
    assert (study.network_of(cells[0]), study.epochs_of(cells[0]), study.recipe_of(cells[0])) == ("mlp", 6, "shared")
    assert study.methods == ("ce", "mixup", "elr")
    assert cells[-1].condition == "digits pair:0.45 (convnet, 9 epochs, paper recipe)"
    for cell in cells:
        assert Cell.from_dict(cell.to_dict()) == cell


def test_the_same_condition_with_two_networks_is_two_cells(tmp_path: Path) -> None:
    study = load(written(tmp_path, grid=[{"network": "mlp"}, {"network": "convnet"}]), ROOT)
    assert len({c.key for c in study.cells()}) == 8
    assert len({c.condition for c in study.cells()}) == 4
    plain = load(written(tmp_path), ROOT)
    assert [c.key for c in study.cells() if not c.network] == [
        c.key for c in plain.cells()
    ]  # the study's own needs no new name


def test_network_and_epochs_by_data_set_where_none_is_named(tmp_path: Path) -> None:
    study = load(written(tmp_path, datasets=["digits", "mnist"], network=None, epochs=None), ROOT)
    assert {(c.dataset, study.network_of(c), study.epochs_of(c)) for c in study.cells()} == {
        ("digits", "mlp", 90),
        ("mnist", "convnet", 60),
    }


def test_a_recipe_may_be_any_methods() -> None:
    assert ("shared", "paper", *sorted(METHODS)) == RECIPES


def test_all_methods(tmp_path: Path) -> None:
    assert load(written(tmp_path, methods=["all"]), ROOT).methods == tuple(sorted(METHODS))


def test_a_study_that_was_run_is_a_study_file(tmp_path: Path) -> None:
    study = load(
        written(tmp_path, grid=[{}, {"network": "convnet", "noise_seed": 3} | {"noise": ["pair:0.1"]}][:1]), ROOT
    )
    grown = replace(study, grid=(Block(("ce",), ("digits",), (Noise("pair", 0.1),), "convnet", 7),), batch=3)
    (tmp_path / "study.toml").write_text(grown.to_toml())
    assert load(str(tmp_path / "study.toml"), ROOT) == grown == Study.from_toml(tmp_path / "study.toml")


def test_a_grid_grows() -> None:
    noise = (Noise("symmetric", 0.2),)
    old = Study("s", ("ce",), ("digits",), noise, 2, 1, 6, "mlp")
    new = replace(old, grid=(Block(("mixup",), ("digits",), noise, "convnet"), Block(("ce",), ("digits",), noise)))
    grown = new.grown_from(old)
    assert grown.cells() == [*old.cells(), Cell("mixup", "digits", noise[0], "convnet")]
    assert grown.grown_from(grown) == grown
    assert old.grown_from(grown).cells() == grown.cells()


# -- mistakes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trails": 3}, ["'trails'", "did you mean 'trials'?"]),
        ({"noise_rate": 3}, ["'noise_rate'", "noise_seed"]),
        ({"trials": "3"}, ["trials must be a whole number", "'3'"]),
        ({"trials": 0}, ["--trials is 0", "from 1"]),
        ({"trials": True}, ["trials must be a whole number", "True"]),
        ({"epochs": 0}, ["--epochs is 0", "from 1"]),
        ({"val_fraction": 1}, ["--val-fraction is 1", "between 0 and 1"]),
        ({"network": ""}, ["network is empty"]),
        ({"methods": "ce"}, ["methods must be a list", "'ce'"]),
        ({"methods": ["ce", 3]}, ["methods must be a list of texts"]),
        ({"methods": ["mixpu"]}, ["'mixpu'", "did you mean 'mixup'?"]),
        ({"methods": []}, ["no methods"]),
        ({"methods": None, "noise": None}, ["no methods and no noise"]),
        ({"datasets": ["cifar11"]}, ["'cifar11'", "did you mean 'cifar10'?"]),
        ({"noise": ["symetric:0.2"]}, ["'symetric'", "did you mean 'symmetric'?"]),
        ({"noise": ["symmetric:20"]}, ["20", "[0, 1]"]),
        ({"recipe": "papre"}, ["'papre'", "did you mean 'paper'?"]),
        ({"sampler": "tep"}, ["'tep'", "did you mean 'tpe'?"]),
        ({"objective": "test/acc"}, ["'test/acc'", "never selects"]),
        ({"name": "../x"}, ["'../x'", "not usable as a folder"]),
        ({"grid": []}, ["grid is empty"]),
        ({"grid": ["ce"]}, ["[[grid]]"]),
        ({"grid": [{"method": ["ce"]}]}, ["grid 1", "'method'", "did you mean 'methods'?"]),
        ({"grid": [{}, {"trials": 3}]}, ["grid 2", "'trials'"]),
        ({"grid": [{"epochs": -1}]}, ["-1", "from 1"]),
        ({"methods": None, "grid": [{"methods": ["ce"]}, {}]}, ["grid 2", "no methods", "at the top"]),
    ],
)
def test_a_mistake(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    told = refusal(tmp_path, **changes)
    for word in words:
        assert word in told


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown study 'quack'; did you mean 'quick'\?"):
        load("quack", ROOT)
    with pytest.raises(InputError, match="there is no study file"):
        load(str(tmp_path / "no.toml"), ROOT)
    for content in (b"\xff\xfe", b"methods = [", b""):
        (tmp_path / "x.toml").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.toml[^\n]*$"):
            load(str(tmp_path / "x.toml"), ROOT)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=True),
    st.text(max_size=6),
    st.just(["x"]),
    st.just([]),
    st.just({}),
)


@given(
    key=st.one_of(st.sampled_from([*studyfile.KINDS, "x", ""]), st.text(max_size=5)),
    value=JUNK,
    inner=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_whatever_a_file_holds_is_a_study_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any, inner: bool
) -> None:
    told = dict(GOOD)
    if inner:
        told["grid"] = [{key: value}] if value is not None else [{}]
    elif value is None:
        told.pop(key, None)
    else:
        told[key] = value
    path = tmp_path_factory.getbasetemp() / "junk.toml"
    path.write_text(tomli_w.dumps(told), encoding="utf-8")
    try:
        load(str(path), ROOT).cells()
        refused = str(path)
    except InputError as e:
        refused = str(e)
    assert "\n" not in refused
    assert str(path) in refused


# -- the command line


def test_the_command_line_counts_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, grid=[{}, {"network": "convnet", "epochs": 9}], noise_seed=1)
    study = requested(
        "--study", path, "--trials", "7", "--sampler", "qmc", "--name", "other", "--epochs", "3", "--seed", "5"
    )
    assert (study.name, study.trials, study.replicates, study.sampler, study.seed) == ("other", 7, 1, "qmc", 5)
    assert {study.epochs_of(c) for c in study.cells()} == {3}
    assert {c.noise.seed for c in study.cells()} == {1}
    assert {c.noise.seed for c in requested("--study", path, "--noise-seed", "2").cells()} == {2}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["ce", "--study", "quick"], ["on the command line or in the study, not both", "ce"]),
        (
            ["--study", "quick", "--noise", "pair:0.1", "--no-baseline"],
            ["--noise, --no-baseline", "the grid is the study's"],
        ),
        ([], ["name a METHOD", "quick"]),
    ],
)
def test_both_or_neither(argv: list[str], words: list[str]) -> None:
    with pytest.raises(InputError) as e:
        requested(*argv)
    for word in words:
        assert word in str(e.value)


# -- in miniature


def test_a_miniature_has_the_grid_of_the_study(tmp_path: Path) -> None:
    grid = [
        {"datasets": ["cifar10", "cifar100"], "network": n, "epochs": e}
        for n, e in (("resnet18", 90), ("resnet18:pretrained", 90), ("resnet18", 9))
    ]
    study = load(written(tmp_path, grid=grid), ROOT)
    small = miniature(study)
    assert small.name == "mine-smoke"
    assert (small.trials, small.replicates) == (1, 1)
    assert [(c.method, c.noise) for c in small.cells()] == [(c.method, c.noise) for c in study.cells()]
    assert len({c.key for c in small.cells()}) == len(study.cells()) == 24
    assert {c.dataset for c in small.cells()} == {"smoke:cifar10", "smoke:cifar100"}
    assert max(small.epochs_of(c) for c in small.cells()) == 4
    told = requested("--study", written(tmp_path, grid=grid), "--scale", "smoke", "--trials", "2")
    assert (told.name, told.trials, told.replicates) == ("mine-smoke", 2, 1)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_stand_ins_have_the_classes_and_are_pinned(name: str) -> None:
    data = datasets.load(f"smoke:{name}", ROOT)
    classes = datasets.DATASETS[name].n_classes
    assert data.n_classes == classes == len(data.y_train.unique()) == len(data.y_test.unique())
    assert len(data.x_train) < 2000
    assert data.digest == {10: "a8481dc95e2ddfc8", 100: "1d517e543d2ba34a"}[classes]
    assert datasets.present(f"smoke:{name}", ROOT)
    with pytest.raises(InputError, match="'cifar11'"):
        datasets.present("smoke:cifar11", ROOT)


def test_labels_that_come_with_the_data_are_stood_in_for() -> None:
    data = [prepare("smoke:cifar10", ROOT, Noise("given", 0.0, seed=s), 0.1) for s in (0, 1)]
    assert data[0].effective_rate == pytest.approx(0.2, abs=0.01)
    assert data[0].noise_digest != data[1].noise_digest


def test_a_miniature_has_the_points_and_recipe_of_the_study() -> None:
    from raystudy.design import space

    noise = Noise("symmetric", 0.9)
    dividemix = space.load("dividemix")
    assert dividemix.paper("smoke:cifar100", noise) == dividemix.paper("cifar100", noise)
    assert space.recipe_for("shared", "ce", "smoke:cifar10", "smoke:cnn9") == space.recipe_for(
        "shared", "ce", "cifar10", "cnn9"
    )
    assert space.recipe_for("coteaching", "ce", "digits", "mlp") == space.recipe_for(
        "paper", "coteaching", "digits", "mlp"
    )


# -- the shipped studies

TABLES = {  # cells by hand: data sets x noise levels x methods (x networks)
    "mentornet-table2": 2 * 3 * 7 * 2,
    "mentormix-table2": 2 * 20 * (8 + 7),
    "dividemix-table1": 2 * 4 * 9,
    "coteaching-tables4-6": 3 * 3 * 7,
    "mixup-table2": 3 * 3,
    "rethinking-fig1": 9,
    "quick": 3 * len(METHODS),
}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_shipped_study(name: str, tmp_path: Path) -> None:
    assert shipped() == sorted(TABLES)
    text = studyfile.find(name).read_text()
    assert text.startswith("# ")  # the table and its protocol
    told = read(studyfile.find(name))
    assert told == tomllib.loads(text)
    assert {n.partition(":")[0] for n in told["noise"]} <= NOISES.keys()
    assert {d.partition("?")[0] for d in told["datasets"]} <= datasets.DATASETS.keys()
    study = load(name, ROOT)
    cells = study.cells()
    assert len(cells) == len({c.key for c in cells}) == TABLES[name]
    (tmp_path / "study.toml").write_text(study.to_toml())
    assert Study.from_toml(tmp_path / "study.toml") == study

    small = miniature(study)
    builder = Builder(small, ROOT)
    keys = {builder.spec(c, builder.spaces[c.method].paper(c.dataset, c.noise)[0], 0).key for c in small.cells()}
    assert len(small.cells()) == TABLES[name]
    assert len(keys) > len(small.cells()) / 2  # at rate 0, red and blue noise are the same labels
    assert all(builder.updates(c) < 120 for c in small.cells())

    # It was run, and what came out is kept. Of all methods those that there were: one that came since is no mistake.
    rows = kept.kept(name)
    cells = [c for c in small.cells() if told.get("methods") != ["all"] or c.method in {row["method"] for row in rows}]
    assert len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):
        data, epochs = builder.data[cell.dataset, cell.noise], small.epochs_of(cell)
        assert (row["method"], row["condition"]) == (cell.method, cell.condition)
        assert (row["data"], row["noise"]) == (data.data_digest, data.noise_digest)
        assert row["trials"] == f"paper:complete:{epochs} replicate:complete:{epochs}"
