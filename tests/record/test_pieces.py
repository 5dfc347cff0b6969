"""A growing file in pieces: which there are, which make up the file, and how much is sent."""

from hypothesis import given
from hypothesis import strategies as st

from raystudy.record import pieces


def test_names_and_back() -> None:
    assert pieces.name("c.jsonl", 0) == "c.jsonl"
    assert pieces.name("c.jsonl", 12345) == "c.jsonl.000000012345"
    files = {
        "c.jsonl": 10,
        "c.jsonl.000000000010": 5,
        "d.e.jsonl": 3,
        "c.jsonl.host.7.new": 9,
        "note.txt": 1,
        "z.jsonl": 0,
    }
    assert pieces.found(files) == {"c.jsonl": {0: 10, 10: 5}, "d.e.jsonl": {0: 3}}


def test_a_chain_ends_at_a_gap_and_passes_over_what_was_taken_in() -> None:
    assert pieces.chain({}) == []
    assert pieces.chain({10: 5}) == []
    assert pieces.chain({0: 10, 10: 5, 16: 2}) == [0, 10]
    assert pieces.chain({0: 10, 10: 9, 12: 3, 15: 4, 19: 1}) == [0, 10, 19]
    assert pieces.length({0: 10, 10: 9, 12: 3, 19: 1}) == 20


def test_the_sixteenth_of_a_size_takes_in_the_others() -> None:
    assert pieces.begin([], 300) == 0
    assert pieces.begin([300] * 14, 300) == 14
    assert pieces.begin([300] * 15, 300) == 0
    assert pieces.begin([10**6] + [300] * 15, 300) == 1  # a large one is left
    assert pieces.begin([4800] * 15 + [300] * 15, 300) == 0  # and what they become is the sixteenth of its own size
    assert pieces.begin([1 << 19] * 100, 1 << 19) == 100


@given(st.lists(st.integers(80, 200_000), min_size=1, max_size=400))
def test_a_byte_is_sent_a_few_times_and_pieces_stay_few(appended: list[int]) -> None:
    held: dict[int, int] = {}
    sent = 0
    for new in appended:
        starts = pieces.chain(held)
        end = pieces.length(held)
        start = (*starts, end)[pieces.begin([held[s] for s in starts], new)]
        held = {s: n for s, n in held.items() if s < start} | {start: end + new - start}
        sent += held[start]
        assert pieces.length(held) == end + new
    total = sum(appended)
    assert sent <= 5 * total
    small = [n for n in held.values() if n < pieces.WHOLE]
    assert len(small) <= 5 * pieces.FAN


def test_a_file_of_a_day_in_small_appends() -> None:
    """An epoch of 300 bytes every five seconds for a day: 5 MB, of which whole copies would have sent 45 GB."""
    held: dict[int, int] = {}
    sent = most = 0
    for i in range(17_280):
        starts = pieces.chain(held)
        start = (*starts, 300 * i)[pieces.begin([held[s] for s in starts], 300)]
        held = {s: n for s, n in held.items() if s < start} | {start: 300 * (i + 1) - start}
        sent += held[start]
        most = max(most, len(held))
    assert sent < 4.2 * 300 * 17_280
    assert most < 60
