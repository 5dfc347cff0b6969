"""Input from unfriendly hands, made by hypothesis: whatever it is, it is taken or refused in one line, and nothing is half-written.

Also: nothing that is read runs code that is in it, names stay in their folder, and servers listen on loopback.
"""

import contextlib
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raystudy import space, training
from raystudy.data import datasets, masks
from raystudy.data.noise import NOISES, Noise, parse
from raystudy.errors import InputError
from raystudy.methods.mentornet_dd import SHAPES, read_mentor
from raystudy.study import TrialSpec

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
WORDS = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "0.2",
        "..",
        "/",
        "a/b",
        "../../x",
        "x" * 300,
        "\0",
        "\n",
        "é",
        "--",
        "=",
        ":",
        ",",
        "[]",
        "🙂",
    ]
)
TEXT = st.one_of(WORDS, st.text(max_size=12))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
TOML = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder of its own for each example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def taken_or_refused(read: Callable[[], Any], *words: str) -> bool:
    """Runs ``read``: True if it went well, False if it was refused in one line with these words."""
    said = None
    try:
        read()
    except InputError as e:
        said = str(e)
    assert said is None or (said and all(word in said for word in words)), said
    return said is None


# -- command lines


@given(kind=st.one_of(st.sampled_from(sorted(NOISES)), TEXT), rest=st.lists(TEXT, max_size=3))
@QUICK
def test_any_noise(kind: str, rest: list[str]) -> None:
    taken_or_refused(lambda: parse(":".join([kind, *rest])))


# -- files


@given(told=st.dictionaries(st.one_of(st.sampled_from(["space", "recipe", "paper"]), TEXT), TOML, max_size=3))
@QUICK
def test_any_space(told: dict[str, Any]) -> None:
    with folder() as here:
        (here / "ce.toml").write_text(tomli_w.dumps(told), encoding="utf-8")
        taken_or_refused(lambda: space.load("ce", here), "ce.toml")


@given(
    name=TEXT,
    told=st.dictionaries(
        st.sampled_from(["low", "high", "log", "choices", "step", "or_zero", "int", "x"]), TOML, max_size=5
    ),
    row=st.dictionaries(
        st.sampled_from(["dataset", "noise", "rate", "point", "source", "variant", "oracle"]), TOML, max_size=7
    ),
)
@QUICK
def test_any_dimension_and_published_row(name: str, told: dict[str, Any], row: dict[str, Any]) -> None:
    with folder() as here:
        for text in ({"space": {name: told}}, {"space": {"alpha": told}}, {"paper": [row]}, {"recipe": told}):
            (here / "mixup.toml").write_text(tomli_w.dumps(text), encoding="utf-8")
            taken_or_refused(lambda: space.load("mixup", here), "mixup.toml")


DTYPES = st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_, np.complex64, "U3", "S3", "M8[s]"])


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """An array that may be images, labels, or nothing of the kind."""
    shape = draw(st.one_of(st.just((12, 8, 8)), st.just((12,)), st.lists(st.integers(0, 4), max_size=5).map(tuple)))
    dtype = draw(DTYPES)
    values = np.random.default_rng(draw(st.integers(0, 9))).integers(
        draw(st.integers(-2, 0)), draw(st.integers(1, 300)), shape
    )
    return values.astype(dtype)


@given(
    changes=st.dictionaries(
        st.sampled_from(["x_train", "y_train", "x_test", "y_test", "y_noisy"]), arrays(), max_size=2
    )
)
@QUICK
def test_any_images(changes: dict[str, Any]) -> None:
    x, y = np.zeros((12, 8, 8), np.uint8), np.arange(12) % 3
    with folder() as here, np.errstate(all="ignore"):
        path = here / "x.npz"
        np.savez(path, **({"x_train": x, "y_train": y, "x_test": x, "y_test": y} | changes))
        taken_or_refused(lambda: datasets.load(f"npz:{path}"), str(path))


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """A file cut, with a byte changed, or with other bytes in it."""
    i = data.draw(st.integers(0, len(content) - 1))
    new = data.draw(st.one_of(st.just(b""), st.binary(min_size=1, max_size=8)))
    return content[:i] if not new else content[:i] + new + content[i + len(new) :]


def mask_file(path: Path) -> None:
    clean = np.arange(12) % 3
    given_ = clean.copy()
    given_[0] = 2
    told = masks.Mask(Noise("symmetric", 0.1), "digits", "d", "", given_, clean, np.eye(3), 0)
    masks.save(told, path)


def mentor_file(path: Path) -> None:
    np.savez(path, trained_at=np.int64(18), **{name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})


def images_file(path: Path) -> None:
    x, y = np.zeros((12, 8, 8), np.uint8), np.arange(12) % 3
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)


READERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "mask": (mask_file, masks.load),
    "mentor": (mentor_file, read_mentor),
    "images": (images_file, lambda path: datasets.load(f"npz:{path}")),
}


@pytest.mark.parametrize("kind", sorted(READERS))
@given(data=st.data())
@QUICK
def test_any_damage_to_a_file_of_arrays(kind: str, data: st.DataObject) -> None:
    write, read = READERS[kind]
    with folder() as here:
        path = here / "x.npz"
        write(path)
        assert taken_or_refused(lambda: read(path))
        path.write_bytes(damaged(data, path.read_bytes()))
        taken_or_refused(lambda: read(path), str(path))


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", sorted(READERS))
def test_code_in_a_file_of_arrays_is_not_run(kind: str, tmp_path: Path) -> None:
    write, read = READERS[kind]
    path, harm = tmp_path / "x.npz", tmp_path / "harm"
    write(path)
    with np.load(path) as stored:
        told = dict(stored)
    for name in told:
        with path.open("wb") as file:
            np.savez(file, allow_pickle=True, **(told | {name: np.array([Harm(harm)], dtype=object)}))
        assert not taken_or_refused(lambda: read(path), str(path))
    path.write_bytes(pickle.dumps(Harm(harm)))
    assert not taken_or_refused(lambda: read(path), str(path))
    assert not harm.exists()
    with np.load(path, allow_pickle=True) as _:  # the file would do it, where unpickling is allowed
        pass
    assert harm.exists()


# -- checkpoints (code in them: tests/test_training.py)


@pytest.fixture(scope="module")
def run() -> training.Run:
    noise = Noise("symmetric", 0.2)
    data = training.prepare("digits", Path("data"), noise, 0.1)
    spec = TrialSpec(
        *("ce", 1, {}, "digits", data.data_digest, noise.to_dict(), data.noise_digest, "mlp"),
        recipe=space.recipe_for("shared", "ce", "digits", "mlp").to_dict(),
        epochs=3,
        seed=0,
        val_fraction=0.1,
        clean_val=0,
    )
    return training.Run(spec, data)
