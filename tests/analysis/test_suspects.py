"""Which images are distrusted and how methods agree: by hand, from arrays as replicates leave them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded

from analysis import suspects
from analysis.material import Plot, gathered
from analysis.sections import suspects as section
from analysis.sheets import Sheet
from analysis.suspects import agreement, comparable, correlation, overlap, trusted
from raystudy.record.checkpoints import arrays_path
from raystudy.record.ledger import TrialHistory


def left(weight: list[float] | None, confidence: list[float], **more: Any) -> dict[str, Any]:
    """Of training images 10, 20, ... of class 0, and of one validation image of class 1."""
    n = len(confidence)
    told = {
        "train_index": 10 * np.arange(1, n + 1, dtype=np.int32),
        "train_given": np.zeros(n, np.int16),
        "train_confidence": np.array(confidence, np.float16),
        "train_predicted": np.zeros(n, np.int16),
        "val_index": np.array([5], np.int32),
        "val_given": np.array([1], np.int16),
        "val_probs": np.array([[0.75, 0.25]], np.float16),
    }
    return told | ({} if weight is None else {"train_weight": np.array(weight, np.float16)}) | more


def test_weights_are_means_over_replicates_and_what_was_not_weighed_is_last() -> None:
    nan = math.nan
    first = left([1, 0, nan, nan], [0.5, 0.25, 0.5, 0.5], train_predicted=np.array([0, 2, 1, 0]))
    second = left([0.5, 0.5, 0, nan], [0.5, 0.25, 0.5, 0.5], train_predicted=np.array([0, 2, 1, 0]))
    told = trusted([first, second], "training")
    assert told is not None
    assert told.measure == "weight"
    np.testing.assert_array_equal(told.trust, [0.75, 0.25, 0, nan])
    assert told.image[told.order()].tolist() == [30, 20, 10, 40]
    assert told.predicted.tolist() == [0, 2, 1, 0]
    assert told.replicates == 2


def test_equal_weights_are_told_apart_by_confidence() -> None:
    told = trusted([left([0, 1, 0, 1], [0.75, 0.5, 0.25, 0.25])], "training")
    assert told is not None
    assert told.image[told.order()].tolist() == [30, 10, 40, 20]


def test_a_method_that_weighs_nothing_has_its_confidence_under_its_own_name() -> None:
    told = trusted([left(None, [0.5, 0.25]), left(None, [1.0, 0.25])], "training")
    assert told is not None
    assert (told.measure, told.trust.tolist()) == ("confidence", [0.75, 0.25])


def test_validation_images_are_out_of_sample() -> None:
    told = trusted([left([1], [1]), left([1], [1], val_probs=np.array([[0.25, 0.75]]))], "validation")
    assert told is not None
    assert (told.measure, told.image.tolist(), told.trust.tolist()) == ("out-of-sample", [5], [0.5])
    assert trusted([], "validation") is None


def test_agreement_by_hand() -> None:
    def method(*trust: float) -> suspects.Trust:
        found = trusted([left(list(trust), [0.5] * len(trust))], "training")
        assert found is not None
        return found

    up, down, same = method(0.1, 0.2, 0.3, 0.4), method(0.4, 0.3, 0.2, 0.1), method(0.5, 0.5, 0.5, 0.5)
    assert correlation(up, up) == pytest.approx(1)
    assert correlation(up, down) == pytest.approx(-1)
    assert math.isnan(correlation(up, same))
    assert correlation(up, method(0.1, math.nan, 0.05, 0.4)) == pytest.approx(0.5)  # ranks 1 2 3 against 2 1 3
    assert (overlap(up, down, 0.5), overlap(up, method(0.1, 0.3, 0.2, 0.4), 0.5)) == (0, 0.5)
    told = agreement({"a": up, "b": down})
    assert [m.shape for m in told.values()] == [(2, 2), (2, 2)]
    other = up._replace(image=up.image + 1)
    assert list(comparable({"a": up, "b": down, "c": other})) == ["a", "b"]
    assert comparable({}) == {}


def trial(key: str) -> TrialHistory:
    return TrialHistory(key, 0, "replicate", {}, 0, 0)


def test_replicates_on_other_labels_do_not_count(tmp_path: Path) -> None:
    """A study whose labels were made anew, and a ledger from before single images were kept."""
    arrays_path(tmp_path, "a").parent.mkdir()
    old = left([1, 0], [1, 0])
    np.savez(arrays_path(tmp_path, "a"), **{k: v for k, v in old.items() if k == "train_index"})
    np.savez(arrays_path(tmp_path, "b"), **(old | {"train_given": np.ones(2, np.int16)}))
    np.savez(arrays_path(tmp_path, "c"), **old)
    assert len(suspects.left(tmp_path, [trial(k) for k in "abcd"])) == 1
    assert suspects.left(tmp_path, [trial("a"), trial("d")]) == []


def test_the_section_tells_every_method_and_old_studies_say_why_not(tmp_path: Path) -> None:
    recorded.write(tmp_path / "s", ("ce", "elr"), rates=(0.2,), trials=1, replicates=2)
    sheet, plot = section.items(gathered(tmp_path / "s"))
    assert isinstance(sheet, Sheet)
    assert isinstance(plot, Plot)
    assert plot.figure is not None
    assert {row[0] for row in sheet.rows} == {"ce", "elr"}
    assert len(sheet.long) == 2 * (9 + 1)  # the worst twentieth of 180 and of 20 images, two methods
    assert all(row["image"] % 10 == 0 for row in sheet.long)  # those that are trusted less
    recorded.write(tmp_path / "old", ("ce", "elr"), rates=(0.2,), trials=1, replicates=2, arrays=False)
    (only,) = section.items(gathered(tmp_path / "old"))
    assert isinstance(only, Plot)
    assert only.figure is None
    assert "no replicate has left" in only.absent
