"""A filter before methods: how it is written, what it leaves of a cell's data, that it is measured, and that nothing else changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raystudy.data.noise import Noise
from raystudy.design.compose import of_methods
from raystudy.design.request import requested
from raystudy.design.single import single
from raystudy.design.study import Study
from raystudy.design.studyfile import load
from raystudy.errors import InputError
from raystudy.learn import celldata, filtering
from raystudy.learn.metrics import Truth
from raystudy.learn.metrics import filtering as measured
from raystudy.learn.training import Run
from raystudy.tools.clean.examine import examine

NOISE = Noise("symmetric", 0.3)
VOTE = "simifeat:detector=vote"


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three far clusters of 60 vectors, of very unlike scales by feature."""
    rng = np.random.default_rng(0)
    y = np.arange(180) % 3
    x = (10 * np.eye(3)[y] + 0.3 * rng.standard_normal((180, 3))) * [1, 100, 0.01]
    file = tmp_path_factory.mktemp("clusters") / "c.npz"
    np.savez(file, x_train=x[:150].astype("f"), y_train=y[:150], x_test=x[150:].astype("f"), y_test=y[150:])
    return f"npz:{file}"


# -- how it is written


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("none", ""),
        ("simifeat", "simifeat"),
        ("simifeat:k=10,detector=rank", "simifeat"),
        (
            "knn_relabel:threshold=0.70,k=5,mode=relabel,itself=no",
            "knn_relabel:k=5,itself=no,mode=relabel,threshold=0.7",
        ),
    ],
)
def test_one_text_for_what_means_the_same(text: str, kept: str) -> None:
    assert filtering.canonical(text) == kept
    assert filtering.canonical(kept) == kept


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("simifaet", "did you mean 'simifeat'"),
        ("simifeat:kk=3", "choose from: detector, k, offset, rounds, steps"),
        ("simifeat:k", "k is given no value"),
        ("simifeat:k=3,k=4", "k is given twice"),
        ("simifeat:k=1", "it must be from 2"),
        ("simifeat:k=2.5", "a whole number"),
        ("knn_relabel:threshold=nan", "from 0 to 1"),
        ("knn_relabel:itself=maybe", "yes or no"),
        ("knn_relabel:metric=cos", "choose from: cosine, euclidean"),
        ("knn_relabel:mode=weight", "methods take no weights"),
    ],
)
def test_mistakes_are_one_line(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        filtering.canonical(text)


def test_pixels_of_colour_images_are_refused_and_embed_is_named() -> None:
    with pytest.raises(InputError, match=r"raystudy embed cifar10 .* --out cifar10\.npz"):
        filtering.suits("simifeat", "cifar10", (3, 32, 32))
    with pytest.raises(
        InputError, match=r"embed 'hf:birds\?clean=gold&drop=id' .* --out birds\.npz"
    ):  # as a shell takes it
        filtering.suits("simifeat", "hf:birds?clean=gold&drop=id", (3, 32, 32))
    with pytest.raises(
        InputError, match=r"embed npz:a/mine.npz .* --out mine-vectors\.npz"
    ):  # not over what it is made of
        filtering.suits("simifeat", "npz:a/mine.npz", (3, 32, 32))
    filtering.suits("simifeat", "digits", (1, 8, 8))


# -- what it leaves


def test_measured_by_hand() -> None:
    """Six labels, wrong: 0, 1. Removed: 0 and 2; relabelled: 1 (to the truth) and 3 (away from it)."""
    clean = torch.tensor([0, 0, 0, 1, 1, 1])
    given = torch.tensor([1, 1, 0, 1, 1, 1])
    now = torch.tensor([1, 0, 0, 0, 1, 1])
    keep = torch.tensor([False, True, False, True, True, True])
    weight = torch.tensor([0.1, 0.6, 0.5, 0.7, 0.8, 0.9])
    told = measured(weight, keep, given, now, Truth(clean, given != clean, clean[:0]))
    assert {k: float(v) for k, v in told.items()} == {
        "filter/removed": 2,
        "filter/relabelled": 2,
        "filter/precision": 0.5,  # of 0, 1, 2, 3 two were wrong
        "filter/recall": 1.0,
        "filter/auroc": 7 / 8,  # of 8 pairs one is the wrong way round: 1 above 2
        "filter/wrong": 0.25,  # 3 of 1, 3, 4, 5
    }
    assert set(measured(weight, keep, given, now, Truth(clean, given != clean, clean[:0], known=False))) == {
        "filter/removed",
        "filter/relabelled",
    }


def test_the_training_split_alone_is_filtered(clusters: str) -> None:
    before = celldata.prepare(clusters, Path("data"), NOISE, 0.1)
    wrong = before.truth.wrong
    dropped = filtering.prepare(clusters, Path("data"), NOISE, 0.1, filter="knn_relabel:k=15")
    assert dropped.filtered == {
        "filter/removed": int(wrong.sum()),
        "filter/relabelled": 0,
        "filter/precision": 1,
        "filter/recall": 1,
        "filter/auroc": 1,
        "filter/wrong": 0,
    }
    assert isinstance(before.x, torch.Tensor)
    assert isinstance(dropped.x, torch.Tensor)
    assert torch.equal(dropped.x, before.x[~wrong])
    assert torch.equal(dropped.y, before.y[~wrong])
    assert torch.equal(dropped.places, torch.cat([before.places[: len(wrong)][~wrong], before.places[len(wrong) :]]))
    assert not dropped.truth.wrong.any()
    mended = filtering.prepare(clusters, Path("data"), NOISE, 0.1, filter="knn_relabel:k=15,mode=relabel,threshold=0.4")
    assert torch.equal(mended.y, before.truth.clean)
    assert mended.filtered["filter/relabelled"] == int(wrong.sum())
    for after in (dropped, mended):
        assert after.y_val is before.y_val  # noisy as it was
        assert after.x_held is before.x_held
        assert after.effective_rate == before.effective_rate
    assert (
        filtering.prepare(clusters, Path("data"), NOISE, 0.1, filter="knn_relabel:k=15") is dropped
    )  # once, not per trial


def test_views_of_vectors_are_rounds() -> None:
    x = torch.randn(20, 3, 4)
    assert [v.shape for v in filtering.views(x)] == [(20, 4)] * 3
    torch.testing.assert_close(filtering.views(x)[1].std(0, correction=0), torch.ones(4))
    assert len(filtering.views(torch.randint(0, 255, (20, 1, 8, 8), dtype=torch.uint8))) == 1


@pytest.mark.parametrize("method", ["ce", "coteaching", "elr", "dividemix"])
def test_methods_train_on_what_is_left_and_resume_exactly(clusters: str, tmp_path: Path, method: str) -> None:
    data = filtering.prepare(clusters, Path("data"), NOISE, 0.1, filter=VOTE)
    spec = single(method, data, clusters, NOISE, "mlp", 3, val_fraction=0.1, filter=VOTE)
    through = Run(spec, data)
    first = through.epoch()
    through.save(tmp_path / "c.pt")
    records = [first, through.epoch(), through.epoch()]
    again = Run(spec, data)
    again.load(tmp_path / "c.pt")
    again.epoch()
    again.epoch()
    told = [{k: v for k, v in r.items() if k != "cost/seconds"} for r in records]
    assert [{k: v for k, v in r.items() if k != "cost/seconds"} for r in again.records] == told
    assert first["filter/removed"] == data.filtered["filter/removed"]
    assert not any(k.startswith("filter/") for r in told[1:] for k in r)  # said once


# -- keys and files


def test_keys_and_files_without_a_filter_are_what_they_were(clusters: str) -> None:
    data = celldata.prepare("digits", Path("data"), Noise("symmetric", 0.5), 0.1)
    spec = single("ce", data, "digits", Noise("symmetric", 0.5), "mlp", 90, val_fraction=0.1)
    assert spec.key == "34157ba85c5e7c42"  # as before there were filters
    assert replace(spec, filter="simifeat").key != spec.key
    assert replace(spec, filter="simifeat:k=5").key != replace(spec, filter="simifeat").key
    study = of_methods(["elr"], noise=["symmetric:0.2"])
    assert "filter" not in study.to_toml()
    assert "filter" not in study.cells()[0].to_dict()


def test_a_study_keeps_its_filter(tmp_path: Path) -> None:
    study = of_methods(["elr"], noise=["symmetric:0.2"], filter="simifeat:k=10")
    assert study.filter == "simifeat"
    (tmp_path / "study.toml").write_text(study.to_toml(), encoding="utf-8")
    assert Study.from_toml(tmp_path / "study.toml") == study
    assert {study.filter_of(c) for c in study.cells()} == {"simifeat"}
    with pytest.raises(InputError, match="was begun with filter=''"):
        study.grown_from(replace(study, filter=""))
    with pytest.raises(InputError, match="--filter cannot be given with --study"):
        requested(file="quick", filter="simifeat")


def test_blocks_with_and_without(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    head = 'methods = ["ce"]\ndatasets = ["digits"]\nnoise = ["symmetric:0.5"]\n'
    for text, told in (
        (f'{head}[[grid]]\n[[grid]]\nfilter = "simifeat"\n', ["", "simifeat"]),
        (f'{head}filter = "simifeat"\n[[grid]]\n[[grid]]\nfilter = "none"\n', ["simifeat", ""]),
    ):
        file.write_text(text, encoding="utf-8")
        study = load(str(file), Path("data"))
        assert [study.filter_of(c) for c in study.cells()] == told
        assert len({c.key for c in study.cells()}) == len({c.condition for c in study.cells()}) == 2
        (tmp_path / "study.toml").write_text(study.to_toml(), encoding="utf-8")
        assert Study.from_toml(tmp_path / "study.toml") == study
    file.write_text(f'{head}filter = "simifaet"\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"s\.toml: unknown filter 'simifaet'; did you mean 'simifeat'"):
        load(str(file), Path("data"))


# -- clean


@pytest.mark.parametrize("method", [VOTE, "knn_relabel:k=15", "knn_relabel:k=15,mode=relabel,threshold=0.4"])
def test_clean_by_a_filter_alone(clusters: str, method: str) -> None:
    found = examine(clusters, "symmetric:0.3", method=method, neighbours=10)
    told, wrong = found.judged, found.truth != found.judged.given
    assert (told.issue == wrong).mean() > 0.97
    assert np.array_equal(told.kept, ~told.issue | told.sure)
    found_wrong = told.issue & wrong
    assert np.array_equal(told.suggested[found_wrong], found.truth[found_wrong])
    assert told.sure.any() == ("mode=relabel" in method)  # what a filter removes is no sure suggestion
    assert found.methods == method
