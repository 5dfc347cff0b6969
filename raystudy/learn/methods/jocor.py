"""JoCoR: two networks trained as one, on the samples of the batch with the smallest joint loss of labels and agreement.

Paper: Wei, Feng, Chen, An, "Combating Noisy Labels by Agreement: A Joint Training Method with Co-Regularization", CVPR
2020 (arXiv 2003.02752). Original code: hongxin001/JoCoR @86db359 (algorithm/loss.py, algorithm/jocor.py).

| equation | here |
| --- | --- |
| l = (1 - lambda) (CE_1 + CE_2) + lambda (KL(p2 || p1) + KL(p1 || p2)), nothing detached (eq. 1 to 4) | ``jocor_losses`` |
| I = the (1 - rate) B samples of smallest l, L = mean of l over I (eq. 5, 6) | ``coteaching.n_keep``, ``ops.small_loss`` |
| rate: linspace(0, tau^c, T_k), then tau | ``coteaching.drop_rate`` |

Deviations from the original, and why
- The original's default ``co_lambda`` 0.1 reproduces nothing of the paper; our default is 0.9, its CIFAR-10 value. It was tuned on
  unnamed clean validation data and goes with the network: search it anew. Towards 1 supervision vanishes, at 0 only the joint
  small-loss selection is left.
- The loss shrinks with 1 - lambda. Adam hides that, SGD does not: ``normalise`` divides it by 1 - lambda, so that the labels always
  weigh one per network and the learning rate of a shared recipe means the same as elsewhere. Off by default (as published).
- ``forget_rate`` is the true noise rate in the original, and half of it for asymmetric noise, also on CIFAR-100, where all classes
  flip and half the noise stays in. Here it is an ordinary hyperparameter; points that took it from the truth are oracle.
- Schedule as in ``coteaching``: our epoch t uses entry t + 1, as the original's loop begins at 1; durations are fractions (T_k 10 and
  the beta1 switch at 80, or 100 for CIFAR-100, of 200); the learning rate's linear decay is the recipe's.
- One Adam over both networks there, one optimizer per network here: the same, as its state is per parameter and nothing clips.
- The KL is written out (the original gives log-probabilities to a library function; both directions are summed, so their order is
  immaterial), losses stay on the device, deprecated reduction flags are gone. ``init_epoch`` and ``filter_outlier`` are unused there.
- Two independent initialisations: equal networks would have KL 0 for ever.
- Prediction is the mean softmax of both networks (they agree at the end, so it gains little); the original reports the mean of their
  accuracies over epochs 190 to 199, which divides by zero below 190 epochs. Last short batches are kept, of the test set too.
- The original's noise is always seeded 0 and its "superclass" noise of CIFAR-100 is not: matters of the noise models. It does not
  augment, and scales images to [0, 1] without normalising them; here both are the data set's, for all methods alike. The data set's
  options say what was published: ``cifar10?pad=0&flip=no&mean=0,0,0&std=1,1,1``.
- ``lambda_ramp`` (fraction of the epochs over which lambda rises from 0) is an extension, off by default.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.losses import kl_rows
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.methods.coteaching import Schedule, drop_rate, n_keep, set_beta1
from raystudy.learn.ops import small_loss


def jocor_losses(logits1: Tensor, logits2: Tensor, y: Tensor, co_lambda: float) -> Tensor:
    """The joint loss of each sample [B]: (1 - lambda) (CE_1 + CE_2) + lambda (KL_21 + KL_12) (Wei et al. 2020, eq. 1 to 4).

    ``logits1``, ``logits2`` [B, K], ``y`` [B]. Gradients flow into both arguments of both KL terms.
    """
    supervised = F.cross_entropy(logits1, y, reduction="none") + F.cross_entropy(logits2, y, reduction="none")
    agreement = kl_rows(logits2, logits1) + kl_rows(logits1, logits2)
    return (1 - co_lambda) * supervised + co_lambda * agreement


class JoCoR(Method):
    """JoCoR.

    ``co_lambda``: weight of the agreement against the labels, in [0, 1). ``forget_rate``: final share of a batch to
    drop, ideally the noise rate. ``gradual``: fraction of the epochs over which it ramps. ``exponent``, ``schedule``:
    shape of that ramp, as in Co-teaching (``coteaching.drop_rate``). ``decay_start``: fraction of the epochs after
    which Adam's beta1 is ``late_beta1``. ``lambda_ramp``: fraction over which lambda ramps. ``normalise``: divide the
    loss by 1 - lambda.
    """

    n_nets = 2

    def __init__(
        self,
        task: Task,
        *,
        co_lambda: float = 0.9,
        forget_rate: float = 0.3,
        gradual: float = 0.05,
        exponent: float = 1.0,
        schedule: Schedule = "code",
        decay_start: float = 0.4,
        late_beta1: float = 0.1,
        lambda_ramp: float = 0.0,
        normalise: bool = False,
    ) -> None:
        super().__init__(task)
        if schedule not in ("code", "paper"):
            raise unknown("schedule", schedule, ("code", "paper"))
        self.co_lambda, self.forget_rate, self.exponent = co_lambda, forget_rate, exponent
        self.schedule: Schedule = schedule
        self.late_beta1, self.normalise = late_beta1, normalise
        self.settled_at = min(max(gradual, lambda_ramp), 1.0)
        self.n_gradual = max(round(gradual * task.epochs), 1)
        self.ramp_epochs = max(round(lambda_ramp * task.epochs), 1)
        self.decay_epoch = round(decay_start * task.epochs)

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if t + 1 >= self.decay_epoch:
            set_beta1(self.optimizers, self.late_beta1)
        yield from super().epoch(t, train)

    def step(self, batch: Batch, t: int) -> Log:
        rate = drop_rate(t + 1, self.forget_rate, self.n_gradual, self.exponent, self.schedule)
        co_lambda = self.co_lambda * min((t + 1) / self.ramp_epochs, 1.0)
        losses = jocor_losses(self.nets[0](batch.x), self.nets[1](batch.x), batch.y, co_lambda)
        kept = small_loss(losses.detach(), n_keep(rate, len(batch.y)))
        loss = losses[kept].mean()
        self._descend_together(loss / (1 - co_lambda) if self.normalise else loss)
        weight = torch.zeros(len(batch.y), device=batch.y.device).index_fill_(0, kept, 1.0)
        return {"loss": loss.detach(), "index": batch.index, "weight": weight}

    def _descend_together(self, loss: Tensor) -> None:
        """One optimizer step of both nets on one scalar loss."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
