"""MentorNet DD: parity of the forward pass, burn-in, what reaches its parameters; learning it on a toy; the shipped file."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy import blobs, mlp, task
from toy import run as run_method

from raystudy import cli
from raystudy.data.batch import Batch
from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.errors import InputError
from raystudy.learn.methods import mentornet_dd
from raystudy.learn.methods.mentormix import MentorMix
from raystudy.learn.methods.mentornet_dd import FILE, SHAPES, Mentor, MentorNetDD, mentor_logits, with_burn_in
from raystudy.learn.ops import nearest_rank
from raystudy.tools import mentor


def exact(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * max(float(b.abs().max()), 1e-30))


def test_forward_pass_and_burn_in_parity(parity) -> None:
    z = {key: torch.from_numpy(value) for key, value in parity("mentornet").items()}
    net = {key.removeprefix("net_"): value for key, value in z.items() if key.startswith("net_")}
    assert set(net) - {"logit", "v"} == set(mentor.initial(torch.Generator())), "names and their number"
    burn_in = int(z["burn_in_epoch"])
    for s, features in enumerate(z["features"]):
        losses, diff, e = features[:, 0], features[:, 1], features[:, 3].long()
        logits = mentor_logits(net, losses, diff, e)
        exact(logits, z["net_logit"][s])
        exact(logits.sigmoid(), z["net_v"][s])
        exact(mentor_logits(net, losses, diff, e[0]), z["net_logit"][s])  # one percent for all
        exact(with_burn_in(logits.sigmoid(), int(e[0]), burn_in), z["burn_v"][s])
        fixed = min(int(e[0]), burn_in)
        assert fixed == int(z["burn_fixed_epochs"][s])
        v = mentor_logits(net, losses, diff, torch.tensor(fixed)).sigmoid()
        exact(with_burn_in(v, fixed, burn_in), z["burn_fixed_v"][s])


def test_parameters_have_the_published_shapes() -> None:
    net = mentor.initial(torch.Generator())
    assert {name: tuple(p.shape) for name, p in net.items()} == SHAPES
    assert sum(p.numel() for name, p in net.items() if name != "epoch_embedding") == 257


def test_shipped_file_prefers_small_losses() -> None:
    with np.load(FILE, allow_pickle=False) as stored:
        net = {name: torch.from_numpy(stored[name]) for name in stored.files}
    e = net.pop("trained_at")
    assert int(e) == mentor.TRAINED_AT
    losses = torch.tensor([0.05, 0.3, 3.0, 5.0])
    for m in (1.0, 2.0, 3.0):
        v = mentor_logits(net, losses, losses - m, e).sigmoid()
        assert (v[:2] > 0.8).all()
        assert (v[2:] < 0.4).all()


def test_learns_a_threshold() -> None:
    torch.manual_seed(0)
    losses = 4 * torch.rand(2000)
    diff, clean = losses - 2, (losses < 2).float()
    net = mentor.fit(losses[:1500], diff[:1500], clean[:1500], steps=1000)
    v = mentor_logits(net, losses[1500:], diff[1500:], torch.tensor(mentor.TRAINED_AT)).sigmoid()
    assert ((v > 0.5).float() == clean[1500:]).float().mean() > 0.95
    drawn = mentor.initial(torch.Generator().manual_seed(0))["epoch_embedding"]
    assert torch.equal(net["epoch_embedding"], drawn)  # frozen
    again = mentor.fit(losses[:1500], diff[:1500], clean[:1500], steps=10)
    assert torch.equal(mentor.fit(losses[:1500], diff[:1500], clean[:1500], steps=10)["fc_w"], again["fc_w"])


def source(tmp_path: Path, *options: str) -> tuple[str, ...]:
    return ("train-mentor", "--out", str(tmp_path / "made.npz"), *options)


@pytest.mark.slow
def test_shipped_file_is_what_its_documented_command_makes(tmp_path, capsys) -> None:
    """Up to rounding that differs between machines: the same decisions on the losses of a student not seen."""
    documented = ("--dataset", "digits", "--noise", "symmetric:0.2", "--students", "4", "--epochs", "100")
    assert " ".join(documented) in " ".join((mentornet_dd.__doc__ or "").split())
    assert cli.main(source(tmp_path, *documented, "--no-tracking")) == 0
    recipe = space.recipe_for("shared", "ce", "digits", "mlp")
    losses, clean = mentor.record(9, Noise("symmetric", 0.2, seed=9), 100, "digits", Path("data"), "mlp", recipe)
    diff = losses - nearest_rank(losses, 0.9)
    for file in ("package", str(tmp_path / "made.npz")):
        assert ((Mentor(file)(losses, diff) > 0.5) == clean).float().mean() > 0.93


@pytest.mark.slow
def test_command_makes_a_mentor_and_stores_it_in_mlflow(tmp_path, capsys) -> None:
    """From another source than the package's; what MLflow gives back weighs as the file does, with its accuracy as metrics."""
    import mlflow
    import pandas as pd

    uri = f"sqlite:///{tmp_path / 'm.db'}"
    options = (
        "--noise",
        "symmetric:exclusive:0.4",
        "--students",
        "1",
        "--epochs",
        "60",
        "--seed",
        "5",
        "--steps",
        "4000",
    )
    assert cli.main(source(tmp_path, *options, "--tracking-uri", uri)) == 0
    told = capsys.readouterr().out
    file, uri_before = tmp_path / "made.npz", mlflow.get_tracking_uri()
    assert str(file) in told
    mlflow.set_tracking_uri(uri)
    try:
        (run,) = mlflow.search_runs(experiment_names=["mentors"], output_format="list")
        loaded = mlflow.pyfunc.load_model(re.search(r"models:/\S+", told)[0])
        losses, diff = torch.linspace(0, 5, 20), torch.linspace(-2, 3, 20)
        v = loaded.predict(pd.DataFrame({"loss": losses.double(), "diff": diff.double()}))
        folder = Path(mlflow.artifacts.download_artifacts(re.search(r"models:/\S+", told)[0]))
    finally:
        mlflow.set_tracking_uri(uri_before)
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "dataset": "digits", "noise": "symmetric:exclusive:0.4", "students": "1", "seed": "5", "percentile": "0.9",
        "steps": "4000", "network": "mlp", "epochs": "60",
    }  # fmt: skip
    assert run.data.metrics["losses"] == 1212
    assert run.data.metrics["wrong"] == pytest.approx(0.4, abs=0.04)
    for part in ("train", "held_out"):
        assert run.data.metrics[f"{part}/accuracy"] > 0.85
        assert run.data.metrics[f"{part}/auroc"] > 0.85
    torch.testing.assert_close(torch.from_numpy(v), Mentor(str(file))(losses, diff))
    assert not [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pt", ".pth")], "nothing pickled"

    toy = blobs(n=64)
    for method, name in ((MentorNetDD, "mentor"), (partial(MentorMix, mentor="learned"), "mentor_file")):
        weights = []
        for which in ("package", str(file)):
            torch.manual_seed(0)
            weights.append(run_method(method(task(toy.train), **{name: which}), toy.train, range(5, 6))[0][0]["weight"])
        assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (None, "there is no mentor"),
        ({}, "cannot be read"),
        ({"fc_w": np.zeros((9, 21))}, "fc_w must be [9, 20]"),
        ({"fc_b": np.full(20, np.nan)}, "fc_b must be [20] finite numbers"),
        ({"trained_at": np.int64(100)}, "trained_at"),
        ({"out_b": np.array([None], dtype=object)}, "cannot be read"),
    ],
)
def test_what_is_no_mentor_is_refused_in_one_line(tmp_path, arrays, told: str) -> None:
    path = tmp_path / "m.npz"
    if arrays is not None:
        with np.load(FILE, allow_pickle=False) as stored:
            whole = {name: stored[name] for name in stored.files}
        np.savez(path, **(whole | arrays if arrays else {"x": np.zeros(1)}))
    with pytest.raises(InputError) as error:
        Mentor(str(path))
    assert told in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--students", "0"), "--students is 0"),
        (("--epochs", "0"), "--epochs is 0"),
        (("--steps", "0"), "--steps is 0"),
        (("--percentile", "90"), "--percentile is 90"),
        (("--noise", "symmetric:0.2,0.4"), "one noise level"),
        (("--noise", "symetric:0.2"), "did you mean 'symmetric'"),
        (("--noise", "symmetric:0", "--students", "1", "--epochs", "6"), "only one kind"),
        (("--out", "mentor.pt"), "ends in .npz"),
        (("--tracking-uri", "sqlite://"), "names no file"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(tmp_path, capsys, monkeypatch, options, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(
            source(tmp_path, "--no-tracking", *options)
            if options[0] != "--tracking-uri"
            else source(tmp_path, *options)
        )
        == 2
    )
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_one_step_uses_the_net_as_constants() -> None:
    toy = blobs(n=32, batch_size=32)
    torch.manual_seed(0)
    method = MentorNetDD(task(toy.train, net=lambda: mlp(8, 4, norm=False)), late_dropout=0.0)
    net = mlp(8, 4, norm=False)
    net.load_state_dict(method.nets[0].state_dict())
    mentor_before = {k: v.clone() for k, v in method.state_dict().items() if k.startswith("mentor.")}
    assert len(mentor_before) == 11
    log = method.step(Batch(torch.arange(32), toy.train.x, toy.train.y), 5)
    losses = F.cross_entropy(net(toy.train.x), toy.train.y, reduction="none")
    with np.load(FILE, allow_pickle=False) as stored:
        shipped = {name: torch.from_numpy(stored[name]) for name in stored.files}
    v = mentor_logits(shipped, losses, losses - nearest_rank(losses, 0.7), torch.tensor(18)).sigmoid().detach()
    torch.testing.assert_close(log["weight"], v)
    (v * losses).mean().backward()
    for a, b in zip(method.nets[0].parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach() - 0.05 * b.grad)
    assert all(torch.equal(method.state_dict()[k], v) for k, v in mentor_before.items())
    assert not [name for name, _ in method.named_parameters() if "mentor" in name]


def test_phases_follow_the_budget() -> None:
    toy = blobs(n=64, batch_size=64)
    torch.manual_seed(0)
    method = MentorNetDD(task(toy.train, epochs=20))
    told = ["weight" in run_method(method, toy.train, range(t, t + 1))[0][0] for t in range(6)]
    assert told == [False] * 4 + [True] * 2  # 0, 5, 10, 15 | 20, 25 percent
    assert method.settled() == 0.18


def test_tells_clean_from_flipped_labels() -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = MentorNetDD(task(toy.train, epochs=12), keep=0.65)
    logs = run_method(method, toy.train, range(10))[-1]
    index, weight = torch.cat([log["index"] for log in logs]), torch.cat([log["weight"] for log in logs])
    is_clean = (toy.train.y == toy.clean)[index]
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.3
