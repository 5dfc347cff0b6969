"""Short names of what is called by a path: as short as tells apart, and the full one stands once."""

from hypothesis import given
from hypothesis import strategies as st

from analysis import names
from raystudy.data.noise import Noise
from raystudy.design.study import Study


def study(datasets: tuple[str, ...], noise: Noise = Noise("symmetric", 0.2)) -> Study:  # noqa: B008 - frozen
    return Study("s", ("ce",), datasets, (noise,), 1, 0, 1, "mlp")


def test_a_name_is_as_short_as_tells_it_from_the_others() -> None:
    assert names.shortened(["npz:/far/down/x.npz", "digits"]) == {
        "npz:/far/down/x.npz": "npz:x.npz",
        "digits": "digits",
    }
    assert names.shortened(["npz:/a/b/x.npz", "npz:/a/c/x.npz"]) == {
        "npz:/a/b/x.npz": "npz:b/x.npz",
        "npz:/a/c/x.npz": "npz:c/x.npz",
    }
    assert names.shortened(["folder:/a/b?labels=/a/b/l.csv&size=32"]) == {
        "folder:/a/b?labels=/a/b/l.csv&size=32": "folder:b"
    }
    assert list(names.shortened(["cifar10?pad=0", "cifar10"]).values()) == ["cifar10?pad=0", "cifar10"]
    assert list(names.shortened(["npz:/a/x.npz?pad=0", "npz:/a/x.npz?pad=1"]).values()) == [
        "npz:x.npz?pad=0",
        "npz:x.npz?pad=1",
    ]


@given(st.lists(st.text("ab/:?=.", min_size=1, max_size=12), unique=True, max_size=6))
def test_short_names_are_never_confused(told: list[str]) -> None:
    short = names.shortened(told)
    assert list(short) == told
    assert len(set(short.values())) == len(told)


def test_texts_have_the_short_names_and_the_full_ones_stand_once() -> None:
    told = study(("npz:/far/down/x.npz", "npz:/far/down/x.npz?pad=1"), Noise("matrix", 0.5, "/far/down/T.csv"))
    assert (
        names.told("npz:/far/down/x.npz?pad=1 matrix:/far/down/T.csv:0.5", told) == "npz:x.npz?pad=1 matrix:T.csv:0.5"
    )
    assert names.full(told).count("/far/down/T.csv") == 1
    assert names.full(study(("digits",))) == ""
