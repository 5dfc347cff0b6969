"""The MLflow model of a MentorNet: MLflow stores this file beside the arrays and runs it when the model is loaded.

``mlflow.pyfunc.load_model(uri).predict(frame)`` takes the columns ``loss`` and ``diff`` (loss minus its moving percentile) and gives
the weights [B] in [0, 1]. raystudy must be installed where it is loaded. Nothing is unpickled.
"""

from pathlib import Path
from typing import Any

import pandas
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from raystudy.learn.methods.mentornet_dd import Mentor


class MentorModel(PythonModel):
    """A MentorNet as a pyfunc model."""

    def load_context(self, context: PythonModelContext) -> None:
        self.mentor = Mentor(str(Path(context.artifacts["mentor"])))

    def predict(
        self, context: PythonModelContext, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """The weights of the rows of a frame with columns ``loss`` and ``diff``, float32 [B]."""
        loss, diff = (torch.tensor(model_input[name].to_numpy(), dtype=torch.float32) for name in ("loss", "diff"))
        return self.mentor(loss, diff).numpy()


set_model(MentorModel())
