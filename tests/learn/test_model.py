"""Kept models: what is written and read again predicts the same, of every method; what is damaged or foreign is one line."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelled import NOISE, begun, shaken, written

from raystudy.errors import InputError
from raystudy.learn import model
from raystudy.learn.celldata import prepare
from raystudy.learn.methods import METHODS
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run


def probabilities(run: Run, n: int = 40) -> np.ndarray:
    run.method.eval()
    with torch.no_grad():
        return run.method.probs(run.train_set.normalised(run.data.x_held[:n])).float().numpy()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_predicts_the_same_when_it_is_read_again(method: str, tmp_path: Path) -> None:
    run = shaken(begun(method))
    found = model.Model(written(run, tmp_path))
    assert np.array_equal(found.predict_proba(run.data.x_held[:40]), probabilities(run))
    assert found.card.spec == run.spec
    assert found.card.key == run.spec.key
    assert found.classes == tuple(map(str, range(10)))


def test_a_decision_that_a_method_has_made_is_a_part_of_it(tmp_path: Path) -> None:
    run = shaken(begun("incv"))
    before = probabilities(run)
    run.method.co_teaching.fill_(True)  # its second stage has nets of its own
    assert not np.array_equal(before, probabilities(run))
    found = model.Model(written(run, tmp_path))
    assert np.array_equal(found.predict_proba(run.data.x_held[:40]), probabilities(run))


@pytest.mark.parametrize("network", ["convnet_small", "preact_resnet18", "shufflenet_v2_x0_5"])
def test_networks_come_back_with_their_layout(network: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 32, 32, 3)).astype(np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    run = shaken(begun("ce", f"npz:{tmp_path}/d.npz", network))
    found = model.Model(written(run, tmp_path))
    assert np.array_equal(found.predict_proba(run.data.x_held[:6]), probabilities(run, 6))


def test_vectors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(100, 3, (90, 2, 7)).astype(np.float32), np.arange(90) % 3
    told = {"kind": "vectors", "class_names": np.array(["ant", "bee", "wasp"])}
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:9, 0], y_test=y[:9], **told)
    run = shaken(begun("dividemix", f"npz:{tmp_path}/d.npz"))
    found = model.Model(written(run, tmp_path))
    p = found.predict_proba(run.data.x_held[:12])
    assert np.array_equal(p, probabilities(run, 12))
    assert np.array_equal(
        found.predict_proba(x[:5]), found.predict_proba(x[:5, 0].astype(np.float64))
    )  # first of views
    assert found.predict(x[:3, 0]).tolist() == [
        ("ant", "bee", "wasp")[i] for i in found.predict_proba(x[:3, 0]).argmax(1)
    ]
    with pytest.raises(InputError, match="takes vectors of 7 features, not of 6"):
        found.predict_proba(x[:, 0, :6])
    with pytest.raises(InputError, match="takes vectors of floats, not of int64"):
        found.predict_proba(np.zeros((2, 7), int))


def test_raw_images_and_what_is_none(tmp_path: Path) -> None:
    run = shaken(begun("ce"))
    found = model.Model(written(run, tmp_path))
    x = run.data.x_held[:3]
    assert np.array_equal(found.predict_proba(x[:, 0].numpy()), found.predict_proba(x))  # grey, without a channel
    assert found.predict_proba(x[:0]).shape == (0, 10)
    with pytest.raises(InputError, match=r"images of 1x8x8 \(channels x height x width\), not of 3x8x8"):
        found.predict_proba(np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(InputError, match="uint8"):
        found.predict_proba(np.zeros((2, 8, 8), np.float32))


def test_a_mentor_that_is_gone_is_not_missed(tmp_path: Path) -> None:
    from raystudy.learn.methods.mentornet_dd import FILE

    mentor = tmp_path / "mentor.npz"
    mentor.write_bytes(FILE.read_bytes())
    run = shaken(begun("mentornet_dd", mentor=str(mentor)))
    file = written(run, tmp_path)
    mentor.unlink()
    assert np.array_equal(model.Model(file).predict_proba(run.data.x_held[:40]), probabilities(run))


def test_its_card_is_for_people_too(tmp_path: Path) -> None:
    run = begun("dividemix")
    file = written(run, tmp_path)
    told = json.loads(file.with_suffix(".json").read_text())
    assert told["method"] == "dividemix"
    assert told["point"] == run.spec.point
    assert told["input"] == {
        "kind": "images",
        "shape": [1, 8, 8],
        "mean": list(run.data.mean),
        "std": list(run.data.std),
    }
    assert told["licence"] == "CC BY 4.0"
    assert told["weights"]["bytes"] == file.stat().st_size
    assert told["key"] == run.spec.key


def garbled(file: Path, how: str) -> None:
    """Damages a model in one way."""
    card, weights = file.with_suffix(".json"), file.read_bytes()
    told = json.loads(card.read_text())
    if how == "cut":
        file.write_bytes(weights[: len(weights) // 2])
    elif how == "a bit":
        file.write_bytes(weights[:-9] + bytes([weights[-9] ^ 4]) + weights[-8:])
    elif how == "pickle":
        file.write_bytes(pickle.dumps({"a": 1}))
    elif how == "no weights":
        file.unlink()
    elif how == "no card":
        card.unlink()
    elif how == "not JSON":
        card.write_bytes(b"\x80\x04" + weights[:100])
    elif how == "a list":
        card.write_text("[1, 2]")
    elif how == "another format":
        card.write_text(json.dumps(told | {"format": "other"}))
    elif how == "changed":
        card.write_text(json.dumps(told | {"classes": told["classes"][::-1]}))
    else:
        changes: dict[str, Any] = {
            "unknown method": {"method": "dividemixx"},
            "unknown network": {"network": "convnett"},
            "another network": {"network": "convnet_small"},
            "unknown inputs": {"input": told["input"] | {"kind": "sounds"}},
            "odd shape": {"input": told["input"] | {"shape": [1, 8]}},
            "negative": {"images": -1},
            "text for number": {"images": "many"},
            "half": {"training": {}},
        }
        rest = {k: v for k, v in (told | changes[how]).items() if k != "digest"}
        card.write_text(json.dumps(rest | {"digest": model._digest(rest)}))


HOWS = ["cut", "a bit", "pickle", "no weights", "no card", "not JSON", "a list", "another format", "changed", "half"]
HOWS += ["unknown method", "unknown network", "another network", "unknown inputs", "odd shape", "negative"]


@pytest.mark.parametrize("how", [*HOWS, "text for number"])
def test_a_damaged_or_foreign_model_is_one_line(how: str, tmp_path: Path) -> None:
    file = written(begun("ce"), tmp_path)
    garbled(file, how)
    with pytest.raises(InputError) as e:
        model.Model(file).predict_proba(np.zeros((1, 8, 8), np.uint8))
    assert "\n" not in str(e.value)
    assert "m." in str(e.value)  # which model


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    one, two = (written(shaken(begun(m)), tmp_path, m) for m in ("ce", "gce"))
    one.write_bytes(two.read_bytes())
    with pytest.raises(InputError, match="another model's"):
        model.Model(one).predict_proba(np.zeros((1, 8, 8), np.uint8))


def test_a_card_runs_no_code_that_nobody_here_has_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(begun("ce"), tmp_path)
    (tmp_path / "theirs.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    for name in ("theirs.py:net", "theirs:net"):
        told = json.loads(file.with_suffix(".json").read_text()) | {"network": name}
        told.pop("digest")
        file.with_suffix(".json").write_text(json.dumps(told | {"digest": model._digest(told)}))
        with pytest.raises(InputError, match=r"code of a user's own.*--code theirs"):
            model.Model(file)


@pytest.mark.slow
def test_a_model_of_ones_own_network_is_read_where_its_file_is_named(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = tmp_path / "net_for_model.py"
    code.write_text(
        "from torch import nn\n\n\ndef small(shape, n_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_classes))\n"
    )
    from raystudy import own
    from raystudy.learn.point import code as digest

    name = own.located(f"{code}:small")
    data = prepare("digits", Path("data"), NOISE, 0.1)
    digests = data.data_digest, NOISE.to_dict(), data.noise_digest
    recipe = Recipe().to_dict()
    spec = TrialSpec("ce", 1, {}, "digits", *digests, name, recipe, 5, 3, 0.1, 0, digest("ce", name))
    file = written(Run(spec, data), tmp_path)
    ask = (
        "import sys, raystudy as rs, numpy as np\n"
        "m = rs.load_model(sys.argv[1], code=sys.argv[2:])\n"
        "print(m.predict_proba(np.zeros((1, 8, 8), np.uint8)).sum())"
    )
    told = [
        subprocess.run([sys.executable, "-c", ask, str(file), *more], capture_output=True, text=True)
        for more in ([str(code)], [])
    ]
    assert told[0].stdout.strip().startswith(("1.0", "0.9999")), told[0].stderr
    assert "InputError" in told[1].stderr
