"""Published points and recipes: what the sources say, number by number, and that all space files hold together."""

import sys
from typing import Any

import pytest

from raystudy.data.corruption import BUILDERS
from raystudy.data.datasets import DATASETS
from raystudy.data.noise import CLASS_MAP_OF, NOISES, Noise, parse
from raystudy.data.spec import family
from raystudy.design.space import BESIDE, FOLDER, Paper, load, recipe_for
from raystudy.learn.methods import METHODS
from raystudy.learn.recipe import Recipe

every_method = pytest.mark.parametrize("method", sorted(METHODS))
ELSEWHERE = {
    "news": 7,
    "tiny_imagenet": 200,
    "cub200": 200,
    "animal10n": 10,
    "food101n": 101,
}  # classes of data sets that only papers have
CAME = {
    **{("web", d): ("red", "blue") for d in ("cnwl_mini_imagenet", "cnwl_stanford_cars")},
    ("human", "cifar10"): ("aggre", "worse", "random1", "random2", "random3"),
    ("human", "cifar100"): ("noisy",),
}  # sets of labels that came with a data set


def published(method: str, dataset: str, noise: str) -> dict[str, Any]:
    """The point that trial 0 of a cell has."""
    return load(method).paper(dataset, parse(noise)[0])[0]


def drops(recipe: Recipe, epochs: int) -> list[int]:
    """The epochs, from 0, in which the rate is another than in the one before."""
    rates = [recipe.rate(t, epochs) for t in range(epochs)]
    return [t for t in range(1, epochs) if rates[t] != rates[t - 1]]


# -- numbers of the sources


@pytest.mark.parametrize(
    ("method", "dataset", "settings"),
    [
        # HanxunH/Active-Passive-Losses, configs/*
        *[(m, "cifar10", (0.01, 1e-4, False, "cosine", 128)) for m in ("apl", "sce", "mae")],
        *[(m, "cifar100", (0.1, 1e-5, False, "cosine", 128)) for m in ("apl", "sce", "mae")],
        *[(m, "mnist", (0.01, 1e-2, True, "cosine", 128)) for m in ("apl", "sce", "mae")],
        *[(m, "webvision_mini", (0.4, 3e-5, True, "step", 512)) for m in ("apl", "sce", "mae", "gce")],
        # AlanChou/Truncated-Loss README
        ("gce", "cifar10", (0.01, 1e-4, False, "step", 128)),
        # LiJunnan1992/DivideMix: Train_cifar.py, Train_clothing1M.py, Train_webvision.py
        ("dividemix", "cifar100", (0.02, 5e-4, False, "step", 64)),
        ("dividemix", "clothing1m", (0.002, 1e-3, False, "step", 32)),
        ("dividemix", "webvision_mini", (0.01, 5e-4, False, "step", 32)),
        # shengliu66/ELR, ELR_plus/config_*.json
        ("elr_plus", "cifar10", (0.02, 5e-4, False, "step", 128)),
        ("elr_plus", "clothing1m", (0.002, 1e-3, False, "step", 64)),
        ("elr_plus", "webvision_mini", (0.02, 5e-4, False, "step", 32)),
        # giorgiop/loss-correction: Keras l2(1e-4) and l2(1e-3), without a factor 1/2
        *[(m, "cifar10", (0.1, 2e-4, False, "step", 128)) for m in ("f_correction", "b_correction")],
        *[(m, "cifar100", (0.1, 2e-3, False, "step", 128)) for m in ("f_correction", "b_correction")],
        # LiJunnan1992/MLNT, AlexandrosPetropoulos/PENCIL
        ("meta_learning", "clothing1m", (8e-4, 1e-3, False, "constant", 32)),
        ("p_correction", "clothing1m", (0.06, 1e-3, False, "constant", 32)),
        # JackYFL/DISC algorithms/DISC.py; tmllab/PES PES_semi.py and PES_Clothing1M.py
        ("disc", "cifar100", (0.1, 1e-3, False, "step", 128)),
        ("disc", "clothing1m", (0.01, 5e-4, False, "step", 32)),
        ("disc", "webvision_mini", (0.1, 5e-4, False, "step", 32)),
        ("pes", "cifar100", (0.02, 5e-4, False, "cosine", 128)),
        ("pes", "clothing1m", (0.005, 1e-3, False, "step", 64)),
        # Liu et al. 2022, Table A.1
        ("sop", "clothing1m", (0.002, 5e-4, False, "step", 128)),
        ("sop_plus", "clothing1m", (0.002, 1e-3, False, "cosine", 128)),
    ],
)
def test_a_recipe_goes_by_data_set(method: str, dataset: str, settings: tuple[Any, ...]) -> None:
    r = recipe_for("paper", method, dataset, "cnn9")
    assert (r.lr, r.weight_decay, r.nesterov, r.schedule, r.batch_size) == settings


@pytest.mark.parametrize(
    ("method", "dataset", "epochs", "gamma", "at"),
    [
        *[("elr", "cifar10", 120, 0.01, [40, 80]), ("elr", "cifar100", 150, 0.01, [80, 120])],
        *[("gce", "cifar10", 120, 0.1, [40, 80]), ("gce", "cifar100", 150, 0.1, [80, 120])],
        ("meta_learning", "cifar10", 120, 0.1, [80]),
        *[
            (m, d, 100, 0.1, [50, 64, 77])  # google/mentornet: steps 19531, 25000, 30000 of 39000 at 390.6 an epoch
            for m in ("mentornet_pd", "mentornet_dd", "self_paced", "spade", "focal", "weight_decay")
            for d in ("cifar10", "cifar100")
        ],
        ("elr_plus", "cifar10", 200, 0.1, [150]),
        ("elr_plus", "cifar100", 250, 0.1, [200]),
        ("elr_plus", "clothing1m", 15, 0.1, [7]),
        ("elr_plus", "webvision_mini", 100, 0.1, [50]),
        ("dividemix", "cifar10", 300, 0.1, [150]),
        ("dividemix", "clothing1m", 80, 0.1, [40]),
        *[("f_correction", "cifar10", 160, 0.1, [80, 120]), ("f_correction", "cifar100", 190, 0.1, [120, 160])],
        *[("b_correction", "cifar10", 160, 0.1, [80, 120]), ("b_correction", "cifar100", 190, 0.1, [120, 160])],
        ("m_correction", "cifar10", 300, 0.1, [99, 249]),  # 100 and 250, counted from 1
        ("mixup", "cifar10", 200, 0.1, [100, 150]),
        ("mentormix", "cifar10", 512, 0.9, list(range(30, 512, 30))),
        ("sop", "cifar10", 120, 0.1, [40, 80]),
        ("sop", "cifar100", 150, 0.1, [40, 80]),
        ("volminnet", "cifar10", 80, 0.1, [30, 60]),
        *[("disc", d, 200, 0.1, [80, 160]) for d in ("cifar10", "cifar100")],
        *[("disc", "clothing1m", 100, 0.1, [50, 80]), ("disc", "webvision_mini", 100, 0.1, [60, 80])],
        ("pes", "clothing1m", 5, 0.1, [3, 4]),
        ("t_revision", "cifar10", 420, 0.1, [60, 100]),  # 40 and 80 of stage 2, which begins at 20, for CIFAR-100 at 15
        ("t_revision", "cifar100", 415, 0.1, [55, 95]),
        ("t_revision", "mnist", 320, 0.1, [60, 100]),
        ("apl", "webvision_mini", 250, pytest.approx(0.97**10, abs=1e-4), list(range(10, 250, 10))),
    ],
)
def test_milestones_fire_in_the_epochs_of_the_source(
    method: str, dataset: str, epochs: int, gamma: float, at: list[int]
) -> None:
    recipe = recipe_for("paper", method, dataset, "cnn9")
    assert load(method).recipe_on(dataset)["epochs"] == epochs
    assert drops(recipe, epochs) == at
    assert recipe.gamma == gamma


@pytest.mark.parametrize(
    ("dataset", "epochs"),
    [
        ("cifar10", 120),
        ("mnist", 50),
        ("cifar100", 200),
        ("webvision_mini", 250),
    ],  # HanxunH/Active-Passive-Losses, configs/*
)
def test_epochs_of_the_active_passive_losses(dataset: str, epochs: int) -> None:
    assert {load(m).recipe_on(dataset)["epochs"] for m in ("apl", "sce", "mae")} == {epochs}


@pytest.mark.parametrize("method", ["coteaching", "jocor", "bootstrap", "s_model", "coteaching_plus"])
def test_the_rate_falls_from_where_beta_1_does(method: str) -> None:
    """80 of 200 epochs, for CIFAR-100 100 (Co-teaching, JoCoR); Co-teaching+ 80 for every data set."""
    for dataset, start in (("mnist", 80), ("cifar10", 80), ("cifar100", 80 if method == "coteaching_plus" else 100)):
        falls = drops(recipe_for("paper", method, dataset, "cnn9"), 200)
        assert falls[0] == start  # counted from 1 it is full in epoch 80 and less in epoch 81
        if method in ("coteaching", "jocor", "coteaching_plus"):
            point = published(method, dataset, "symmetric:exclusive:0.2")
            assert point.get("decay_start", 0.4) * 200 == start


@pytest.mark.parametrize("kind", ["asym_block5", "asym_superclass"])
@pytest.mark.parametrize(
    ("method", "rate", "point"),
    [
        ("focal", 0.2, {"gamma": 0.5, "detach_weight": True}),
        ("dividemix", 0.2, {"lambda_u": 150.0, "confidence_penalty": 1.0, "warmup": 0.1}),
        ("jocor", 0.2, {"forget_rate": 0.1, "co_lambda": 0.85, "decay_start": 0.5}),
        ("jocor", 0.4, {"forget_rate": 0.2, "co_lambda": 0.85, "decay_start": 0.5}),
        ("apl", 0.4, {"active": "nce", "passive": "rce", "alpha": 10.0, "beta": 0.1}),
        ("sce", 0.4, {"alpha": 6.0, "beta": 0.1}),
        ("gce", 0.4, {"q": 0.7, "prune_start": 0.5333}),
        ("elr", 0.4, {"beta": 0.9, "lambda_elr": 7.0}),
        ("elr_plus", 0.4, {"beta": 0.9, "lambda_elr": 7.0, "sharpen_labels": True}),
        ("f_correction", 0.2, {"percentile": 100.0, "restart": True}),
        ("b_correction", 0.2, {"percentile": 100.0, "restart": True}),
    ],
)
def test_asymmetric_points_of_cifar100_are_met_by_kind(
    kind: str, method: str, rate: float, point: dict[str, Any]
) -> None:
    got = published(method, "cifar100", f"{kind}:{rate}")
    assert {k: got[k] for k in point} == point
    of_kind = [row for row in load(method).papers if (row.dataset, row.noise) == ("cifar100", kind)]
    assert min(abs(row.rate - rate) for row in of_kind) <= 0.2


@pytest.mark.parametrize(
    ("method", "dataset", "noise", "point"),
    [
        # xingruiyu/coteaching_plus loss.py: probabilities, and divided by their number once more
        *[
            ("coteaching_plus", d, n, {"loss_on_probs": True, "divide_twice": True})
            for d in ("mnist", "cifar10", "cifar100", "digits")
            for n in ("pair:0.45", "symmetric:exclusive:0.5")
        ],
        ("coteaching_plus", "cifar10", "asymmetric:0.4", {"forget_rate": 0.2, "warmup": 0.1}),
        ("coteaching", "cifar10", "asymmetric:0.4", {"forget_rate": 0.2}),
        # shengliu66/ELR: 40000 updates of 352 an epoch; ema_update false for the web data
        ("elr_plus", "cifar100", "symmetric:0.5", {"coef_ramp": 0.4545, "ema_ramp": 0.4545}),
        ("elr_plus", "clothing1m", "given", {"ema_decay": 0.9999, "ema_ramp": 0.0, "alpha": 1.0}),
        ("elr_plus", "webvision_mini", "given", {"ema_decay": 0.997, "ema_ramp": 0.0, "alpha": 1.5}),
        # HanxunH/Active-Passive-Losses, configs/mnist
        ("apl", "mnist", "symmetric:0.4", {"active": "nce", "passive": "rce", "alpha": 1.0, "beta": 10.0}),
        ("apl", "mnist", "asymmetric:0.4", {"active": "nce", "passive": "rce", "alpha": 1.0, "beta": 10.0}),
        ("sce", "mnist", "asymmetric:0.4", {"alpha": 0.01, "beta": 1.0}),
        ("focal", "mnist", "symmetric:0.4", {"gamma": 0.5}),
        # the 32 x 32 port of MentorMix: CIFAR-100's points, one weighting
        *[
            ("mentormix", "cnwl_mini_imagenet", f"web:red:{r}", {"alpha": a, "keep": k, "second_reweight": False})
            for r, a, k in ((0.2, 2.0, 0.7), (0.4, 8.0, 0.5), (0.6, 4.0, 0.3), (0.8, 8.0, 0.1))
        ],
        # shengliu66/SOP README and Table A.1; tmllab/PES; VolMinNet's init 2 and 4.5
        ("sop_plus", "cifar10", "symmetric:0.5", {"lr_u": 10.0, "lr_v": 10.0, "consistency": 0.9, "balance": 0.1}),
        ("sop_plus", "cifar10", "asymmetric:0.4", {"lr_u": 10.0, "lr_v": 100.0}),
        *[(m, "cifar100", "asym_block5:0.4", {"lr_u": 0.1, "lr_v": 100.0}) for m in ("sop", "sop_plus")],
        *[
            (m, d, n, {"lr_u": u, "lr_v": 10.0})
            for m in ("sop", "sop_plus")
            for d, u in (("npz:own.npz", 10.0), ("cifar10", 10.0), ("cifar100", 1.0))
            for n in ("given", "given:0.4", "instance:0.4")
        ],
        *[(m, "clothing1m", "given", {"lr_u": 0.1, "lr_v": 1.0, "lr_epochs": 0}) for m in ("sop", "sop_plus")],
        ("pes", "cifar10n", "human:worse", {"semi": True, "lambda_u": 5.0, "warmup": 0.06667}),
        ("pes", "cifar100n", "human:noisy", {"semi": True, "lambda_u": 75.0, "warmup": 0.11667}),
        ("volminnet", "cifar100", "symmetric:0.5", {"diagonal": 0.479, "t_optimizer": "adam"}),
        ("t_revision", "cifar100", "symmetric:0.5", {"percentile": 100.0, "slack": "paper"}),
        # Arazo et al. 2019, most likely, in DivideMix's Table 1
        ("mixup", "cifar100", "symmetric:0.2", {"alpha": 32.0}),
    ],
)
def test_a_published_point(method: str, dataset: str, noise: str, point: dict[str, Any]) -> None:
    got = published(method, dataset, noise)
    assert {k: got[k] for k in point} == point


def test_ramps_of_elr_plus_are_of_45000_images() -> None:
    updates = -(-45_000 // 128)
    assert updates == 352
    assert METHODS["elr_plus"].__init__.__kwdefaults__["ema_ramp"] == pytest.approx(40_000 / (200 * updates), abs=5e-4)
    point = published("elr_plus", "cifar100", "symmetric:0.5")
    assert point["ema_ramp"] == point["coef_ramp"] == pytest.approx(40_000 / (250 * updates), abs=1e-4)


def test_the_warm_up_of_the_corrections_is_40_epochs() -> None:
    for method in ("f_correction", "b_correction"):
        assert published(method, "cifar10", "symmetric:exclusive:0.2")["warmup"] * 160 == 40
        assert round(published(method, "cifar100", "symmetric:exclusive:0.2")["warmup"] * 190) == 40


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "cifar100"])
def test_all_four_active_passive_pairs_are_listed(dataset: str) -> None:
    """configs/*/{nce,nfl}+{rce,mae}.yaml: alpha and beta."""
    betas = {"mnist": (10.0, 10.0), "cifar10": (1.0, 1.0), "cifar100": (0.1, 1.0)}[dataset]
    rows = [row for row in load("apl").papers if (row.dataset, row.noise, row.rate) == (dataset, "symmetric", 0.4)]
    told = [{"active": "nce", "passive": "rce"} | row.point for row in rows]
    assert told[0] | {"active": "nce", "passive": "rce"} == told[0]  # trial 0
    assert {(p["active"], p["passive"], p["beta"]) for p in told} == {
        (active, passive, beta)
        for active in ("nce", "nfl")
        for passive, beta in zip(("rce", "mae"), betas, strict=True)
    }
    assert {p["alpha"] for p in told} == {10.0 if dataset == "cifar100" else 1.0}
    assert all(p["gamma"] == 0.5 for p in told if p["active"] == "nfl")


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_focal_has_the_rows_of_both_tables(dataset: str) -> None:
    rows = [row for row in load("focal").papers if (row.dataset, row.noise, row.rate) == (dataset, "symmetric", 0.4)]
    assert [row.point["gamma"] for row in rows] == [2.0, 0.5]  # MentorNet's Table 2, then Active-Passive-Losses


# -- all files together


def meets(row: Paper) -> str:
    """Why a row's noise cannot be drawn on its data set; nothing where it can."""
    told = [d for d in DATASETS if family(d) == row.dataset]
    if not told and row.dataset not in ELSEWHERE:
        return "no such data set"
    classes = DATASETS[told[0]].n_classes if told else ELSEWHERE[row.dataset]
    allowed = {kind for d in told for kind in DATASETS[d].noises}
    if allowed and row.noise not in allowed:
        return f"only {', '.join(sorted(allowed))} goes with it"
    kind, came = NOISES[row.noise], CAME.get((row.noise, row.dataset), ())
    if (row.noise in ("web", "human") and (not came or row.variant not in ("", *came))) or (
        row.noise == "given" and told and not allowed
    ):
        return "no such labels came with it"
    usual = CLASS_MAP_OF.get(row.dataset, "") if row.noise == "asymmetric" else came[0] if came else ""
    try:
        noise = Noise(row.noise, row.rate, row.variant or usual or "any" * bool(kind.free and kind.needs))
        if kind.matrix:
            kind.matrix(classes, noise.rate, noise.variant)
    except Exception as e:
        return str(e)
    return "" if row.noise in BUILDERS or kind.matrix or kind.needs else "nothing builds it"


@every_method
def test_every_row_has_noise_that_there_is_on_its_data_set(method: str) -> None:
    assert {
        f"{row.dataset} {row.noise}:{row.rate:g}: {why}" for row in load(method).papers if (why := meets(row))
    } == set()


def test_a_row_that_does_not_is_found() -> None:
    def row(dataset: str, noise: str, variant: str = "", rate: float = 0.4) -> Paper:
        return Paper(dataset, noise, rate, {}, "here", variant)

    assert "needs a class map" in meets(row("cifar100", "asymmetric"))
    assert "maps 10 classes" in meets(row("cifar100", "asymmetric", "cifar10"))
    assert "100 classes" in meets(row("cifar10", "asym_superclass"))
    assert meets(row("cifar11", "symmetric")) == "no such data set"
    assert meets(row("cifar10", "web", "red")) == "no such labels came with it"
    assert "only given" in meets(row("clothing1m", "symmetric"))
    assert meets(row("cifar10", "given", rate=0.0)) == meets(row("mnist", "human")) == "no such labels came with it"
    assert meets(row("cifar10", "human", "noisy")) == meets(row("cifar100", "human", "worse")) != ""
    assert meets(row("cnwl_mini_imagenet", "web", "green")) == "no such labels came with it"
    assert "has no level 0.45" in meets(row("cnwl_mini_imagenet", "web", "red", 0.45))
    assert "'pdn'" in meets(row("cifar10", "instance", "pnd"))
    good = [row("cifar10", "human"), row("cifar100", "human", "noisy"), row("clothing1m", "given", rate=0.0)]
    assert [meets(r) for r in (*good, row("cifar10", "matrix"), row("cnwl_stanford_cars", "web", "blue"))] == [""] * 5


@every_method
def test_every_recipe_of_a_data_set_is_reached(method: str) -> None:
    space = load(method)
    for name, own in space.recipes.items():
        reached = [d for d in DATASETS if family(d) == name]
        assert reached, f"[recipe.{name}] of {method}.toml: no data set is filed under that name"
        assert own != {k: space.recipe.get(k) for k in own}, f"[recipe.{name}] of {method}.toml says nothing new"
        for dataset in reached:
            told = {k: v for k, v in (space.recipe | own).items() if k not in BESIDE}
            for kind, of in (("paper", method), (method, "ce")):
                assert recipe_for(kind, of, dataset, "cnn9") == Recipe(**told)


@every_method
def test_it_is_said_whose_recipe_it_is(method: str) -> None:
    space = load(method)
    assert {"source", "epochs", "network"} <= space.recipe.keys()
    assert len(space.recipe["source"]) > 8


@pytest.mark.parametrize(
    ("method", "dataset", "file"),
    [
        ("dividemix", "cifar100", "Train_cifar.py"),
        ("dividemix", "clothing1m", "Train_clothing1M.py"),
        ("dividemix", "webvision_mini", "Train_webvision.py"),
        ("unicon", "clothing1m", "Clothing1M"),
        ("unicon", "webvision_mini", "WebVision"),
        ("ssr", "clothing1m", "main_clothing1m.py"),
        ("ssr", "webvision_mini", "main_webvision.py"),
        ("meta_learning", "clothing1m", "LiJunnan1992/MLNT"),
        ("p_correction", "cifar100", "yikun2019/PENCIL"),
        ("p_correction", "clothing1m", "AlexandrosPetropoulos/PENCIL"),
        *[(m, "cifar100", "ResNet-44") for m in ("f_correction", "b_correction")],
        *[(m, "cifar10", "not Wang et al." if m == "sce" else "not Ghosh et al.") for m in ("sce", "mae")],
        ("bootstrap", "cifar10", "not Reed et al."),
        ("label_smoothing", "cifar10", "not Szegedy et al."),
    ],
)
def test_a_recipe_names_its_own_source_where_that_is_another(method: str, dataset: str, file: str) -> None:
    assert file in load(method).recipe_on(dataset)["source"]


@pytest.mark.parametrize(
    ("method", "facts"),
    [
        ("coteaching", ["not normalised, and not augmented", "after 401 of its 468 batches", "reports each net alone"]),
        ("coteaching_plus", ["not normalised, and not augmented", "It reports each net alone"]),
        ("jocor", ["without normalising them"]),
        ("incv", ["not normalised", "nearest pixel", "scores each net alone"]),
        ("apl", ["rotated by up to 20 degrees"]),
        *[(m, ["convolutions and dense layers only"]) for m in ("mentornet_pd", "mentornet_dd", "self_paced")],
        ("mentornet_pd", ["mean square of 0.007 to 0.039"]),
        ("mentornet_dd", ["starts from TensorFlow's defaults"]),
        ("gce", ["nothing is learned in them"]),
        ("m_correction", ["original has 32 whatever its flag says"]),
        ("p_correction", ["stays clean", "clean_val"]),
        ("f_correction", ["Keras' l2 has no factor 1/2", "kernels of convolutions and dense layers only"]),
        ("elr_plus", ["Published numbers on synthetic noise are inflated", "53.8 to 66.9", "85.8 to 89.0"]),
        ("sce", ["0.01, a tenth after 40 and 80 of 120", "ResNet-44", "l2 1e-2", "0.4 of the nominal"]),
    ],
)
def test_what_the_originals_did_otherwise_stands_in_the_cards(method: str, facts: list[str]) -> None:
    card = " ".join((sys.modules[METHODS[method].__module__].__doc__ or "").split())
    assert [fact for fact in facts if fact not in card] == []


@pytest.mark.parametrize(
    ("study", "facts"),
    [
        ("coteaching-tables4-6", ["of each net alone", "after 401 of 468", "not normalised", "no code was published"]),
        (
            "dividemix-table1",
            ["92.3 / 77.6 / 46.7", "93.6 / 87.3 / 69.1", "Arazo et al. 2019", "clean validation images"],
        ),
    ],
)
def test_and_in_the_headers_of_the_studies(study: str, facts: list[str]) -> None:
    head = " ".join((FOLDER / "studies" / f"{study}.toml").read_text(encoding="utf-8").replace("\n#", "").split())
    assert [fact for fact in facts if fact not in head] == []
