"""How often, and on how much, a training evaluates: what is written, and which epochs it means."""

import pytest

from raystudy.data.evaluation import FULL, NONE, PART, Evaluation, of_spec, parse
from raystudy.errors import InputError


@pytest.mark.parametrize(
    ("text", "told"),
    [("", Evaluation()), ("every:1", Evaluation()), ("every:5", Evaluation(5)), ("every:1,500", Evaluation(1, 500))],
)
def test_what_is_written_is_read(text: str, told: Evaluation) -> None:
    assert parse(text) == told
    assert parse(told.text) == told
    assert of_spec(told.at([3, 9]).to_dict()) == (told.at([3, 9]) if told.text else told)


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "every",
        "every:",
        "every:0",
        "every:-1",
        "every:2.5",
        "every:5,0",
        "every:5,",
        "every:5,3,2",
        "every:9999999",
    ],
)
def test_what_cannot_be_is_one_line_that_says_what_can(text: str) -> None:
    with pytest.raises(InputError, match=r"every:K or every:K,N") as told:
        parse(text)
    assert text in str(told.value)
    assert "\n" not in str(told.value)


def test_epochs_by_hand() -> None:
    """Of 24 epochs every fifth, the last ten, and the third, where trials are compared; epochs are counted from 0 here."""
    every = Evaluation(5).at([3])
    assert [t for t in range(24) if every.of(t, 24) == FULL] == [2, 4, 9, *range(14, 24)]
    assert {every.of(t, 24) for t in range(24)} == {FULL, NONE}
    part = Evaluation(5, 100).at([3])
    assert [t for t in range(24) if part.of(t, 24) == FULL] == [2, *range(14, 24)]
    assert [t for t in range(24) if part.of(t, 24) == PART] == [4, 9]
    assert {Evaluation().of(t, 24) for t in range(24)} == {FULL}
    assert {Evaluation(7, 3).of(t, 8) for t in range(8)} == {FULL}  # no longer than the last ten


def test_a_part_of_the_test_set_is_a_part_of_it() -> None:
    Evaluation(5, 449).fits("digits", 450)
    with pytest.raises(InputError, match="digits has 450 test samples, and a part is fewer; every:5 takes all"):
        Evaluation(5, 450).fits("digits", 450)
