"""Wrong labels found: the mathematics by hand, known noise on digits, what is written and what is refused, and the page in a browser."""

import csv
from dataclasses import replace
from pathlib import Path

import browser
import numpy as np
import pandas as pd
import pytest
import torch

import raystudy as rs
from raystudy import cli
from raystudy.data import datasets
from raystudy.data.noise import Noise, corrupt, pair_matrix
from raystudy.learn import filtering
from raystudy.tools.clean import evidence, judge, outputs, quality
from raystudy.tools.clean.examine import chosen_method, examine
from raystudy.tools.clean.filtered import judged_by


def test_posterior_by_hand():
    """p = (.5, .5), T = [[.6, .4], [0, 1]]: given 1, P(0) = .5 .4 / (.5 .4 + .5) = 2/7; given 0, only class 0 can be."""
    matrix = np.array([[0.6, 0.4], [0.0, 1.0]])
    found = quality.posterior(np.full((2, 2), 0.5), matrix, np.array([1, 0]))
    assert found == pytest.approx(np.array([[2 / 7, 5 / 7], [1, 0]]))
    impossible = quality.posterior(np.array([[0.0, 1.0]]), matrix, np.array([0]))
    assert impossible == pytest.approx(np.array([[0, 1]]))  # a label that cannot be says nothing


def test_anchors_by_hand():
    """Six samples of two classes: round(6 / 4) = 2 anchors a class, the surest; class 0 is labelled 0, 1 and class 1 is labelled 1, 1."""
    p = np.array([0.95, 0.9, 0.6, 0.3, 0.2, 0.1])
    counts = quality.anchor_counts(np.stack([p, 1 - p], 1), np.array([0, 1, 0, 0, 1, 1]))
    assert counts.tolist() == [[1, 1], [0, 2]]
    assert quality.anchor_counts(np.stack([p, 1 - p], 1), np.array([0, 1, 0, 0, 1, 1]), most=1).tolist() == [
        [1, 0],
        [0, 1],
    ]


def test_counts_are_shrunk_as_far_as_they_say():
    rng = np.random.default_rng(0)
    symmetric = np.full((10, 10), 0.4 / 9) + np.eye(10) * (0.6 - 0.4 / 9)
    for matrix in (symmetric, pair_matrix(10, 0.4)):
        counts = np.stack([rng.multinomial(64, row) for row in matrix]).astype(float)
        found = quality.shrunk(counts)
        assert found.sum(1) == pytest.approx(np.ones(10))
        assert (found > 0).all()
        apart = np.abs(found - matrix).sum(1).mean() / 2
        assert apart < 0.06
        assert apart <= np.abs(counts / 64 - matrix).sum(1).mean() / 2  # never further than the counts themselves
    clean = quality.shrunk(64 * np.eye(10))
    assert (1 - clean.diagonal() < 0.01).all()
    assert quality.shrunk(np.array([[3.0, 1], [1, 3]])).sum(1) == pytest.approx(np.ones(2))


def test_evidence_that_tells_nothing_gets_no_weight():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=600)
    good, bad = np.eye(3)[y] + rng.normal(0, 0.3, (600, 3)), rng.normal(0, 1, (600, 3))
    probs, weights = quality.calibrated([good, bad], y, np.eye(3))
    assert weights[0] > 1
    assert weights[1] < 0.3
    assert probs.sum(1) == pytest.approx(np.ones(600))


def test_left_out_in_closed_form_is_left_out():
    """The prediction of each row is that of a ridge regression on all other rows."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    found = evidence._Smoother(x).left_out(y, 0.7)
    for i in range(12):
        rest = np.arange(12) != i
        fit = np.linalg.solve(x[rest].T @ x[rest] + 0.7 * np.eye(3), x[rest].T @ y[rest])
        assert found[i] == pytest.approx(x[i] @ fit)


def test_no_evidence_sees_its_own_label():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), np.arange(60) % 3
    other = y.copy()
    other[7] = (y[7] + 1) % 3
    near = evidence.Neighbours(x, 5)
    kernel = evidence.Kernel(x, y, 3, 0)
    for ask in (near.scores, kernel.scores):
        assert ask(np.eye(3)[y])[7] == pytest.approx(ask(np.eye(3)[other])[7])


def test_verdict():
    told = judge.verdict(np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]), np.array([0.5, 0.2, 0.9]), np.array([1, 0, 0]))
    assert told[0].tolist() == [1, 1, 0]
    assert told[1].tolist() == [False, True, False]  # a tie does not speak against the label given


def test_quality_keeps_the_order_and_takes_the_level():
    order = np.linspace(0.3, 0.99, 50)
    z = 2 * np.log(order / (1 - order)) - 3
    found = judge.levelled(order, 1 / (1 + np.exp(-z)))
    assert found == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-3)
    assert (np.diff(judge.levelled(order, order[::-1])) > 0).all()  # even where both disagree


@pytest.fixture(scope="module")
def groups():
    """Three groups of vectors with pair noise: features, labels given, truth."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = 3 * np.eye(3)[y] @ rng.normal(size=(3, 8)) + rng.normal(size=(300, 8))
    return x, corrupt(y, Noise("pair", 0.3), 3), y


@pytest.mark.slow
def test_pair_noise_is_found(groups):
    x, given, y = groups
    told = judge.judge(filtering.features(torch.from_numpy(x)), given, 3, folds=3, k=20)
    wrong = given != y
    assert (told.issue == wrong).mean() > 0.95
    assert (told.suggested[told.issue] == y[told.issue]).mean() > 0.95
    low, high = told.estimate.rate_interval
    assert low <= told.estimate.rate <= high
    assert told.estimate.rate == pytest.approx(wrong.mean(), abs=0.06)
    assert ((told.quality >= 0) & (told.quality <= 1)).all()
    assert "nearest" in judge.reason(told, int(told.worst_first[0]), ("a", "b", "c"))


@pytest.mark.parametrize("text", ["simifeat:rounds=3,steps=20", "knn_relabel", "knn_relabel:mode=relabel"])
def test_labels_that_a_filter_distrusts_alike_are_in_the_order_of_the_votes(groups, text):
    x, given = (np.asarray(part) for part in groups[:2])
    features = filtering.features(torch.from_numpy(x))
    told = judged_by(text, [torch.from_numpy(features).float()], features, given, 3, 3, 20, 0)
    weight = filtering.verdict(text, [torch.from_numpy(features).float()], torch.from_numpy(given), 3, 0).weight.numpy()
    votes = told.votes[np.arange(len(given)), given]
    for part in (told.issue, ~told.issue):
        i = np.flatnonzero(part)
        order = i[np.argsort(told.quality[i], kind="stable")]
        keys = list(zip(weight[order].round(9), votes[order], strict=True))
        assert keys == sorted(keys)
    assert len(np.unique(told.quality[told.issue].round(4))) > 1
    worst = int(told.quality.argmin())
    assert judge.reason(told, worst, ("a", "b", "c")).startswith(
        "the filter does not trust this label; of the 20 nearest"
    )


@pytest.fixture(scope="module")
def vectors(groups, tmp_path_factory):
    x, given, _ = groups
    file = tmp_path_factory.mktemp("vectors") / "mine.npz"
    names = np.array(["<b>cat</b>", "dog", "{{JS}}"])
    np.savez(file, x_train=x[:240], y_train=given[:240], x_test=x[240:], y_test=given[240:], class_names=names)
    return file


@pytest.mark.slow
def test_command(vectors, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["clean", f"npz:{vectors}", "--folds", "3", "--neighbours", "10", "--out", str(out)]
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert "95 % interval" in said
    assert "Nobody knows the truth" in said
    assert "AUROC" not in said
    assert sorted(f.name for f in out.iterdir()) == ["cleaned.npz", "labels.csv", "suspects.html"]
    rows = list(csv.DictReader((out / "labels.csv").open()))
    assert len(rows) == 240
    assert list(rows[0]) == ["index", "given", "suggested", "quality", "issue", "reason"]
    issues = [r for r in rows if r["issue"] == "yes"]
    assert issues
    assert all(r["given"] != r["suggested"] and r["reason"] for r in issues)
    assert "<b>cat</b>" not in (out / "suspects.html").read_text()
    with np.load(out / "cleaned.npz") as z:
        names = [r["suggested"] for r in rows]
        assert z["class_names"][z["y_train"]].tolist() == [names[i] for i in z["index"]]
        assert z["x_test"].shape == (60, 8)
    assert cli.main(asked) == 2
    assert "--force" in capsys.readouterr().err
    assert cli.main([*asked, "--force", "--unsure", "keep"]) == 0
    with np.load(out / "cleaned.npz") as z:
        assert len(z["y_train"]) == 240

    assert (
        cli.main(["data", "show", f"npz:{out / 'cleaned.npz'}", "--noise", "given", "--out", str(tmp_path / "s")]) == 0
    )


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--method", "dividemixx"], "did you mean"),
        (["--folds", "1"], "--folds is 1"),
        (["--neighbours", "0"], "--neighbours is 0"),
        (["--unsure", "perhaps"], "drop"),
        (["--noise", "symmetric:0.2,0.5"], "one noise setting"),
    ],
)
def test_refused_before_anything_is_written(more, why, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["clean", "digits", "--out", str(out), *more]) == 2
    assert why in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_python(vectors):
    found = rs.clean(f"npz:{vectors}", folds=3, neighbours=10)
    assert len(found.labels) == 240
    assert found.labels["issue"].sum() > 20
    assert found.measured() is None
    assert found.matrix.shape == (3, 3)
    with pytest.raises(rs.InputError, match="folds is"):
        rs.clean("digits", folds="five")


def test_one_list_comes_back_whole(groups, tmp_path):
    """Without a test set in the file all samples are judged, an index is a place in the file, and the cleaned file has no test set."""
    x, given, _ = groups
    x, given = x[:200], given[:200]
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=given)
    found = rs.clean(f"npz:{tmp_path / 'mine.npz'}", folds=3, neighbours=10)
    at = found.labels["index"].astype(int).to_numpy()
    assert at.tolist() == list(range(200))
    assert (found.labels["given"].astype(int) == given[at]).all()
    found.write(tmp_path / "out", unsure="keep")
    with np.load(tmp_path / "out" / "cleaned.npz") as z:
        assert "x_test" not in z
        assert z["index"].tolist() == list(range(200))
        assert z["x_train"] == pytest.approx(x.astype(np.float32))
    before, after = (datasets.load(f"npz:{f}", tmp_path) for f in (tmp_path / "mine.npz", tmp_path / "out/cleaned.npz"))
    assert (before.x_test == after.x_test).all()


def test_a_table_comes_back_whole(groups, tmp_path):
    x, given, _ = groups
    names = np.array(['a, "b"', "<i>", "ü"])[given[:200]]
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["p", "kind", "q"], *([a, n, b] for (a, b), n in zip(x[:200, :2], names, strict=True))]
        )
    found = rs.clean(f"csv:{tmp_path / 'mine.csv'}?target=kind", folds=3, neighbours=10)
    at = found.labels["index"].astype(int)
    assert found.labels["given"].tolist() == names[at].tolist()
    found.write(tmp_path / "out")
    assert at.tolist() == list(range(200))  # nobody told which rows are for tests
    old, new = (list(csv.DictReader(f.open(newline=""))) for f in (tmp_path / "mine.csv", tmp_path / "out/cleaned.csv"))
    assert list(new[0]) == ["p", "kind", "q"]
    assert {(r["p"], r["q"]) for r in new} <= {(r["p"], r["q"]) for r in old}
    again = datasets.load(f"csv:{tmp_path / 'out/cleaned.csv'}?target=kind", tmp_path)
    assert len(again.y_train) + len(again.y_test) == len(new)


@pytest.mark.parametrize("split", [True, False])
def test_pictures_come_back(split, tmp_path):
    """The cleaned labels of a folder are labels of that folder, with the same test set."""
    from PIL import Image

    rng = np.random.default_rng(0)
    lines = [["path", "label", *(["split"] if split else [])]]
    (tmp_path / "pics").mkdir()
    for i in range(90):
        Image.fromarray(rng.integers(0, 90, (8, 8)).astype(np.uint8) + 150 * (i % 2)).save(
            tmp_path / f"pics/{i}, ü.png"
        )
        lines.append(
            [
                f"{i}, ü.png",
                "<b>" if (i % 2) ^ (i % 11 == 0) else "d,e",
                *([("train", "train", "test", "val")[i % 4]] if split else []),
            ]
        )
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    before, after = (
        f"folder:{tmp_path / 'pics'}?labels={tmp_path / f}&size=8" for f in ("labels.csv", "out/cleaned.csv")
    )
    found = rs.clean(before, folds=3, neighbours=5)
    found.write(tmp_path / "out")
    one, other = (datasets.load(name, tmp_path) for name in (before, after))
    assert set(other.paths["test"]) <= set(one.paths["test"])
    assert one.paths.get("validation") == other.paths.get("validation")
    assert set(other.paths["training"]) <= set(one.paths["training"])


@pytest.mark.slow
def test_a_class_that_is_lost_is_named(groups, tmp_path):
    x, given, _ = groups
    np.savez(tmp_path / "mine.npz", x_train=x[:200], y_train=given[:200], x_test=x[200:], y_test=given[200:])
    found = examine(f"npz:{tmp_path / 'mine.npz'}", folds=3, neighbours=10)
    assert outputs.lost(found) == ""
    told = found.judged
    held = replace(told, issue=told.issue & False, quality=(told.given == 1).astype(float))
    few = replace(found, judged=held)
    assert outputs.lost(few).startswith("no label of 0, 2 is left")
    assert "fewer than two" in outputs.lost(few)
    assert outputs.lost(few, "keep") == ""


def test_whose_networks():
    assert chosen_method("auto", (256,)) is None
    assert chosen_method("auto", (1, 28, 28)) is None
    assert chosen_method("auto", (3, 32, 32)) == "ce"
    assert chosen_method("none", (3, 32, 32)) is None
    assert chosen_method("elr", (256,)) == "elr"


@pytest.mark.slow
def test_a_method_of_ones_own_is_asked(vectors, tmp_path):
    file = tmp_path / "mine_to_clean.py"
    file.write_text("from raystudy.learn.methods.ce import CE\n\n\nclass Mine(CE):\n    'Mine.'\n")
    found = rs.clean(f"npz:{vectors}", folds=2, neighbours=10, method=f"{file}:Mine", epochs=1)
    assert len(found.labels) == 240
    with pytest.raises(rs.InputError, match="Nix"):
        rs.clean(f"npz:{vectors}", folds=2, method=f"{file}:Nix")


@pytest.mark.slow
def test_digits(tmp_path, capsys):
    assert cli.main(["clean", "digits", "--noise", "pair:0.4", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert float(said.partition("average precision ")[2][:5]) > 0.95


@pytest.mark.slow
def test_networks_are_asked_in_the_order_of_the_data(vectors):
    plain, asked = (rs.clean(f"npz:{vectors}", folds=3, neighbours=10, method=m, epochs=8) for m in ("none", "ce"))
    assert (plain.labels["issue"] == asked.labels["issue"]).mean() > 0.95


@pytest.mark.slow
@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
def test_page(vectors, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    found = rs.clean(f"npz:{vectors}", folds=3, neighbours=10)
    page = next(f for f in found.write(tmp_path / "out") if f.name == outputs.SUSPECTS)
    with browser.chromium(tmp_path / "profile") as driver:
        driver.get(page.as_uri())
        cards = driver.find_elements(By.TAG_NAME, "article")
        assert len(cards) == found.labels["issue"].sum()
        worst = found.labels.sort_values("quality").iloc[0]
        assert worst["index"] in cards[0].text
        assert worst["given"] in cards[0].text  # a class named <b>cat</b> or {{JS}} is a name
        choice = Select(driver.find_element(By.ID, "pair"))
        choice.select_by_index(1)
        some = driver.find_elements(By.TAG_NAME, "article")
        assert 0 < len(some) < len(cards)
        assert f"({len(some)})" in choice.first_selected_option.text
        body = driver.find_element(By.TAG_NAME, "body")
        driver.execute_script("document.activeElement.blur()")
        body.send_keys("j")
        assert driver.switch_to.active_element == driver.find_elements(By.TAG_NAME, "article")[0]
        driver.switch_to.active_element.send_keys("j", Keys.NULL)
        assert driver.switch_to.active_element == driver.find_elements(By.TAG_NAME, "article")[1]
        assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_where_the_test_set_is_ours_all_labels_are_judged(tmp_path: Path) -> None:
    """In the order of the file, and what is cleaned can be read again; with a split of the user's, test rows are not judged."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = rng.normal(0, 0.3, (120, 2)) + np.array([(0, 0), (2, 0), (0, 2)])[y]
    wrong = rng.choice(120, 12, replace=False)
    given = y.copy()
    given[wrong] = (y[wrong] + 1) % 3
    names = np.array(["a", "b", "c"])
    frame = pd.DataFrame({"u": x[:, 0], "v": x[:, 1], "label": names[given]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    np.savez(tmp_path / "t.npz", x_train=x.astype(np.float32), y_train=given)
    for kind, shown in (("csv", names[given]), ("npz", given.astype(str))):
        found = examine(f"{kind}:{tmp_path}/t.{kind}", folds=3, neighbours=5)
        assert list(found.names) == list(range(120))
        assert np.array_equal(np.array(found.data.classes)[found.judged.given], shown)
        assert set(wrong) <= set(np.argsort(found.judged.quality)[:20])
        outputs.write(found, tmp_path / kind)
        again = datasets.load(f"{kind}:{tmp_path}/{kind}/cleaned.{kind}")
        assert len(again.y_train) + len(again.y_test) == found.judged.kept.sum()
    frame.assign(split=np.where(np.arange(120) < 90, "train", "test")).to_csv(tmp_path / "s.csv", index=False)
    assert list(examine(f"csv:{tmp_path}/s.csv", folds=3, neighbours=5).names) == list(range(90))


def test_samples_that_are_all_alike_tell_nothing(tmp_path: Path) -> None:
    y = np.arange(90) % 3
    x = np.ones((99, 4), np.float32)
    np.savez(tmp_path / "a.npz", x_train=x[:90], y_train=y, x_test=x[90:], y_test=y[:9])
    with pytest.raises(rs.InputError, match="all its vectors are alike, so nothing tells whose label is wrong"):
        examine(f"npz:{tmp_path}/a.npz", folds=3, neighbours=5)
