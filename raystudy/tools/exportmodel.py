"""``raystudy model --export``: a kept model for other programs, normalisation included: raw inputs in, probabilities out.

    torch   NAME.pt2     a program of torch.export; needs torch and nothing of ours
    onnx    NAME.onnx    for ONNX runtimes; made with the optional packages of raystudy[onnx]
    mlflow  NAME/        an MLflow model (``served_model.py`` beside weights and card), which MLflow's registry then has, too

Beside each lies the card. What was exported is run once and compared with the model before it counts as written.
"""

import copy
import importlib.util
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raystudy.data.files import one_line
from raystudy.errors import InputError, unknown
from raystudy.learn.model import CARD, WEIGHTS, Card, Model, Probabilities, read

SERVED = Path(__file__).with_name("served_model.py")
CLOSE = 1e-5  # how far probabilities may be off: other kernels round differently
WHOSE = "raystudy.sha256"  # tag of a model version: whose weights they are


def export(card: Path, to: Path, name: str, kind: str, code: Sequence[str] = ()) -> Path:
    """Writes the model of a card to the folder ``to``, whole or not at all. Returns the file or folder. Raises InputError, one line."""
    if kind not in FORMATS:
        raise unknown("format of a model", kind, FORMATS)
    model = Model(card, code=code)
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=to) as scratch:
        made = FORMATS[kind](model, Path(scratch), name)
        if made.is_file():
            shutil.copy2(model.file.with_suffix(CARD), to / f"{name}{CARD}")
            os.replace(made, to / made.name)
        else:
            shutil.rmtree(to / made.name, ignore_errors=True)
            os.replace(made, to / made.name)
    return to / made.name


def example(card: Card, n: int = 1) -> NDArray[Any]:
    """Raw inputs [n, ...] that are nobody's: every value that there is, in turn."""
    numbers = np.arange(n * int(np.prod(card.shape))) * 37 % 256
    if card.kind == "vectors":
        return ((numbers.reshape(n, -1) / 128 - 1) * np.array(card.std) + np.array(card.mean)).astype(np.float32)
    return numbers.astype(np.uint8).reshape(n, *card.shape)


# --- torch --------------------------------------------------------------------------------------------------------


def _torch(model: Model, folder: Path, name: str) -> Path:
    file = folder / f"{name}.pt2"
    torch.export.save(program(model), file)
    _compare(model, lambda x: torch.export.load(file).module()(x).numpy(), "torch.export")
    return file


def program(model: Model) -> Any:
    """The model as a program of torch.export, for any number of inputs at once, with nothing in it that probabilities do not need."""
    network = copy.deepcopy(_plain(model.network))
    _decide(network)
    inputs = torch.from_numpy(example(model.card, 2))
    size = {"x": {0: torch.export.Dim("batch")}}
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            whole = torch.export.export(network, (inputs,), dynamic_shapes=size)
            _without(network, _unused(whole))
            return torch.export.export(network, (inputs,), dynamic_shapes=size)
    except Exception as e:  # torch has many, all about what it cannot express
        told = model.card.spec
        raise InputError(f"torch.export cannot express {told.method} with {told.network} ({one_line(e)})") from None


def _plain(network: Probabilities) -> Probabilities:
    """Without what a training needs: optimizers and the task, which hold functions."""
    for part in network.modules():
        for name in ("optimizers", "task"):
            part.__dict__.pop(name, None)
    return network


def _decide(network: nn.Module) -> None:
    """A buffer that is one truth value is a decision, which is made: a program has one way only."""
    for part in network.modules():
        for name, value in list(part.named_buffers(recurse=False)):
            if value.dtype == torch.bool and value.ndim == 0:
                delattr(part, name)
                setattr(part, name, bool(value))


def _unused(whole: Any) -> list[str]:
    """The names in the state that a program takes and does not look at."""
    looked = {node.name for node in whole.graph.nodes if node.op == "placeholder" and node.users}
    told = whole.graph_signature
    given = {**told.inputs_to_parameters, **told.inputs_to_buffers}
    return [name for argument, name in given.items() if argument not in looked]


def _without(network: nn.Module, names: list[str]) -> None:
    for name in names:
        part, _, last = name.rpartition(".")
        delattr(network.get_submodule(part), last)


def _compare(model: Model, run: Callable[[Tensor], NDArray[Any]], how: str) -> None:
    """Raises InputError where an export does not say what the model says."""
    for n in (1, 3):
        x = torch.from_numpy(example(model.card, n))
        off = float(np.abs(run(x) - model.predict_proba(x)).max())
        if not off <= CLOSE:
            raise InputError(f"{how} gives other probabilities than the model, by {off:.3g}; nothing was written")


# --- ONNX ---------------------------------------------------------------------------------------------------------


def _onnx(model: Model, folder: Path, name: str) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"--format onnx needs the package {package}: pip install 'raystudy[onnx]'")
    file = folder / f"{name}.onnx"
    try:
        with warnings.catch_warnings(action="ignore"):
            made = torch.onnx.export(
                program(model), dynamo=True, input_names=["x"], output_names=["probabilities"], verbose=False
            )
        assert made is not None
        made.model.metadata_props["raystudy.classes"] = "\n".join(model.classes)
        made.save(file)
    except InputError:
        raise
    except Exception as e:
        told = model.card.spec
        raise InputError(f"ONNX cannot express {told.method} with {told.network} ({one_line(e)})") from None
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    _compare(model, lambda x: session.run(None, {"x": x.numpy()})[0], "ONNX")
    return file


# --- MLflow -------------------------------------------------------------------------------------------------------


def _mlflow(model: Model, folder: Path, name: str) -> Path:
    from raystudy.tracking import store

    for key, value in {**store.SETTINGS, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}.items():
        os.environ.setdefault(key, value)
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    if model.card.spec.code:
        raise InputError(
            "--format mlflow takes methods and networks of raystudy; for code of your own choose torch or onnx"
        )
    given = example(model.card)
    shape = (-1, *model.card.shape)
    signature = ModelSignature(
        Schema([TensorSpec(given.dtype, shape)]), Schema([ColSpec(DataType.float, c) for c in model.classes])
    )
    with warnings.catch_warnings(action="ignore"):  # it would infer a signature from type hints, though one is given
        mlflow.pyfunc.save_model(
            folder / name,
            python_model=str(SERVED),
            artifacts={part: model.file.with_suffix(end).absolute().as_uri() for part, end in PARTS.items()},
            signature=signature,
            input_example=given,
            pip_requirements=[
                f"mlflow=={mlflow.__version__}",
                f"torch=={torch.__version__.partition('+')[0]}",
                "safetensors",
            ],
            metadata={"raystudy.key": model.card.key, WHOSE: model.card.sha256},
        )
    return folder / name


PARTS = {"card": CARD, "weights": WEIGHTS}  # artifacts of the MLflow model
FORMATS: dict[str, Callable[[Model, Path, str], Path]] = {"torch": _torch, "onnx": _onnx, "mlflow": _mlflow}


def alias(condition: str) -> str:
    """A name of a condition as MLflow takes it for an alias."""
    return re.sub(r"[^\w-]+", "_", condition)[-200:]


def register(
    study_dir: Path, uri: str, made: Mapping[str, tuple[Path, Path]], best: Mapping[str, str], running: bool = False
) -> dict[str, str]:
    """Brings MLflow models to the runs of their cells, and into the registry under the study's name, a version each.

    ``made``: cell -> the model's card and the MLflow model's folder; ``best``: alias -> cell that has it. A model that is there already
    is not brought again. Returns the version of each cell. Raises InputError, one line.
    """
    from raystudy.tracking import store, sync

    uri = store.absolute(uri)
    store.check_models(uri)
    try:
        experiment = sync.sync(study_dir, uri, running).experiment
        return _registered(store.connect(uri), study_dir.absolute().name, experiment, made, best)
    except InputError:
        raise
    except Exception as e:
        raise InputError(store.trouble(uri, e)) from None


def _registered(
    client: Any, name: str, experiment: str, made: Mapping[str, tuple[Path, Path]], best: Mapping[str, str]
) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as e:
        if e.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name, {"raystudy.study": name})
    there = {v.tags.get(WHOSE): str(v.version) for v in client.search_model_versions(f"name = '{name}'")}
    versions: dict[str, str] = {}
    for cell, (card, folder) in made.items():
        told = read(card)
        if (known := there.get(told.sha256)) is None:
            which = f"tags.`raystudy.cell` = '{cell}' and tags.`raystudy.role` = 'cell'"
            runs = client.search_runs([experiment], which)
            if not runs:
                raise InputError(f"cell {cell} has no run in MLflow (raystudy sync brings it there)")
            run, place = runs[0].info, f"model/{told.key}"
            client.log_artifacts(run.run_id, str(folder), place)
            tags = {"raystudy.cell": cell, "raystudy.key": told.key, WHOSE: told.sha256}
            known = str(client.create_model_version(name, f"{run.artifact_uri}/{place}", run.run_id, tags=tags).version)
        versions[cell] = known
    for alias_, cell in best.items():
        client.set_registered_model_alias(name, alias_, versions[cell])
    return versions
