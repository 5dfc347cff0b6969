"""Imbalance: counts by hand, which samples stay, what follows them, what is refused, and where it is told."""

from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torchvision.io import write_png

from analysis import load, names, tables
from analysis.select import cell_summary
from raystudy import interface as rs
from raystudy.data import datasets
from raystudy.data.corruption import corrupted
from raystudy.data.files import Files
from raystudy.data.imbalance import kept, profile
from raystudy.data.noise import Noise, parse
from raystudy.data.spec import located
from raystudy.design.single import single
from raystudy.errors import InputError
from raystudy.learn.celldata import prepare
from raystudy.learn.metrics import balanced
from raystudy.learn.training import Run
from raystudy.tools import export
from tests import recorded
from tests.asking import requested


def sizes(data: datasets.Dataset) -> list[int]:
    return torch.bincount(data.y_train, minlength=data.n_classes).tolist()


# --- how many, and which ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "counts"),
    [
        ("exp:100", [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),  # CIFAR-10-LT of Cao et al. 2019
        ("exp:1", [5000] * 10),
        ("step:100", [5000] * 5 + [50] * 5),
    ],
)
def test_profiles_are_the_published_ones(asked, counts):
    assert profile(asked, 5000, 10) == counts


def test_two_and_three_classes():
    assert profile("exp:4", 100, 2) == [100, 25]
    assert profile("exp:4", 100, 3) == [100, 50, 25]
    assert profile("step:4", 100, 3) == [100, 25, 25]
    assert profile("exp:49", 49, 2) == [49, 1]  # 49 / 49 in floats is a hair below one


def test_larger_ratios_keep_some_of_what_smaller_ones_keep():
    y = np.arange(3000) % 3
    few, some, all_ = (set(kept(y, 3, f"exp:{r}").tolist()) for r in (100, 10, 1))
    assert few < some < all_ == set(range(3000))
    assert np.bincount(y[sorted(few)]).tolist() == [1000, 100, 10]


def test_a_class_with_fewer_than_its_share_keeps_all_and_foreign_samples_stay():
    y = np.array([0] * 100 + [1] * 30 + [2] * 60 + [-1] * 5)
    stay = kept(y, 3, "exp:4")
    assert [int((y[stay] == c).sum()) for c in (0, 1, 2, -1)] == [100, 30, 25, 5]
    assert (np.diff(stay) > 0).all()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pear:10", "unknown kind of imbalance 'pear'; choose from: exp:R, step:R"),
        ("exp", "ratio must be a number from 1"),
        ("exp:0.5", "ratio must be a number from 1"),
        ("step:-3", "ratio must be a number from 1"),
        ("exp:nan", "ratio must be a number from 1"),
        ("exp:1e9", "ratio must be a number from 1"),
        ("exp:500", "class 8 of 10 would keep none of its 131 training samples"),
    ],
)
def test_what_cannot_be_is_one_line(text, why):
    with pytest.raises(InputError) as caught:
        datasets.load(f"digits?imbalance={text}")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


# --- data sets ----------------------------------------------------------------------------------------------------


def test_the_training_set_shrinks_and_the_test_set_stays():
    whole, data = datasets.load("digits"), datasets.load("digits?imbalance=exp:10")
    n = max(sizes(whole))  # not of the first class, which keeps all it has
    assert sizes(data) == [min(own, int(n * 10 ** (-c / 9) + 1e-6)) for c, own in enumerate(sizes(whole))]
    assert torch.equal(data.y_test, whole.y_test)
    assert torch.equal(data.x_test, whole.x_test)
    assert (data.mean, data.std) == (whole.mean, whole.std)
    assert data.notes[-1].startswith(
        f"imbalance exp:10: {len(data.y_train)} of 1,347 training images stay, from {sizes(data)[0]} of"
    )
    keys = {datasets.load(f"digits{text}").digest for text in ("", "?imbalance=exp:10", "?imbalance=exp:20", "?pad=2")}
    assert len(keys) == 4


def test_noisy_labels_and_views_follow_their_samples(tmp_path):
    y = np.arange(300) % 3
    x = np.stack([np.arange(300), y], 1).astype(np.float32)
    views = np.stack([x, x + 0.5], 1)
    told = {"x_train": views, "y_train": y, "y_noisy": (np.arange(300) // 3) % 3, "kind": np.array("vectors")}
    np.savez(tmp_path / "a.npz", **told, x_test=x[:9], y_test=y[:9])
    data = datasets.load(f"npz:{tmp_path / 'a.npz'}?imbalance=exp:4")
    assert sizes(data) == [100, 50, 25]
    place = data.x_train[:, 0, 0].long()
    assert torch.equal(data.y_train, place % 3)
    assert torch.equal(data.label_sets["given"], place // 3 % 3)
    assert torch.equal(data.x_train[:, 1], data.x_train[:, 0] + 0.5)


@pytest.mark.parametrize("stream", ["never", "always"])
def test_image_files_too(tmp_path, stream):
    images, labels = load_digits(return_X_y=True)
    rows = ["path,label,clean_label,split"]
    for i in range(200):
        write_png(torch.from_numpy((images[i] * 15).astype(np.uint8)).view(1, 8, 8), str(tmp_path / f"{i}.png"))
        rows.append(f"{i}.png,{(labels[i] + (i % 4 == 0)) % 10},{labels[i]},{'train' if i < 160 else 'test'}")
    (tmp_path / "l.csv").write_text("\n".join(rows))
    text = located(f"folder:{tmp_path}", labels=str(tmp_path / "l.csv"), size=8, channels=1, stream=stream)
    data = datasets.load(located(text, imbalance="step:4"))
    whole = np.bincount(labels[:160], minlength=10)
    assert sizes(data) == [*whole[:5], *(whole.max() // 4 for _ in range(5))]
    assert isinstance(data.x_train, Files) == (stream == "always")
    stay = [int(p.removesuffix(".png")) for p in data.paths["training"]]
    assert data.y_train.tolist() == labels[stay].tolist()
    assert data.label_sets["given"].tolist() == [(labels[i] + (i % 4 == 0)) % 10 for i in stay]
    assert (len(data.x_train), len(data.y_test)) == (len(stay), 40)
    assert data.leaks == ()


def test_the_stand_in_of_a_small_scale_keeps_two_of_each_class():
    data = datasets.load("smoke:cifar10?imbalance=exp:100")
    assert min(sizes(data)) == 2
    assert max(sizes(data)) > 30
    assert corrupted(data, parse("asymmetric:0.4")[0]).noise.variant == "cifar10"


def test_noise_is_drawn_on_what_stays():
    data = datasets.load("digits?imbalance=exp:10")
    noisy = corrupted(data, Noise("symmetric", 0.4, "exclusive"))
    assert len(noisy.given) == len(data.y_train)
    assert noisy.effective_rate == pytest.approx(0.4, abs=0.01)


# --- balanced accuracy, and where it is told ----------------------------------------------------------------------


def test_balanced_accuracy_by_hand():
    y, predicted = torch.tensor([0, 0, 0, 0, 1, 1, 3]), torch.tensor([0, 0, 0, 1, 1, 0, 0])
    assert float(balanced(predicted, y, 4)) == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)  # no image of class 2


def test_only_imbalanced_records_have_it_and_keys_differ(tmp_path):
    noise = Noise("symmetric", 0.2)
    runs = []
    for name in ("digits", "digits?imbalance=exp:20"):
        data = prepare(name, tmp_path, noise, 0.1)
        runs.append(Run(single("ce", data, name, noise, "mlp", 1, val_fraction=0.1), data))
    plain, tailed = (run.epoch() for run in runs)
    assert "test/balanced_acc" not in plain
    confusion = runs[1].arrays()["confusion"]
    recall = (confusion.diagonal() / confusion.sum(1)).mean()
    assert tailed["test/balanced_acc"] == pytest.approx(recall, abs=1e-5)
    assert runs[0].spec.key != runs[1].spec.key


def test_command_line_and_python_write_it_into_the_data_set():
    told = requested("ce", "--dataset", "digits", "--imbalance", "exp:100", "--noise", "symmetric:0.2")
    assert told.datasets == ("digits?imbalance=exp:100",)
    assert rs.Study("ce", imbalance="exp:100").design.datasets == told.datasets
    assert {c.key for c in told.cells()}.isdisjoint(c.key for c in requested("ce", "--noise", "symmetric:0.2").cells())
    with pytest.raises(InputError, match="unknown kind of imbalance 'tail'"):
        rs.Study("ce", imbalance="tail:3")
    with pytest.raises(InputError, match="--imbalance cannot be given with --study"):
        requested("--study", "quick", "--imbalance", "exp:10")


def test_one_training_from_python_has_it():
    first = next(rs.train("ce", imbalance="exp:20", epochs=1))
    assert 0 < first["test/balanced_acc"] < 1
    assert "test/balanced_acc" not in next(rs.train("ce", epochs=1))
    with pytest.raises(InputError, match="unknown kind of imbalance 'tail'"):
        rs.train("ce", imbalance="tail:3")


def test_short_names_tell_the_imbalance():
    far = "npz:/far/x.npz?pad=2&imbalance=exp:10"
    assert names.shortened(["digits?imbalance=exp:10", far, "cifar10?pad=2"]) == {
        "digits?imbalance=exp:10": "digits?imbalance=exp:10",
        far: "npz:x.npz?imbalance=exp:10",
        "cifar10?pad=2": "cifar10",
    }


def shown(folder) -> str:
    console = Console(width=200, file=StringIO(), record=True)
    console.print(tables.leaderboard(*load.study(folder, only=tables.READ), 200))
    return console.export_text()


def test_a_study_without_imbalance_has_no_column_of_it(tmp_path):
    recorded.write(tmp_path / "plain", methods=("ce",), rates=(0.2,))
    study, histories = load.study(tmp_path / "plain")
    text = shown(tmp_path / "plain")
    assert "last10" in text
    assert "balanced" not in text
    assert "test.balanced" not in export.trials(study, histories)


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_over_an_imbalanced_set(tmp_path):
    study = rs.Study("elr", imbalance="exp:20", noise="symmetric:0.2", trials=1, replicates=2, epochs=3, name="tail")
    done = rs.run(study, tmp_path, tracking_uri="none", progress=False)
    records = done.records()
    assert records["test/balanced_acc"].notna().all()
    board = done.leaderboard()
    assert board["dataset"].tolist() == ["digits?imbalance=exp:20"] * 2
    last = records[records["number"] > 0].groupby(["method", "key"])["test/balanced_acc"].mean()
    for method, found in zip(board["method"], board["balanced"], strict=True):
        assert found == pytest.approx(last[method].mean(), abs=1e-6)
    assert done.trials()["test.balanced"].notna().all()
    _, histories = load.study(tmp_path / "tail")
    told = [cell_summary(h) for h in histories.values()]  # what MLflow shows of a cell
    assert sorted(t["tuned/balanced"] for t in told) == pytest.approx(sorted(board["balanced"]), abs=1e-6)
    text = shown(tmp_path / "tail")
    assert "balanced" in text
    assert "digits?imbalance=exp:20" in text
