"""Search spaces and points: what is written in TOML and after ``--set`` is checked, and Optuna gets and gives back the same points."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from raystudy.data.noise import Noise
from raystudy.design.space import FOLDER, Dimension, Paper, Space, load, recipe_for
from raystudy.errors import InputError
from raystudy.learn.methods import METHODS
from raystudy.learn.point import RECIPE_FIELDS, checked, hyperparameters, parse_setting, split
from raystudy.learn.recipe import Recipe

optuna.logging.set_verbosity(optuna.logging.ERROR)
every_method = pytest.mark.parametrize("method", sorted(METHODS))
every_form = pytest.mark.parametrize("flat", [False, True], ids=["conditional", "flat"])
ROW = '[[paper]]\ndataset = "cifar10"\nnoise = "symmetric"\nrate = 0.5\nsource = "there"\n'


def mistake(folder: Path, text: str, method: str = "dividemix") -> str:
    """The one line that a space file is answered with."""
    (folder / f"{method}.toml").write_text(text)
    with pytest.raises(InputError) as e:
        load(method, folder)
    assert "\n" not in str(e.value)
    assert f"{method}.toml" in str(e.value)
    return str(e.value)


# -- the files


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[space]\nlamda_u = { low = 1, high = 2 }", ["'lamda_u'", "did you mean 'lambda_u'", "p_threshold", "lr"]),
        (ROW + "point = { p_treshold = 0.5 }", ["'p_treshold'", "did you mean 'p_threshold'", "alpha"]),
        (ROW + 'varient = "inclusive"', ["'varient'", "did you mean 'variant'", "oracle", "rate"]),
        ("[spase]\n", ["'spase'", "did you mean 'space'", "paper", "recipe"]),
        ("[space]\nalpha = { low = 1, high = 2, lg = true }", ["'lg'", "did you mean 'log'", "or_zero", "choices"]),
        ("[recipe]\nlrate = 0.1", ["'lrate'", "lr", "batch_size", "epochs", "network"]),
        ('[recipe]\noptimizer = "sdg"', ["'sdg'", "did you mean 'sgd'", "adam"]),
        ("[recipe]\nlr = -1", ["lr=-1", "above 0"]),
        ("[recipe]\nmilestones = [1.5]", ["milestones=[1.5]", "[0, 1)"]),
        ("[space]\nalpha = { low = 2, high = 1 }", ["alpha", "wrong way round", "low=2", "high=1"]),
        ("[space]\nalpha = { low = 1, high = 1 }", ["alpha", "wrong way round"]),
        ("[space]\nalpha = { low = 0, high = 1, log = true }", ["alpha", "log", "low=0", "above 0"]),
        ("[space]\nalpha = { low = -1, high = 1, log = true }", ["alpha", "log", "low=-1"]),
        ("[space]\nalpha = { choices = [] }", ["alpha", "choices", "not empty"]),
        ("[space]\nalpha = { choices = [1], low = 0 }", ["alpha", "either choices", "or low and high"]),
        ("[space]\nalpha = { low = 1 }", ["alpha", "low and high, or choices"]),
        ("[space]\nalpha = 4", ["alpha", "must be a table", "not 4"]),
        ("[space]\nlr = { low = -1, high = 1 }", ["lr=-1", "above 0"]),
        ('[space]\nguess = { choices = ["trian"] }', ["'trian'", "did you mean 'train'", "eval"]),
        ('[space]\nguess = { low = "eval", high = "train" }', ["guess", "no number", "choices"]),
        ("[space]\nnesterov = { low = false, high = true }", ["nesterov", "no number", "choices"]),
        ("[space]\nmilestones = { low = [0.1], high = [0.2] }", ["milestones", "no number", "choices"]),
        ('[space]\nalpha = { low = "a", high = 2 }', ["alpha", "float", "'a'"]),
        ("[space]\nloss_history = { low = 0.5, high = 3 }", ["loss_history", "int", "0.5"]),
        ("[space]\nalpha = { low = 1, high = nan }", ["alpha", "finite", "nan"]),
        ("[space]\nalpha = { low = 1, high = inf }", ["alpha", "finite", "inf"]),
        ("[space]\nalpha = { low = 1, high = 2, log = 1 }", ["alpha.log", "true or false", "not 1"]),
        ('[recipe]\nlr = "fast"', ["lr", "float", "'fast'"]),
        ("[recipe]\nbatch_size = true", ["batch_size", "int", "True"]),
        ("[recipe]\nmilestones = 3", ["milestones", "not 3"]),
        ("[recipe]\nsource = 3", ["[recipe]", "source=3", "type"]),
        ("[recipe.cifar_100]\nlr = 0.1", ["'cifar_100'", "did you mean 'cifar100'", "webvision"]),
        ("[recipe.cifar100]\nlrate = 0.1", ["[recipe.cifar100]", "'lrate'", "lr", "epochs"]),
        ("[recipe]\nnesterov = true\n[recipe.mnist]\nmomentum = 0", ["[recipe.mnist]", "nesterov", "momentum"]),
        (ROW.replace('"symmetric"', '"symetric"'), ["'symetric'", "did you mean 'symmetric'", "asym_block5"]),
        (ROW.replace('"symmetric"', '["pair", "asymetric"]'), ["'asymetric'", "did you mean 'asymmetric'"]),
        (ROW.replace('"symmetric"', "[]"), ["noise", "empty"]),
        (ROW + "point = 3", ["[[paper]]", "point=3", "type"]),
        (ROW + 'point = { alpha = "x" }', ["alpha", "float", "'x'"]),
        (ROW + "point = { loss_history = 1.5 }", ["loss_history", "int", "1.5"]),
        (ROW + 'oracle = "alpha"', ["oracle='alpha'", "type"]),
        (ROW + 'point = { alpha = 4 }\noracle = ["alfa"]', ["'alfa'", "oracle", "alpha"]),
        (ROW.replace("0.5", '"0.5"'), ["rate='0.5'", "type"]),
        (ROW.replace("0.5", "50"), ["rate=50", "[0, 1]"]),
        (ROW.replace("0.5", "[0.2, 50]"), ["rate=50", "[0, 1]"]),
        (ROW.replace("0.5", '[0.2, "0.5"]'), ["rate='0.5'", "type"]),
        (ROW.replace("0.5", "[]"), ["rate", "empty"]),
        (ROW.replace("rate = 0.5\n", ""), ["[[paper]]", "no rate"]),
        ("[space]\nalpha = { low = 1, high = 3 }\n" + ROW + "point = { alpha = 9 }", ["alpha=9.0", "outside [1, 3]"]),
        (
            "[space]\nloss_history = { choices = [1, 5] }\n" + ROW + "point = { loss_history = 3 }",
            ["loss_history=3", "not one of 1, 5"],
        ),
        ("space = 3", ["[space]", "tables"]),
        ("paper = [1]", ["[[paper]]", "tables"]),
        ("[space", ["Expected ']'"]),
        ("[space]\nalpha = { low = 1, high = }", ["line 2"]),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(tmp_path: Path, text: str, words: list[str]) -> None:
    told = mistake(tmp_path, text)
    for word in words:
        assert word in told


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^there is no file .*ce\.toml$"):
        load("ce", tmp_path)
    (tmp_path / "ce.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"^.*ce\.toml: .*utf-8[^\n]*$"):
        load("ce", tmp_path)
    (tmp_path / "mixup.toml").mkdir()
    with pytest.raises(InputError, match=r"^.*mixup\.toml: [^\n]*$"):
        load("mixup", tmp_path)
    with pytest.raises(InputError, match="unknown method 'dividmix'; did you mean 'dividemix'"):
        load("dividmix")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[default]\nlrate = 1", ["'lrate'", "lr", "weight_decay"]),
        ("[defualt]\nlr = 1", ["'defualt'", "did you mean 'default'", "network", "dataset"]),
        ('[default]\nlr = "x"', ["lr", "float", "'x'"]),
        ("[default]\nlr = 0", ["lr=0", "above 0"]),
        ('[default]\nschedule = "linear"\nmilestones = []', ["'linear'", "milestone"]),
        ("[default]\nnesterov = true\nmomentum = 0", ["nesterov", "momentum"]),
        ("default = 3", ["[default]", "tables"]),
        ("[network]\nmlp = 3", ["[network.NAME]", "tables"]),
        ("dataset = 3", ["[dataset.NAME]", "tables"]),
    ],
)
def test_a_mistake_in_the_shared_recipes(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "recipes.toml").write_text(text)
    with pytest.raises(InputError) as e:
        recipe_for("shared", "ce", "digits", "mlp", tmp_path)
    assert "\n" not in str(e.value)
    for word in ["recipes.toml", *words]:
        assert word in str(e.value)


def test_recipes_later_tables_win(tmp_path: Path) -> None:
    (tmp_path / "recipes.toml").write_text(
        "[default]\nlr = 0.1\nbatch_size = 8\n[network.mlp]\nlr = 0.2\nmomentum = 0.5\n[dataset.digits]\nmomentum = 0.25\n"
    )
    told = [
        recipe_for("shared", "ce", d, n, tmp_path) for d, n in (("digits", "mlp"), ("digits", "cnn9"), ("mnist", "mlp"))
    ]
    assert [(r.lr, r.momentum, r.batch_size) for r in told] == [(0.2, 0.25, 8), (0.1, 0.25, 8), (0.2, 0.5, 8)]


def test_the_papers_recipe(tmp_path: Path) -> None:
    (tmp_path / "ce.toml").write_text('[recipe]\noptimizer = "adam"\nlr = 1\nepochs = 9\nnetwork = "cnn9"\n')
    assert recipe_for("paper", "ce", "digits", "mlp", tmp_path) == Recipe(optimizer="adam", lr=1.0)


def test_the_papers_recipe_on_a_data_set(tmp_path: Path) -> None:
    """Of the family of the data set, whatever its options; laid over the general one."""
    (tmp_path / "ce.toml").write_text('[recipe]\nlr = 1\nmomentum = 0.5\n[recipe.cifar100]\nlr = 2\nsource = "there"\n')
    told = ("cifar100", "cifar100n", "cifar100?pad=0", "smoke:cifar100", "cifar10")
    rates = [recipe_for(kind, "ce", d, "mlp", tmp_path) for d in told for kind in ("paper", "ce")]
    assert [(r.lr, r.momentum) for r in rates] == [(2, 0.5)] * 8 + [(1, 0.5)] * 2


def test_a_row_may_hold_for_several_kinds_of_noise(tmp_path: Path) -> None:
    (tmp_path / "ce.toml").write_text(
        ROW.replace('"symmetric"', '["pair", "asym_block5"]').replace("0.5", "[0.1, 0.2]")
    )
    rows = [(p.noise, p.rate) for p in load("ce", tmp_path).papers]
    assert rows == [("pair", 0.1), ("pair", 0.2), ("asym_block5", 0.1), ("asym_block5", 0.2)]


# -- the spaces that are shipped


@every_method
def test_shipped_space(method: str) -> None:
    space = load(method)
    names = [d.name for d in space.dimensions]
    assert set(names) <= {*hyperparameters(method), *RECIPE_FIELDS}
    for row in space.papers:
        point = space.complete(row.point)
        assert set(names) <= point.keys()
        assert 0 <= space.settled(point) <= 1
        assert row.source
        assert set(row.oracle) <= row.point.keys()
    for d in space.dimensions:  # trial 0 of a cell without a published row
        d.check(space.complete({})[d.name], method)
    for kind in ("shared", "paper"):
        recipe_for(kind, method, "digits", "mlp")
    for file in FOLDER.glob("*.toml"):
        assert file.stem in {*METHODS, "recipes"}


@every_method
def test_published_rates_fall_at_whole_epochs(method: str) -> None:
    """0.6667 of 150 epochs is a hair after the 100th: the rate would fall in the 101st. Rounded down it falls where it was published."""
    space = load(method)
    for name in ("", *space.recipes):
        told = space.recipe | space.recipes.get(name, {})
        if told.get("schedule") != "step" or "epochs" not in told:
            continue
        epochs = told["epochs"]
        recipe = Recipe(lr=1.0, schedule="step", milestones=tuple(told["milestones"]), gamma=0.5)
        rates = [recipe.rate(e, epochs) for e in range(epochs)]
        falls = [e for e in range(1, epochs) if rates[e] < rates[e - 1]]
        assert falls == [round(m * epochs) for m in told["milestones"]], name


def asked(space: Space, params: dict[str, Any], flat: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The point that Optuna's parameters stand for, and the parameters that Optuna then holds."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(params)
    trial = study.ask()
    return space.suggest(trial, flat), trial.params


@every_form
@every_method
def test_params_is_the_inverse_of_suggest(method: str, flat: bool) -> None:
    space = load(method)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    names = {d.name for d in space.dimensions}
    points = [{k: v for k, v in space.complete(row.point).items() if k in names} for row in space.papers]
    for _ in range(20):
        trial = study.ask()
        point = space.suggest(trial, flat)
        checked(method, point, "here")
        for d in space.dimensions:
            d.check(point[d.name], "here")
        points.append(point)
        if not flat:  # in the flat form an unused interval holds a value that no point tells
            assert space.params(point, flat) == trial.params
    for d in space.dimensions:
        if d.or_zero:
            points += [
                points[-1] | {d.name: type(points[-1][d.name])(0)},
                points[-1] | {d.name: d.low},
                points[-1] | {d.name: d.high},
            ]
    for point in points:
        params = space.params(point, flat)
        assert asked(space, params, flat) == (point, params)
        assert params.keys() == {
            name
            for d in space.dimensions
            for name in [
                *([d.switch] if d.or_zero else []),
                *([d.name] if flat or not d.or_zero or point[d.name] else []),
            ]
        }


@every_form
@pytest.mark.parametrize(("log", "low", "middle"), [(True, 2, 6), (False, 2, 10)])
def test_or_zero_of_whole_numbers(flat: bool, log: bool, low: int, middle: int) -> None:
    d = Dimension("loss_history", low, 18, log=log, or_zero=True, integer=True)
    space = Space("dividemix", (d,), (), {})
    want = {"loss_history>0": False} | ({"loss_history": middle} if flat else {})  # sqrt(2 * 18) = 6, (2 + 18) / 2 = 10
    assert d.params(0, flat) == want
    for value in (0, 2, 7, 18):
        point, _ = asked(space, d.params(value, flat), flat)
        assert point == {"loss_history": value}
        assert type(point["loss_history"]) is int


def test_ranges_for_people() -> None:
    assert Dimension("a", 5, 300, log=True, or_zero=True).describe() == "0 or 5 to 300 (log)"
    assert Dimension("a", 0.2, 0.9).describe() == "0.2 to 0.9"
    assert Dimension("a", choices=(1, 5)).describe() == "{1, 5}"


def test_check_of_a_value() -> None:
    Dimension("a", 1, 2, or_zero=True).check(0, "f")
    with pytest.raises(InputError, match=r"^f: a=0.5 lies outside \[1, 2\] and is not 0$"):
        Dimension("a", 1, 2, or_zero=True).check(0.5, "f")
    with pytest.raises(InputError, match=r"^f: a=0 lies outside \[1, 2\]$"):
        Dimension("a", 1, 2).check(0, "f")


# -- published points


def published(*rows: tuple[str, str, float]) -> Space:
    papers = [
        Paper(d, n, r, {"lambda_u": float(i)}, f"row {i}", oracle=("lambda_u",) * (i == 1))
        for i, (d, n, r) in enumerate(rows)
    ]
    return Space("dividemix", (Dimension("lambda_u", 0, 99), Dimension("alpha", 1, 9)), tuple(papers), {})


@pytest.mark.parametrize(
    ("dataset", "noise", "row"),
    [
        ("cifar10", Noise("symmetric", 0.5), 1),
        ("cifar10", Noise("symmetric", 0.3), 0),  # nearest rate
        ("cifar10", Noise("symmetric", 0.35), 0),  # as far from 0.2 as from 0.5: the first listed
        ("cifar10", Noise("symmetric", 0.36), 1),
        ("cifar10", Noise("pair", 0.9), 2),  # the kind before the rate
        ("cifar100", Noise("pair", 0.45), 3),  # the data set before kind and rate
        ("digits", Noise("pair", 0.2), 2),  # no row of this data set: kind, then rate
        ("digits", Noise("symmetric", 0.79), 3),
    ],
)
def test_the_nearest_published_point(dataset: str, noise: Noise, row: int) -> None:
    space = published(
        ("cifar10", "symmetric", 0.2),
        ("cifar10", "symmetric", 0.5),
        ("cifar10", "pair", 0.45),
        ("cifar100", "symmetric", 0.8),
    )
    point, oracle, source = space.paper(dataset, noise)
    assert point == {"lambda_u": float(row), "alpha": hyperparameters("dividemix")["alpha"].default}
    assert source == f"row {row}"
    assert oracle == (("lambda_u",) if row == 1 else ())


UNTOLD = "; labels as they came: the row "


@pytest.mark.parametrize(
    ("rows", "row", "oracle", "source"),
    [
        # Not the row of clean labels, nor the nearest to it; what row 1 read off a truth was not read off this data's.
        (
            [("symmetric", 0.0), ("symmetric", 0.4), ("pair", 0.6)],
            1,
            (),
            f"row 1{UNTOLD}nearest 30% of symmetric noise at 0.4",
        ),
        (
            [("symmetric", 0.2), ("symmetric", 0.4)],
            0,
            (),
            f"row 0{UNTOLD}nearest 30% of symmetric noise at 0.2",
        ),  # as far: the first listed
        ([("symmetric", 0.3), ("human", 0.1), ("human", 0.4)], 1, (), f"row 1{UNTOLD}of human noise at 0.1"),
    ],
)
def test_labels_as_they_came_have_no_rate_to_be_nearest_to(
    rows: list[tuple[str, float]], row: int, oracle: tuple[str, ...], source: str
) -> None:
    space = published(*(("cifar10", *told) for told in rows))
    for dataset in ("cifar10", "npz:mine.npz"):
        point, *told = space.paper(dataset, Noise("given", 0.0))
        assert point["lambda_u"] == row
        assert told == [oracle, source]


def test_rows_of_labels_as_they_came_are_those_of_their_own_data_set() -> None:
    """Clothing1M's points are of a few epochs on weights of ImageNet; another data set's labels have no more in common with them."""
    rows = published(("clothing1m", "symmetric", 0.3), ("clothing1m", "given", 0.0), ("cifar10", "human", 0.4))
    assert rows.paper("clothing1m", Noise("given", 0.0)) == (rows.complete({"lambda_u": 1}), ("lambda_u",), "row 1")
    for noise in (Noise("given", 0.0), Noise("given", 0.2)):  # as they came, and diluted
        assert rows.paper("npz:mine.npz", noise)[0]["lambda_u"] == 2
    assert load("sop").paper("npz:mine.npz", Noise("given", 0.0)) == (
        load("sop").complete({"lr_u": 10.0, "lr_v": 10.0}),
        (),
        "shengliu66/SOP, issue 12: the setting of CIFAR-10; labels as they came: the row of human noise at 0.0901",
    )


def test_of_one_data_set_and_kind_the_row_of_the_variant_is_nearer_at_the_same_rate() -> None:
    pes = load("pes")
    assert [pes.paper("cifar10", Noise("symmetric", 0.5, v))[0]["semi"] for v in ("inclusive", "exclusive")] == [
        True,
        False,
    ]
    assert pes.paper("cifar10", Noise("symmetric", 0.8, "exclusive"))[0]["semi"]  # the rate comes first
    assert pes.paper("digits", Noise("symmetric", 0.5, "exclusive"))[0]["semi"]


def test_labels_as_they_came_never_have_a_point_of_clean_labels() -> None:
    """mixup lists alpha 1 for clean CIFAR-10, and 8 for 20 and 40 %; diluted labels have a rate, which somebody told."""
    mixup = load("mixup")
    assert mixup.paper("npz:mine.npz", Noise("given", 0.0))[0]["alpha"] == 8
    assert (
        mixup.paper("npz:mine.npz", Noise("given", 0.02))[::2]
        == mixup.paper("npz:mine.npz", Noise("human", 0.02, "worse"))[::2]
    )


def test_without_a_row_the_defaults() -> None:
    point, oracle, source = published().paper("digits", Noise("pair", 0.2))
    defaults = {k: p.default for k, p in hyperparameters("dividemix").items()}
    assert point == {"lambda_u": defaults["lambda_u"], "alpha": defaults["alpha"]}
    assert (oracle, source) == ((), "the method's defaults")


def test_complete_adds_defaults_and_keeps_the_rest() -> None:
    space = Space("dividemix", (Dimension("alpha", 1, 9), Dimension("lr", 0.1, 1)), (), {})
    alpha = hyperparameters("dividemix")["alpha"].default
    assert space.complete({}) == {"alpha": alpha, "lr": Recipe().lr}
    assert space.complete({"lr": 0.5, "temperature": 0.3}) == {"alpha": alpha, "lr": 0.5, "temperature": 0.3}


def test_shipped_points() -> None:
    """What the papers say: DivideMix's lambda_u at three rates, and Co-teaching's forget rate, which is the truth."""
    dividemix, coteaching = load("dividemix"), load("coteaching")
    assert [dividemix.paper("cifar10", Noise("symmetric", r))[0]["lambda_u"] for r in (0.2, 0.5, 0.8)] == [0, 25, 25]
    point, oracle, _ = coteaching.paper("digits", Noise("pair", 0.45))
    assert point["forget_rate"] == 0.45
    assert oracle == ("forget_rate",)


# -- --set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lambda_u=50", 50.0),
        ("lambda_u = 1e2", 100.0),
        ("loss_history=5", 5),
        ("guess=eval", "eval"),
        ('guess="eval"', "eval"),
        ("nesterov=true", True),
        ("batch_size=32", 32),
        ("milestones=[0.5, 0.75]", [0.5, 0.75]),
        ("optimizer=adam", "adam"),
    ],
)
def test_a_setting(text: str, value: Any) -> None:
    ((name, told),) = parse_setting("dividemix", text).items()
    assert name == text.partition("=")[0].strip()
    assert told == value
    assert type(told) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lambda_u", ["name=value", "'lambda_u'"]),
        ("=5", ["name=value", "'=5'"]),
        ("", ["name=value"]),
        ("lamda_u=5", ["'lamda_u'", "did you mean 'lambda_u'", "alpha", "batch_size"]),
        ("task=5", ["'task'", "lambda_u"]),
        ("lambda_u=", ["lambda_u", "float", "''"]),
        ("lambda_u=high", ["lambda_u", "float", "'high'"]),
        ("lambda_u=true", ["lambda_u", "float", "True"]),
        ("lambda_u=[1]", ["lambda_u", "float", "[1]"]),
        ("lambda_u=nan", ["lambda_u", "finite", "nan"]),
        ("lambda_u=-inf", ["lambda_u", "finite", "-inf"]),
        ("loss_history=true", ["loss_history", "int", "True"]),
        ("loss_history=1.5", ["loss_history", "int", "1.5"]),
        ("nesterov=1", ["nesterov", "bool", "1"]),
        ("guess=trian", ["guess", "'trian'", "did you mean 'train'", "eval"]),
        ("lr=0", ["lr=0", "above 0"]),
        ("optimizer=sdg", ["'sdg'", "did you mean 'sgd'", "adam"]),
        ("milestones=[2]", ["milestones=[2]", "[0, 1)"]),
        ("milestones=['a']", ["milestones=['a']", "[0, 1)"]),
        ("batch_size=1", ["batch_size=1", "at least 2"]),
    ],
)
def test_a_mistaken_setting(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as e:
        parse_setting("dividemix", text)
    assert "\n" not in str(e.value)
    for word in ["--set", *words]:
        assert word in str(e.value)


def test_split() -> None:
    assert split("dividemix", {"lr": 0.1, "alpha": 4.0}) == ({"alpha": 4.0}, {"lr": 0.1})
