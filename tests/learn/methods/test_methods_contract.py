"""What every method must do. Runs over all of METHODS: a new method is covered by being listed.

Most of it is asked of one training a method, which is trained once (``trained``).
"""

import gc
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.learn.celldata import prepare
from raystudy.learn.methods import METHODS
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run

EPOCHS = 10
RESUMED = (1, 7)  # epoch 1 lies within every warm-up, epoch 7 after it
every_method = pytest.mark.parametrize("method", sorted(METHODS))


def data_for(dataset: str, rate: float = 0.3) -> Any:
    return prepare(dataset, Path("data"), Noise("symmetric", rate), 0.1)


def run_for(
    method: str, dataset: str = "digits", epochs: int = EPOCHS, rate: float = 0.3, network: str = "mlp", **point: Any
) -> Run:
    data = data_for(dataset, rate)
    recipe = Recipe(lr=0.05, batch_size=64).to_dict()
    published = space.load(method).paper("digits", Noise("symmetric", rate))[0]
    noise = Noise("symmetric", rate).to_dict()
    digests = {"data_digest": data.data_digest, "noise_digest": data.noise_digest}
    spec = TrialSpec(
        method,
        1,
        published | point,
        dataset,
        noise=noise,
        network=network,
        recipe=recipe,
        epochs=epochs,
        seed=3,
        val_fraction=0.1,
        clean_val=0,
        **digests,
    )
    return Run(spec, data)


def told(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the clock."""
    return {k: v for k, v in record.items() if k != "cost/seconds"}


@pytest.fixture
def blobs(tmp_path: Path) -> Any:
    """Writes a small npz of images with n training images."""

    def write(n: int) -> str:
        rng = np.random.default_rng(0)
        centres = rng.integers(0, 256, (3, 8, 8))
        y = np.arange(n + 30) % 3
        x = np.clip(centres[y] + rng.normal(0, 40, (n + 30, 8, 8)), 0, 255).astype(np.uint8)
        path = tmp_path / f"blobs{n}.npz"
        np.savez(path, x_train=x[:n], y_train=y[:n], x_test=x[n:], y_test=y[n:])
        return f"npz:{path}"

    return write


@pytest.fixture
def clouds(tmp_path: Path) -> Any:
    """Writes a small npz of vectors with so many views of each sample."""

    def write(views: int) -> str:
        rng = np.random.default_rng(0)
        y = np.arange(360) % 3
        x = (3 * np.eye(3, 9)[y] + rng.normal(0, 1, (360, 9))).astype(np.float32)
        seen = x[:, None] + rng.normal(0, 0.1, (360, views, 9)).astype(np.float32)
        path = tmp_path / f"clouds{views}.npz"
        held = {"y_train": y[:320], "x_test": x[320:], "y_test": y[320:]}
        np.savez(path, x_train=seen[:320] if views > 1 else x[:320], kind="vectors", **held)
        return f"npz:{path}"

    return write


class Forbidden:
    """Stands in for the truth: any look at it is an error."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"a method looked at the truth: {name}")


class Blind(Run):
    """A training whose truth is hidden from the method, and there again when an epoch is measured."""

    def train(self, t: int) -> Any:
        seen, self.data = self.data, replace(self.data, truth=Forbidden())
        try:
            return super().train(t)
        finally:
            self.data = seen


@dataclass
class Trained:
    """A whole training at noise 0.2, blind, with what it was like after some epochs."""

    run: Run
    checkpoints: dict[int, Path] = field(default_factory=dict)  # epochs done -> a checkpoint
    states: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)  # epochs done -> the method's state


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def of(method: str) -> Trained:
        run = run_for(method, rate=0.2)  # at 0.3 the backward correction learns .61, a hair above what is asked
        made = Trained(Blind(run.spec, run.data))
        for done in range(1, EPOCHS + 1):
            made.run.epoch()
            if done in RESUMED:
                made.checkpoints[done] = folder / f"{method}-{done}.pt"
                made.run.save(made.checkpoints[done])
            if done - 2 in RESUMED:
                made.states[done] = {name: v.clone() for name, v in made.run.method.state_dict().items()}
        return made

    return of


@pytest.mark.slow
@every_method
def test_learns_a_noisy_task_far_better_than_chance(method: str, trained: Callable[[str], Trained]) -> None:
    run = trained(method).run
    assert not run.diverged
    assert max(r["test/acc"] for r in run.records[-3:]) > 0.6  # chance is 0.1


@pytest.mark.slow
@every_method
def test_never_touches_the_truth(method: str, trained: Callable[[str], Trained]) -> None:
    run = trained(method).run  # blind in every epoch
    assert len(run.records) == EPOCHS
    seeing, run.data = run.data, replace(run.data, truth=Forbidden())
    try:
        with pytest.raises(AssertionError, match="looked at the truth"):
            run.measure(None)
    finally:
        run.data = seeing


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("at", RESUMED)
def test_resumes_bit_exactly(method: str, at: int, trained: Callable[[str], Trained]) -> None:
    whole, again = trained(method), run_for(method, rate=0.2)
    again.load(whole.checkpoints[at])
    torch.manual_seed(99)  # the global generator must not matter
    for _ in range(2):
        again.epoch()
    assert [told(r) for r in again.records] == [told(r) for r in whole.run.records[: at + 2]]
    state = again.method.state_dict()
    assert state.keys() == whole.states[at + 2].keys()
    for name, a in whole.states[at + 2].items():
        assert torch.equal(a.nan_to_num(), state[name].nan_to_num()), name


@every_method
def test_same_seed_same_run_and_other_seed_other_run(method: str) -> None:
    a, b = run_for(method), run_for(method)
    assert told(a.epoch()) == told(b.epoch())
    c = Run(replace(a.spec, seed=4), a.data)
    assert told(c.epoch())["train/loss"] != a.records[0]["train/loss"]


@pytest.mark.slow
@every_method
def test_is_freed_at_once(method: str) -> None:
    """Networks that wait for the garbage collector stay on a device beside those of the next trial."""
    run = run_for(method, epochs=1)
    run.epoch()
    gone = [weakref.ref(run), weakref.ref(run.method)]
    gc.collect()
    gc.disable()
    try:
        del run
        assert [r() for r in gone] == [None, None]
    finally:
        gc.enable()


@every_method
def test_probabilities_sum_to_one(method: str) -> None:
    run = run_for(method)
    run.epoch()
    run.method.eval()
    with torch.no_grad():
        p = run.method.probs(run.train_set.normalised(run.data.x_held[:50]))
        one = run.method.probs(run.train_set.normalised(run.data.x_held[:1]))
    assert p.shape == (50, 10)
    assert torch.allclose(p.sum(1), torch.ones(50), atol=1e-5)
    assert (p >= 0).all()
    assert torch.allclose(one, p[:1], atol=1e-5)  # an image's prediction does not hang on its neighbours


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("views", [1, 4])
def test_takes_vectors_and_views_of_them(method: str, views: int, clouds: Any) -> None:
    """A whole training of few samples: all phases of the method."""
    run = run_for(method, clouds(views), epochs=8)
    records = [run.epoch() for _ in range(8)]
    assert not run.diverged
    assert max(r["test/acc"] for r in records) > 0.6  # chance is 1/3
    run.method.eval()
    with torch.no_grad():
        p = run.method.probs(run.train_set.normalised(run.data.x_held))
    assert p.shape == (len(run.data.x_held), 3)
    assert torch.allclose(p.sum(1), torch.ones(len(p)), atol=1e-5)
    assert run.arrays()["confusion"].sum() == len(run.data.y_test)


@pytest.mark.slow
@every_method
def test_durations_scale_with_the_budget(method: str, blobs: Any) -> None:
    """The share of epochs before a method begins to weigh samples, and its ``settled``, do not hang on the budget."""
    shares, dataset = [], blobs(120)
    for epochs in (10, 30):
        run = run_for(method, dataset, epochs=epochs)
        assert 0 <= run.method.settled() <= 1
        first = next((t for t in range(epochs) if run.epoch().get("select/recall") is not None), epochs)
        shares.append(first / epochs)
    assert abs(shares[0] - shares[1]) <= 0.11  # whole epochs of the small budget


@pytest.mark.slow
@every_method
@pytest.mark.parametrize(
    "n", [73, 74, 12]
)  # less a tenth for validation: a last batch of two, of three, fewer images than a batch
def test_odd_batches_survive(method: str, n: int, blobs: Any) -> None:
    run = run_for(method, blobs(n), epochs=6)
    for _ in range(6):
        record = run.epoch()
        assert record["train/loss"] is not None
        assert math.isfinite(record["val/loss"])


@every_method
@pytest.mark.parametrize("network", ["mlp", pytest.param("shufflenet_v2_x0_5", marks=pytest.mark.slow)])
def test_last_batch_of_one_survives(method: str, network: str, blobs: Any) -> None:
    """Our networks' batch normalisation, and a library's: at 8x8 pixels its last layers have one value per channel."""
    epochs = 6 if network == "mlp" else 4
    run = run_for(method, blobs(72), epochs=epochs, network=network)
    assert len(run.data.y) == 65
    for _ in range(epochs):
        assert run.epoch()["train/loss"] is not None
    assert not run.diverged


@every_method
def test_task_and_training_set_offer_no_truth(method: str) -> None:
    run = run_for(method, rate=0.5)
    clean = run.data.truth.clean
    for holder in (run.method.task, run.train_set):
        for value in vars(holder).values():
            assert not (
                isinstance(value, torch.Tensor) and value.shape == clean.shape and torch.equal(value.cpu(), clean)
            )


@pytest.mark.slow
@every_method
def test_weights_are_in_the_unit_interval_and_find_wrong_labels(method: str, trained: Callable[[str], Trained]) -> None:
    if trained(method).run.weight is None:
        pytest.skip("this method weighs no samples")
    run = run_for(method, rate=0.4, epochs=15)
    for t in range(15):
        _, weight = run.train(t)
        run.records.append({})
    assert weight is not None
    seen = weight[~weight.isnan()]
    assert ((seen >= 0) & (seen <= 1)).all()
    assert run.measure(weight)["select/auroc"] > 0.65  # chance is 0.5


@every_method
def test_space_file_agrees_with_the_signature(method: str) -> None:
    loaded = space.load(method)
    for rate in (0.2, 0.5, 0.8):
        point, _, source = loaded.paper("cifar10", Noise("symmetric", rate))
        assert set(point) >= {d.name for d in loaded.dimensions}
        assert source
        params = loaded.params(point)
        import optuna

        asked = optuna.trial.FixedTrial(params)
        assert loaded.suggest(asked) == pytest.approx({d.name: point[d.name] for d in loaded.dimensions})


@every_method
def test_has_a_card(method: str) -> None:
    import sys

    card = sys.modules[METHODS[method].__module__].__doc__ or ""
    assert len(card.splitlines()) > 3
    assert "deviation" in card.lower()
