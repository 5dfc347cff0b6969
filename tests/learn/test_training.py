"""The training loop without Ray: what data it prepares and refuses, what it goes on from, what it records."""

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raystudy.data import corruption, datasets
from raystudy.data.evaluation import Evaluation
from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.errors import InputError
from raystudy.learn import samples
from raystudy.learn.celldata import CellData, _prepared, prepare
from raystudy.learn.checkpoint import previous
from raystudy.learn.methods import METHODS
from raystudy.learn.metrics import selection
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run, _one_class, resume

EPOCHS = 3
NOISE = Noise("symmetric", 0.5)


def data_for(noise: Noise = NOISE, val_fraction: float = 0.1) -> CellData:
    return prepare("digits", Path("data"), noise, val_fraction)


def spec_for(method: str = "ce", seed: int = 0, clean_val: int = 0, **point: Any) -> TrialSpec:
    data = data_for()
    return TrialSpec(
        method=method,
        version=1,
        point=space.load(method).paper("digits", NOISE)[0] | point,
        dataset="digits",
        data_digest=data.data_digest,
        noise=NOISE.to_dict(),
        noise_digest=data.noise_digest,
        network="mlp",
        recipe=Recipe(lr=0.05).to_dict(),
        epochs=EPOCHS,
        seed=seed,
        val_fraction=0.1,
        clean_val=clean_val,
    )


def run_for(method: str = "ce", **told: Any) -> Run:
    return Run(spec_for(method, **told), data_for())


# -- data


def test_validation_is_a_noisy_part_of_the_training_set() -> None:
    data = data_for()
    n, m = len(data.y), len(data.y_val)
    assert (n, m, len(data.y_test)) == (1347 - 135, 135, 450)
    assert len(data.x) == n
    assert len(data.x_held) == m + 450
    # Inclusive noise at 0.5 gives int(0.5 * 1347) labels a new one of ten: about 0.45 are wrong, on either side of the split.
    assert data.effective_rate == pytest.approx(0.45, abs=0.03)
    wrong_val = (data.y_val != data.truth.val_clean).float().mean()
    assert float(wrong_val) == pytest.approx(0.45, abs=0.12)
    assert float(data.truth.wrong.float().mean()) == pytest.approx(0.45, abs=0.03)
    assert torch.equal(data.truth.wrong, data.y != data.truth.clean)
    total = (data.truth.wrong.sum() + (data.y_val != data.truth.val_clean).sum()) / (n + m)
    assert float(total) == pytest.approx(data.effective_rate)


def test_the_test_set_is_never_noisy_and_never_moves() -> None:
    one, other = data_for(Noise("symmetric", 0.2)), data_for(Noise("pair", 0.45, seed=7))
    assert torch.equal(one.y_test, other.y_test)
    assert torch.equal(one.x_held[-450:], other.x_held[-450:])


def test_digests_tell_labels_apart_and_nothing_else() -> None:
    base = data_for()
    others = [
        data_for(Noise("symmetric", 0.5, seed=1)),
        data_for(Noise("symmetric", 0.4)),
        data_for(Noise("symmetric", 0.5, "exclusive")),
        data_for(Noise("pair", 0.5)),
        data_for(NOISE, 0.2),
    ]
    assert {d.data_digest for d in others} == {base.data_digest}
    assert len({base.noise_digest, *(d.noise_digest for d in others)}) == 6
    _prepared.cache_clear()
    again = data_for()
    assert again.noise_digest == base.noise_digest
    assert torch.equal(again.y, base.y)


def test_the_seed_of_a_noise_moves_the_split_and_its_rate_does_not() -> None:
    base = data_for()
    assert torch.equal(data_for(Noise("pair", 0.2)).x, base.x)
    assert not torch.equal(data_for(Noise("symmetric", 0.5, seed=1)).x, base.x)


def test_every_method_is_given_the_same_flips() -> None:
    runs = [run_for(method, seed=i) for i, method in enumerate(sorted(METHODS))]
    for run in runs:
        assert torch.equal(run.train_set.y, runs[0].train_set.y)
        assert torch.equal(run.data.y_val, runs[0].data.y_val)


def test_training_changes_no_data() -> None:
    data = data_for()
    before = [t.clone() for t in (data.x, data.y, data.x_held, data.y_val, data.y_test, data.truth.clean)]
    run = run_for("dividemix")
    run.epoch()
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, (data.x, data.y, data.x_held, data.y_val, data.y_test, data.truth.clean), strict=True)
    )


@pytest.mark.parametrize("what", ["data_digest", "noise_digest"])
def test_other_data_are_refused(what: str) -> None:
    with pytest.raises(
        InputError, match=r"^data set 'digits' here is not the one the study was begun with \([^\n]*expected[^\n]*\)$"
    ):
        Run(replace(spec_for(), **{what: "0" * 16}), data_for())
    with pytest.raises(InputError, match="not the one"):
        Run(spec_for(), data_for(Noise("symmetric", 0.4)))


# -- checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    run = run_for()
    run.epoch()
    run.save(tmp_path / "trial.pt")
    return tmp_path / "trial.pt"


def refused(path: Path, words: str) -> None:
    """The file is refused in one line, and the run is as it was."""
    run = run_for()
    before = {k: v.clone() for k, v in run.method.state_dict().items()}
    with pytest.raises(InputError, match=words) as e:
        run.load(path)
    assert "\n" not in str(e.value)
    assert str(path) in str(e.value)
    assert run.records == []
    assert all(torch.equal(v, before[k]) for k, v in run.method.state_dict().items())


class Harm:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path / "none.pt", "there is no checkpoint")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_checkpoint(checkpoint: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    refused(checkpoint, "checkpoint .* is ")


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 40, b"PK\x03\x04" + bytes(100)])
def test_bytes_that_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    refused(tmp_path / "x.pt", "checkpoint .* is ")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, legacy: bool) -> None:
    path, harm = tmp_path / "x.pt", tmp_path / "harm"
    torch.save(
        {"format": "raystudy-checkpoint-1", "method": Harm(harm)}, path, _use_new_zipfile_serialization=not legacy
    )
    refused(path, "checkpoint .* is ")
    path.write_bytes(pickle.dumps(Harm(harm)))
    refused(path, "checkpoint .* is ")
    assert not harm.exists()


@pytest.mark.parametrize("state", [{}, {"format": "other"}, [1, 2], torch.zeros(2), "text"])
def test_a_file_of_torch_that_is_not_ours(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "is not a checkpoint of raystudy")


@pytest.mark.parametrize("told", [{"seed": 1}, {"lr": 0.01}, {"clean_val": 5}, {"method": "mixup"}])
def test_another_trials_checkpoint(tmp_path: Path, told: dict[str, Any]) -> None:
    other = run_for(**told)
    other.save(tmp_path / "x.pt")
    refused(tmp_path / "x.pt", f"belongs to another trial \\({other.spec.key}, not {spec_for().key}\\)")


def test_a_flipped_bit_in_a_checkpoint(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    refused(checkpoint, "checkpoint .* is ")


def test_a_checkpoint_goes_on(checkpoint: Path) -> None:
    run = run_for()
    run.load(checkpoint)
    assert len(run.records) == 1
    whole = run_for()
    for _ in range(2):
        whole.epoch()
    run.epoch()
    assert {k: v for k, v in run.records[1].items() if k != "cost/seconds"} == {
        k: v for k, v in whole.records[1].items() if k != "cost/seconds"
    }


def test_saving_keeps_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    run, path = run_for(), tmp_path / "trial.pt"
    for _ in range(3):
        run.epoch()
        run.save(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["trial.pt", "trial.pt.prev"]
    for file, epochs in ((path, 3), (previous(path), 2)):
        other = run_for()
        other.load(file)
        assert other.records == run.records[:epochs]


@pytest.mark.parametrize(("broken", "epochs", "notes"), [((), 2, 0), (("",), 1, 1), (("", ".prev"), 0, 2)])
def test_resume_goes_back_until_a_checkpoint_can_be_read(
    tmp_path: Path, broken: tuple[str, ...], epochs: int, notes: int
) -> None:
    run, path = run_for(), tmp_path / "trial.pt"
    for _ in range(2):
        run.epoch()
        run.save(path)
    for suffix in broken:
        file = path.with_name(path.name + suffix)
        file.write_bytes(file.read_bytes()[:1000])
    told: list[str] = []
    other = run_for()
    resume(other, path, told.append)
    assert other.records == run.records[:epochs]
    assert len(told) == notes
    run.epoch()
    other.epoch()
    assert other.records[epochs]["val/loss"] == run.records[epochs]["val/loss"]


def test_resume_without_a_checkpoint(tmp_path: Path) -> None:
    run, told = run_for(), []
    resume(run, tmp_path / "trial.pt", told.append)
    assert run.records == told == []


def test_killed_between_the_two_moves_of_saving(checkpoint: Path) -> None:
    """The old file has become ``.prev`` and the new one has no name yet."""
    checkpoint.rename(previous(checkpoint))
    run = run_for()
    resume(run, checkpoint, pytest.fail)
    assert len(run.records) == 1


# -- records


def test_a_run_that_diverges_says_so(tmp_path: Path) -> None:
    run = run_for(lr=1e6)
    while not run.diverged:
        record = run.epoch()
        assert len(run.records) < 3
    assert record["train/loss"] is None or record["val/loss"] is None
    assert all(v is None or abs(v) < float("inf") for v in record.values())
    run.save(tmp_path / "trial.pt")
    other = run_for(lr=1e6)
    other.load(tmp_path / "trial.pt")
    assert other.diverged
    assert not run_for().diverged


def test_a_clean_validation_set_only_where_asked_for() -> None:
    assert "val/clean_acc" not in run_for().epoch()
    run = run_for(clean_val=50)
    record = run.epoch()
    truth = run.data.truth.val_clean
    run.method.eval()
    with torch.no_grad():
        predicted = run.method.probs(run.train_set.normalised(run.data.x_held[:135])).argmax(1)
    assert record["val/clean_acc"] == pytest.approx(float((predicted[:50] == truth[:50]).float().mean()), abs=1e-6)
    assert record["val/acc"] == pytest.approx(float((predicted == run.data.y_val).float().mean()), abs=1e-6)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_records(method: str) -> None:
    run = run_for(method, clean_val=10)
    records = [run.epoch() for _ in range(EPOCHS)]
    names = set().union(*records)
    assert len(names) < 20
    assert {
        "train/loss",
        "val/acc",
        "val/loss",
        "test/acc",
        "val/clean_acc",
        "label/memorised",
        "label/corrected",
    } <= names
    assert {"cost/passes", "cost/seconds"} <= names
    assert all(
        name.partition("/")[0] in ("train", "val", "test", "label", "select", "cost", "method") for name in names
    )
    assert all(type(v) is float for r in records for v in r.values() if v is not None)
    assert all(0 <= r[k] <= 1 for r in records for k in ("val/acc", "test/acc", "label/memorised", "label/corrected"))
    assert all(r["cost/passes"] >= 1212 for r in records)  # INCV trains on halves: three passes over half of the images


def test_a_run_leaves_the_global_generator_alone() -> None:
    run = run_for("mixup")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    run.epoch()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["ce", "dividemix"])
def test_arrays_count_every_image_once_and_change_nothing(method: str) -> None:
    run = run_for(method)
    record = run.epoch()
    torch.manual_seed(5)
    state, weights = torch.get_rng_state(), [p.clone() for p in run.method.parameters()]
    told = run.arrays()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(weights, run.method.parameters(), strict=True))
    truth, wrong = run.data.truth, int(run.data.truth.wrong.sum())
    assert (told["clean"].sum(), told["wrong"].sum()) == (len(run.data.y) - wrong, wrong)
    assert len(told["edges"]) == len(told["clean"]) + 1
    assert told["confusion"].trace() / told["confusion"].sum() == pytest.approx(record["test/acc"], abs=1e-6)
    assert told["transition"].sum() - told["transition"].trace() == wrong
    assert told["transition"].sum(1).tolist() == truth.clean.bincount(minlength=10).tolist()
    means, variances, shares = told["gmm"]
    assert means[0] <= means[1]
    assert (variances > 0).all()
    assert shares.sum() == pytest.approx(1)


def test_arrays_hold_no_truth_that_nobody_knows() -> None:
    """Right and wrong labels are not told apart, and no matrix says that every label is its own truth."""
    run = run_for("ce")
    run.epoch()
    told = run.arrays()
    run.data = replace(run.data, effective_rate=None, truth=replace(run.data.truth, known=False))
    unknown = run.arrays()
    assert set(unknown) == {"edges", "all", "gmm", "confusion"}
    assert unknown["all"].tolist() == (told["clean"] + told["wrong"]).tolist()
    assert unknown["confusion"].tolist() == told["confusion"].tolist()


# -- early failure


def stuck(method: str, epochs: int, **point: Any) -> Run:
    """A run whose networks say class 3, whatever they see, and hardly learn."""
    run = Run(replace(spec_for(method, **point), epochs=epochs, recipe=Recipe(lr=1e-12).to_dict()), data_for())
    for net in run.method.nets:
        *_, weight, bias = net.parameters()
        torch.nn.init.zeros_(weight)
        with torch.no_grad():
            bias.copy_(torch.eye(10)[3])
    return run


def collapse(run: Run) -> list[tuple[float | None, float | None]]:
    return [(r.get("method/alike"), r.get("method/collapsed")) for r in run.records]


def test_one_class_for_three_epochs_is_told_as_a_collapse(tmp_path: Path) -> None:
    run = stuck("ce", 5)
    for _ in range(4):
        run.epoch()
    assert collapse(run) == [(1, None), (2, None), (3, 1), (4, 1)]
    run.save(tmp_path / "c.pt")
    again = Run(run.spec, run.data)
    again.load(tmp_path / "c.pt")
    again.epoch()
    assert collapse(again)[-1] == (5, 1)  # of the same networks, by the records before


@pytest.mark.parametrize(
    ("predicted", "given", "told"),
    [
        ([3] * 200, [0, 1, 2, 3] * 5, True),
        ([3] * 198 + [0, 1], [0, 1, 2, 3] * 5, True),  # a sample or two are no sign of life
        ([3] * 197 + [0, 1, 2], [0, 1, 2, 3] * 5, False),
        ([3] * 198 + [0, 1], [3] * 19 + [0], False),  # labels are nearly all of that class, too
        ([3] * 200, [3] * 19 + [0], True),
        ([3], [0, 1], False),  # one prediction tells nothing
        ([], [0, 1], False),
    ],
)
def test_one_class_is_predicted_where_it_nearly_is(predicted: list[int], given: list[int], told: bool) -> None:
    assert bool(_one_class(torch.tensor(predicted, dtype=torch.int64), torch.tensor(given))) is told


def test_a_warm_up_does_not_count() -> None:
    run = stuck("f_correction", 8, warmup=0.5, restart=False, t_source="anchor")
    assert run.method.settled() == 0.5
    for _ in range(8):
        run.epoch()
    assert collapse(run) == [(None, None)] * 4 + [(1, None), (2, None), (3, 1), (4, 1)]


def test_weights_that_are_all_equal_are_a_collapse_and_others_are_none() -> None:
    for rate, told in ((0.0, [(1, None), (2, None), (3, 2), (4, 2)]), (0.3, [(None, None)] * 4)):
        run = Run(replace(spec_for("coteaching", forget_rate=rate, gradual=0.0), epochs=4), data_for())
        for _ in range(4):
            run.epoch()
        assert collapse(run) == told


@pytest.mark.parametrize(("method", "weighs"), [("ce", False), ("dividemix", True)])
def test_single_images_are_named_by_their_place_in_the_data_set(method: str, weighs: bool) -> None:
    run = run_for(method)
    for _ in range(EPOCHS):
        record = run.epoch()
    told = run.arrays(each=True)
    data = datasets.load("digits", "data")
    given = corruption.corrupted(data, NOISE).given
    both = np.concatenate([told["train_index"], told["val_index"]])
    assert sorted(both.tolist()) == list(range(len(given)))
    assert np.array_equal(np.concatenate([told["train_given"], told["val_given"]]), given[both])
    assert np.array_equal(run.data.x.numpy(), data.x_train[torch.from_numpy(told["train_index"]).long()].numpy())
    assert told["val_probs"].dtype == np.float16
    assert (told["val_probs"].argmax(1) == told["val_given"]).mean() == pytest.approx(record["val/acc"], abs=0.01)
    assert ("train_weight" in told) == weighs
    stored = sum(told[k].nbytes for k in told if k.startswith(("train_", "val_")))
    n, m = len(told["train_index"]), len(told["val_index"])
    assert stored == samples.size(n, m, 10) - (0 if weighs else 2 * n)
    if weighs:
        weight = torch.from_numpy(told["train_weight"]).float()
        assert selection(weight, run.data.truth.wrong)["select/auroc"] == pytest.approx(
            record["select/auroc"], abs=0.01
        )


# -- how often is evaluated


def evaluated(method: str, told: Evaluation, epochs: int = 14, n: int = 0) -> Run:
    """A run of ``n`` epochs, or of all."""
    run = Run(replace(spec_for(method), epochs=epochs, evaluate=told.to_dict()), data_for())
    for _ in range(n or epochs):
        run.epoch()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ce", "dividemix"])
def test_a_training_is_the_same_however_often_it_evaluates(method: str) -> None:
    """Every third epoch on 50 test samples, in full after the second and from the fifth on."""
    always, seldom = evaluated(method, Evaluation()), evaluated(method, Evaluation(3, 50).at([2]))
    for a, b in zip(always.method.state_dict().values(), seldom.method.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    full, part = [1, *range(4, 14)], [2]
    for t, (a, b) in enumerate(zip(always.records, seldom.records, strict=True)):
        looked = {k for k in a if k.startswith(("val/", "test/", "label/"))}
        both = {k for k in a if k in b} - {"cost/seconds"}
        assert {k: a[k] for k in both} == {k: b[k] for k in both}
        assert a.keys() - b.keys() == (set() if t in full else {"test/acc"} if t in part else looked)
        assert b.keys() - a.keys() == ({"test/subset_acc"} if t in part else set())


def test_a_part_of_the_test_set_is_the_same_for_every_training_of_a_condition(tmp_path: Path) -> None:
    """50 of the 450 test images, in their order; what is recorded of them is what the model makes of them."""
    run, other = evaluated("ce", Evaluation(1, 50), n=1), evaluated("elr", Evaluation(1, 50), n=1)
    assert run._part is not None
    assert other._part is not None
    assert torch.equal(run._part.images, other._part.images)
    assert len(run._part.images) == len(run.data.y_val) + 50 + len(run._wrong)
    test = run.data.x_held[len(run.data.y_val) :]
    shown = run._part.images[len(run.data.y_val) :][:50]
    at = [int((test == image).flatten(1).all(1).nonzero()[0]) for image in shown]
    assert at == sorted(at)
    right = run.method.probs(run.train_set.normalised(test[at])).argmax(1) == run.data.y_test[at]
    assert run.records[0]["test/subset_acc"] == pytest.approx(float(right.float().mean()))


def test_seldom_evaluated_trainings_go_on_where_they_stopped(tmp_path: Path) -> None:
    """Also from an epoch in which nothing was evaluated."""
    told = Evaluation(5, 50)
    whole, begun = evaluated("elr", told), evaluated("elr", told, n=3)
    assert "val/loss" not in begun.records[-1]
    begun.save(tmp_path / "c.pt")
    again = Run(begun.spec, data_for())
    again.load(tmp_path / "c.pt")
    assert not again.diverged
    while len(again.records) < 14:
        again.epoch()

    def timeless(run: Run) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k != "cost/seconds"} for r in run.records]

    assert timeless(again) == timeless(whole)


def test_a_training_that_predicts_one_class_collapses_in_the_epochs_that_are_looked_at() -> None:
    run = Run(replace(spec_for(lr=1e-9), epochs=30, evaluate=Evaluation(2).to_dict()), data_for())
    head = list(run.method.nets[0].modules())[-1]
    assert isinstance(head, torch.nn.Linear)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[3] = 50.0
    told = [run.epoch().get("method/collapsed") for _ in range(7)]
    assert told == [None] * 5 + [1.0, None]  # looked at in the second, fourth and sixth


# -- more epochs for what was trained


CONSTANT = Recipe(lr=0.05, schedule="constant").to_dict()


def of_epochs(method: str, epochs: int, n: int = 0, recipe: dict[str, Any] = CONSTANT) -> Run:
    run = Run(replace(spec_for(method), epochs=epochs, recipe=recipe), data_for())
    for _ in range(n):
        run.epoch()
    return run


@pytest.mark.parametrize(("method", "at"), [("ce", 4), ("elr", 3)])  # finished, and left before
def test_more_epochs_begin_with_what_was_trained_bit_for_bit(method: str, at: int, tmp_path: Path) -> None:
    short, whole, longer = of_epochs(method, 4, at), of_epochs(method, 7, 7), of_epochs(method, 7)
    assert short.bound == ""
    short.save(tmp_path / "c.pt")
    longer.load(tmp_path / "c.pt")
    assert len(longer.records) == at
    longer.save(tmp_path / "d.pt")  # left once more, in between
    longer = of_epochs(method, 7)
    longer.load(tmp_path / "d.pt")
    while len(longer.records) < 7:
        longer.epoch()
    assert longer.bound == ""
    for a, b in zip(longer.method.state_dict().values(), whole.method.state_dict().values(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
    for c, d in zip(longer.method.optimizers, whole.method.optimizers, strict=True):
        assert all(
            torch.equal(c.state[p]["momentum_buffer"], d.state[q]["momentum_buffer"])
            for p, q in zip(c.state, d.state, strict=True)
        )

    def timeless(run: Run) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k != "cost/seconds"} for r in run.records]

    assert timeless(longer) == timeless(whole)


@pytest.mark.parametrize(
    ("method", "recipe", "why"),
    [
        ("ce", Recipe().to_dict(), "its learning rate is drawn over all epochs (schedule cosine)"),
        ("ce", Recipe(schedule="step").to_dict(), "its learning rate is drawn over all epochs (schedule step)"),
        ("coteaching", CONSTANT, "durations of coteaching are fractions of all epochs"),
        ("bootstrap", CONSTANT, "durations of bootstrap are fractions of all epochs"),
    ],
)
def test_more_epochs_that_are_another_training_are_refused_in_a_line(
    method: str, recipe: dict[str, Any], why: str, tmp_path: Path
) -> None:
    of_epochs(method, 2, 2, recipe).save(tmp_path / "c.pt")
    longer = of_epochs(method, 3, recipe=recipe)
    before = [v.clone() for v in longer.method.state_dict().values()]
    with pytest.raises(InputError) as told:
        longer.load(tmp_path / "c.pt")
    assert str(told.value) == f"checkpoint {tmp_path / 'c.pt'} is of 2 epochs, and 3 are another training: {why}"
    assert longer.records == []
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(before, longer.method.state_dict().values(), strict=True)
    )
    with pytest.raises(InputError, match="belongs to another trial"):  # fewer epochs than it has
        of_epochs(method, 1, recipe=recipe).load(tmp_path / "c.pt")
