"""raystudy: controlled studies of learning with noisy labels.

The Python interface, each name imported when it is first used (docs/python.md): what the commands do, as functions and frames.

    import raystudy as rs
    results = rs.run(rs.Study("dividemix", noise="symmetric:0.2,0.5", trials=5))
    results.leaderboard()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raystudy.threads import passive

passive()  # whoever comes in, by a command, from Python or in a worker of Ray, comes by here before torch is imported

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "InputError",
    "Method",
    "NoisyLabelClassifier",
    "Results",
    "Study",
    "Task",
    "__version__",
    "clean",
    "corrupt",
    "datasets",
    "load",
    "load_model",
    "methods",
    "noise",
    "recommend",
    "run",
    "train",
]

ELSEWHERE = {  # than in raystudy.interface
    "InputError": "raystudy.errors",
    "Batch": "raystudy.learn.method",
    "NoisyLabelClassifier": "raystudy.estimator",
    "Method": "raystudy.learn.method",
    "Task": "raystudy.learn.method",
}

if TYPE_CHECKING:
    from raystudy.errors import InputError
    from raystudy.estimator import NoisyLabelClassifier
    from raystudy.interface import (
        Results,
        Study,
        clean,
        corrupt,
        datasets,
        load,
        load_model,
        methods,
        noise,
        recommend,
        run,
        train,
    )
    from raystudy.learn.method import Batch, Method, Task


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'raystudy' has no attribute {name!r}")
    if name != "InputError":
        import_module("raystudy.packages").pin()
    found = getattr(import_module(ELSEWHERE.get(name, "raystudy.interface")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
