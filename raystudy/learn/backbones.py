"""Networks that are not trained here: what they make of images or texts, as vectors. By name, with weights from a file or their library's.

``torchvision:NAME`` and ``timm:NAME`` are classifiers of images without their last layer, ``sentence-transformers:NAME`` or a folder
takes texts, and a user's own ``FILE.py:FUNCTION`` takes what it is given. Of weights in files nothing is unpickled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from raystudy import own
from raystudy.data.files import one_line
from raystudy.data.noise import digest
from raystudy.errors import InputError, unknown
from raystudy.learn.networks import imagenet_weights, of_torchvision

TORCHVISION, TIMM, SENTENCES = "torchvision:", "timm:", "sentence-transformers:"
FORMS = (
    "torchvision:NAME, timm:NAME, sentence-transformers:NAME or a folder, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION"
)
LARGEST = float(np.finfo(np.float16).max)
Kind = Literal["images", "texts"]
Normal = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation per channel, of pixels in [0, 1]


@dataclass(frozen=True)
class Backbone:
    """What makes vectors: of uint8 images [B, C, H, W], or of B texts, [B, d]."""

    name: str
    size: int | None  # height and width to which images are enlarged; None: they stay as they are
    digest: str  # of the weights, or of a function's source
    ask: Callable[[Any], Any]


def build(
    name: str, kind: Kind, *, size: int | None = None, weights: Path | None = None, device: str = "cpu"
) -> Backbone:
    """A backbone by name, for images or texts. Raises InputError, one line, for what is unknown, absent or does not fit."""
    theirs = name.startswith((TORCHVISION, TIMM))
    if weights is not None and not theirs:
        raise InputError(f"--weights is for {TORCHVISION}NAME and {TIMM}NAME; backbone {name!r} has its own")
    if name.startswith(SENTENCES):
        if kind != "texts" or size is not None:
            raise InputError(
                f"backbone {name!r} takes texts: name a csv:, parquet: or hf: with --text COLUMN, and no --size"
            )
        return _sentences(name, device)
    if theirs:
        if kind != "images":
            raise InputError(f"backbone {name!r} takes images, these are texts; use {SENTENCES}NAME")
        return (_torchvision if name.startswith(TORCHVISION) else _timm)(name, size, weights, device)
    if not own.written(name):
        raise InputError(f"unknown backbone {name!r}; write {FORMS}")
    if kind != "images" and size is not None:
        raise InputError("--size is of images, these are texts")
    return _brought(name, size, device)


def vectors(backbone: Backbone, x: Any) -> NDArray[np.float16]:
    """What a backbone makes of some images or texts, checked: [B, d] float16. Raises InputError for all that is not that."""
    shown = f"images of {'x'.join(map(str, x.shape[2:]))} pixels" if isinstance(x, Tensor) else "texts"
    if isinstance(x, Tensor) and backbone.size is not None:
        x = enlarged(x, backbone.size)
        shown = f"images of {backbone.size}x{backbone.size} pixels and {x.shape[1]} channels"
    try:
        with torch.inference_mode():
            told = backbone.ask(x)
            made = told.float().cpu().numpy() if isinstance(told, Tensor) else np.asarray(told, dtype=np.float32)
    except InputError:
        raise
    except Exception as error:  # a library's, or a user's own
        why = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"backbone {backbone.name!r} makes nothing of {shown} ({why})") from None
    if made.ndim != 2 or len(made) != len(x) or not made.shape[1]:
        raise InputError(f"backbone {backbone.name!r} gives {list(made.shape)} for {len(x)} {shown}; it gives [B, d]")
    small = np.abs(made) <= LARGEST  # what is not a number is below nothing
    if not small.all():
        raise InputError(
            f"backbone {backbone.name!r} gives {made[~small][0]:g}; numbers must be finite and fit into float16 (to {LARGEST:g})"
        )
    return made.astype(np.float16)


def enlarged(x: Tensor, size: int) -> Tensor:
    """Images [B, C, H, H] uint8 as [B, C, size, size]: bilinear, antialiased where they become smaller."""
    if tuple(x.shape[2:]) == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True)


# --- the kinds ----------------------------------------------------------------------------------------------------


def _torchvision(name: str, size: int | None, weights: Path | None, device: str) -> Backbone:
    from torchvision import models  # not at the top: it is slow to import

    short = name.removeprefix(TORCHVISION)
    if short not in of_torchvision():
        raise unknown("classifier of torchvision", short, of_torchvision())
    preset = models.get_model_weights(short).DEFAULT.transforms()
    # Two of them have further heads, which their weights hold, and normalise within where the weights are from elsewhere.
    more = (
        {"aux_logits": True, "transform_input": True, "init_weights": False}
        if short in ("googlenet", "inception_v3")
        else {}
    )
    told = imagenet_weights(short) if weights is None else read_weights(weights)
    net = models.get_model(short, weights=None, **more)
    last = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not last:
        raise InputError(f"backbone {name!r} has no last linear layer to leave out; choose another, such as resnet18")
    owner, _, field = last[-1].rpartition(".")
    setattr(net.get_submodule(owner), field, nn.Identity())
    _fill(name, net, told, weights, (last[-1],))
    return _of_images(name, net, size or preset.crop_size[0], (preset.mean, preset.std), device)


def _timm(name: str, size: int | None, weights: Path | None, device: str) -> Backbone:
    try:
        import timm
    except ImportError:
        raise InputError(f"backbone {name!r} needs the optional package timm: pip install 'raystudy[timm]'") from None
    short = name.removeprefix(TIMM)
    if not timm.is_model(short):
        raise unknown("network of timm", short, timm.list_models())
    told = None if weights is None else read_weights(weights)
    try:
        net = timm.create_model(short, pretrained=weights is None, num_classes=0)
    except Exception as error:
        why = f"are not here and cannot be downloaded ({type(error).__name__}: {one_line(error)})"
        raise InputError(f"the weights of {name} {why}; name a file with --weights") from None
    config = timm.data.resolve_model_data_config(net)
    if told is not None:
        config_of: Any = net.pretrained_cfg
        head = config_of.get("classifier") or ()
        _fill(name, net, told, weights, (head,) if isinstance(head, str) else tuple(head))
    return _of_images(name, net, size or config["input_size"][-1], (config["mean"], config["std"]), device)


def _sentences(name: str, device: str) -> Backbone:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError(
            f"backbone {name!r} needs the optional package sentence-transformers: pip install 'raystudy[text]'"
        ) from None
    short = name.removeprefix(SENTENCES)
    place = Path(short).expanduser()
    try:
        net = SentenceTransformer(str(place) if place.is_dir() else short, device=device)
    except Exception as error:  # those of the hub, of transformers, of json
        why = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"backbone {name!r} is no folder here and cannot be downloaded, or not read ({why})") from None
    net.eval()

    def ask(texts: Sequence[str]) -> Tensor:
        made: Tensor = net.encode(list(texts), batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False)
        return made

    known = SENTENCES + (place.resolve().name if place.is_dir() else short)
    return Backbone(known, None, of_weights(net), ask)


def _brought(name: str, size: int | None, device: str) -> Backbone:
    """A function of the user's own, which gets what there is, on the CPU."""
    short = own.located(name)
    made = own.found("networks", short)
    if not callable(made):
        raise InputError(f"backbone {short!r} is a {type(made).__name__}; it must be a function of images or texts")
    return Backbone(short, size, own.code("networks", short), made)


def _of_images(name: str, net: nn.Module, size: int, normal: Normal, device: str) -> Backbone:
    net = net.eval().to(device)
    mean, std = (torch.tensor(list(part), device=device).view(-1, 1, 1) for part in normal)

    def ask(x: Tensor) -> Tensor:
        made: Tensor = net(((x.to(device).float() / 255).expand(-1, 3, -1, -1) - mean) / std)
        return made

    return Backbone(name, size, of_weights(net), ask)


# --- weights ------------------------------------------------------------------------------------------------------


def of_weights(net: nn.Module) -> str:
    """A digest of all that a network holds, whatever file it came from."""
    parts: list[Any] = []
    for name, value in sorted(net.state_dict().items()):
        parts.append(np.frombuffer(f"{name} {value.dtype} {list(value.shape)}".encode(), dtype=np.uint8))
        parts.append(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest(*parts)


def read_weights(file: Path) -> Mapping[str, Tensor]:
    """Weights by name, of a .safetensors or of what ``torch.save`` wrote; nothing is unpickled. Raises InputError."""
    file = file.expanduser()
    if not file.is_file():
        raise InputError(f"--weights {file}: no such file; it takes a .safetensors, or a .pt or .pth of weights alone")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            told: Any = load_file(file)
        else:
            told = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        text = one_line(error)
        why = "it holds more than weights" if "weights_only" in str(error) or "Weights only" in str(error) else text
        raise InputError(f"--weights {file}: cannot be read as weights alone ({why})") from None
    for wrapped in ("state_dict", "model", "model_state_dict"):  # as training scripts write them
        if isinstance(told, Mapping) and isinstance(told.get(wrapped), Mapping):
            told = told[wrapped]
    if not isinstance(told, Mapping) or not told or not all(isinstance(v, Tensor) for v in told.values()):
        raise InputError(f"--weights {file}: holds a {type(told).__name__} and not tensors by name")
    return {str(key).removeprefix("module."): value for key, value in told.items()}


def _fill(name: str, net: nn.Module, told: Mapping[str, Tensor], file: Path | None, heads: Sequence[str]) -> None:
    """Puts weights into a network, all but those of the layers that were left out. Raises InputError where they are of another."""
    told = {k: v for k, v in told.items() if not any(k.startswith(f"{head}.") for head in heads)}
    fresh = net.state_dict()
    missing = [k for k in fresh if k not in told and not k.endswith("num_batches_tracked")]  # old files have none
    more = [k for k in told if k not in fresh]
    other = [k for k, v in told.items() if k in fresh and fresh[k].shape != v.shape]
    if missing or more or other:
        kinds = {"missing": missing, "not of it": more, "of another shape": other}
        shown = "; ".join(f"{len(keys)} {what} (the first is {keys[0]})" for what, keys in kinds.items() if keys)
        raise InputError(f"--weights {file} is of another network than {name}: {shown}")
    net.load_state_dict(dict(told), strict=False)
