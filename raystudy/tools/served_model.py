"""The MLflow model of a kept model: MLflow stores this file beside weights and card, and runs it when the model is loaded.

``mlflow.pyfunc.load_model(uri).predict(x)`` takes raw inputs, images [n, C, H, W] uint8, and gives a frame of probabilities, a column
a class. raystudy must be installed where it is loaded. Nothing is unpickled.
"""

from pathlib import Path

import numpy
import pandas
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from raystudy.learn.model import Model


class ServedModel(PythonModel):
    """A kept model as a pyfunc model."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model = Model(Path(context.artifacts["card"]))
        self.model.network  # noqa: B018 - now, and not at the first question

    # Not annotated: MLflow would take a type for a signature of its own.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Probabilities of raw inputs, float32, a row an input and a column a class."""
        p = self.model.predict_proba(numpy.asarray(model_input))
        return pandas.DataFrame(p, columns=list(self.model.classes))


set_model(ServedModel())
