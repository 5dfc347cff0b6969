"""SOP: a sparse correction learned for each sample explains a wrong label, so that the network need not fit it.

Paper: Liu, Zhu, Qu, You, "Robust Training under Label Noise by Over-parameterization", ICML 2022 (arXiv 2202.14026).
Original code: shengliu66/SOP @4d991ce (model/loss.py, trainer/trainer.py). With two views and class balance:
``sop_plus``.

| original | here |
| --- | --- |
| U = u^2 on the given label, V = v^2 on the others, both clamped to [0, 1] | ``corrections`` |
| q = softmax + U - V, V without gradient, floor 1e-4, rows normalised | ``corrected`` |
| cross-entropy of q; sum over classes of (arg max + U - V - label)^2, mean over rows | ``sop_terms`` |
| u and v start at 1e-8 and take plain gradient steps of rates of their own, from the same pass as the network | ``Corrections`` |

Deviations from the original, and why
- ``lr_u`` and ``lr_v`` hold at batches of 128: the loss is a mean, so a row's step shrinks with the batch. Here a row
  moves as far whatever the batch; the original moves rows of a short last batch further.
- A row is visited once an epoch and grows by a factor, 1 + 4 ``lr_v`` / 128 for a wrong label, so in 30 epochs
  nothing would come of it. ``lr_v`` holds at ``lr_epochs`` and is as many times larger in fewer; 0 takes it as it is.
- ``variant="code"`` is the last released code, u moved by both terms (the author: as good as Algorithm 1). "paper" is
  Algorithm 1: u by the cross-entropy (detached in the square), both projected to [-1, 1] after each step. Releases in
  between had u in the square term alone (August 2022), or u as in the paper, squares clamped at 1 - 1e-4, rates of 1
  and a factor 100 on the square, which is 100 for ``lr_v`` (February 2022).
- What is kept from the code: u is a column, not [n, K]; V is detached in the cross-entropy and U is not; the arg max
  is that of the weak view; a square above 1, and a probability at the floor, have no gradient any more (for good,
  where ``lr_v`` of 100 overshoots: a latch).
- u and v are float32, under mixed precision too (1e-8 squared), never 0 (their gradient is proportional to them), and
  have no momentum, decay, clipping or Adam. They are buffers, so a checkpoint has them (the original's has not, and it
  resumes by a key that was never saved), and rows go by the index in the training set. The ``CLAMP`` of probabilities
  is theirs, 1e-4.
- u grows on right rows, too, while p_y is small, by 1 + (2 ``lr_u`` / 128) (1 / p_y - 1) a visit: 16 times at p_y = .01
  and a rate of 10. Hence the 1 for 100 classes.
- The rates hang on the kind of noise and are marked oracle; for CIFAR-100 with asymmetric noise the paper's lr_u is
  1, the code's 0.1.
- Of matters of others nothing is rebuilt: NumPy never seeded (with the torch of the paper, workers repeat their cutouts,
  too), a validation set that is also trained on and has a second draw of noise (of CIFAR-100 other pairs), the CIFAR-10
  mean for strong views of CIFAR-100, mean accuracy over batches, clean labels that the loader hands out and nothing
  reads. ``--asym False`` is True there, the number of classes stands in four places, the device is fixed. There is no
  loader for CIFAR-10N, that of CIFAR-100N uses names it never defines, and the files of instance noise are missing.
  Their symmetric noise redraws over all classes; their asymmetric noise of CIFAR-10 changes labels that are changed
  already (cats end at 24 % of 40 %, 18.4 % in all), that of CIFAR-100 swaps one pair in each block of five fine classes
  (16 % in all at 40 %; the pairs from an unseeded generator, the flips always from seed 0). The paper's numbers are the
  best epoch on the test set.

Weights are the share of the given label in what the state makes of it, label - U + V, reported after each epoch. They
are all 1 until something has grown: trials are compared from where v of a wrong label would have reached 1 in a budget
of ``lr_epochs`` (``grown``); in a shorter one it does somewhat later, since growth is not linear in the rate.
``corrected_share`` is how many samples stand for another label than theirs. An independent rerun found plain SOP level
with cross-entropy on CIFAR-10N and below it on CIFAR-100N.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raystudy.errors import unknown
from raystudy.learn.method import Batch, Log, Method, Task, Train

CLAMP = 1e-4  # the floor of probabilities
BATCH = 128  # the batch size at which the rates of u and v hold

Variant = Literal["code", "paper"]


class SopTerms(NamedTuple):
    """The parts of the loss of one batch, scalars."""

    label: Tensor  # cross-entropy of the corrected prediction
    square: Tensor  # distance of arg max and correction from the label
    balance: Tensor  # cross-entropy of the mean corrected prediction to the uniform prior, at least log K


def corrections(u: Tensor, v: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """U and V, [B, K] in [0, 1]: u^2 on the label ``y`` [B], v^2 on all other classes; ``u`` [B, 1], ``v`` [B, K]."""
    label = F.one_hot(y, v.shape[1]).to(v)
    return (u.square() * label).clamp(0, 1), (v.square() * (1 - label)).clamp(0, 1)


def corrected(logits: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
    """softmax + U - V with a floor, rows that sum to 1, and a floor again, [B, K]; V = ``minus`` gets no gradient."""
    raw = (logits.softmax(1) + plus - minus.detach()).clamp_min(CLAMP)
    return F.normalize(raw, p=1, dim=1).clamp(CLAMP, 1)


def sop_terms(logits: Tensor, y: Tensor, u: Tensor, v: Tensor, variant: Variant = "code") -> SopTerms:
    """The parts of the loss for ``logits`` [B, K], given labels ``y`` [B] and their rows ``u`` [B, 1] and ``v`` [B, K].

    "paper": u gets no gradient of the square.
    """
    plus, minus = corrections(u, v, y)
    q = corrected(logits, plus, minus)
    hard, label = (F.one_hot(c, logits.shape[1]).to(q) for c in (logits.argmax(1), y))
    moved = plus.detach() if variant == "paper" else plus
    return SopTerms(
        label=-q.gather(1, y[:, None]).log().mean(),
        square=(hard + moved - minus - label).square().sum(1).mean(),
        balance=-q.mean(0).clamp_min(CLAMP).log().mean(),
    )


def stands_for(u: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """label - U + V, [B, K]: what the state takes for the label of each row, its arg max for the right one."""
    plus, minus = corrections(u, v, y)
    return F.one_hot(y, v.shape[1]).to(v) - plus + minus


class Corrections(nn.Module):
    """u and v of every sample, and the steps they take.

    ``lr_v`` is what it is to be in this budget; both rates hold at batches of 128.
    """

    u: Tensor  # [n, 1]
    v: Tensor  # [n, K]

    def __init__(
        self, task: Task, lr_u: float, lr_v: float, init_std: float, variant: Variant, device: torch.device
    ) -> None:
        super().__init__()
        if variant not in ("code", "paper"):
            raise unknown("variant", variant, ("code", "paper"))
        self.lr_u, self.lr_v = lr_u, lr_v
        self.variant: Variant = variant
        self.register_buffer("u", init_std * torch.randn(task.n, 1).to(device))
        self.register_buffer("v", init_std * torch.randn(task.n, task.n_classes).to(device))

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of a batch, [B, 1] and [B, K], that collect its gradient."""
        return self.u[index].requires_grad_(), self.v[index].requires_grad_()

    @torch.no_grad()
    def step(self, index: Tensor, u: Tensor, v: Tensor) -> None:
        """One step of the ``rows`` of a batch along the gradients they have collected."""
        for state, rows, rate in ((self.u, u, self.lr_u), (self.v, v, self.lr_v)):
            assert rows.grad is not None
            moved = rows - rate * len(index) / BATCH * rows.grad
            state[index] = moved.clamp(-1, 1) if self.variant == "paper" else moved

    def told(self, y: Tensor) -> Log:
        """The log of an epoch: how far each sample's given label ``y`` [n] is believed, and how many labels are corrected."""
        stand = stands_for(self.u, self.v, y)
        share = stand.gather(1, y[:, None]).squeeze(1)
        return {
            "index": torch.arange(len(y), device=y.device),
            "weight": share / stand.sum(1).clamp_min(1e-12),
            "corrected_share": (stand.argmax(1) != y).double().mean(),
        }


def rate_in(epochs: int, rate: float, lr_epochs: int) -> float:
    """``rate`` of a budget of ``lr_epochs`` for one of ``epochs``, in which rows are visited more seldom; as it is for 0."""
    return rate * lr_epochs / epochs if lr_epochs else rate


def grown(lr_v: float, init_std: float, epochs: int) -> float:
    """The fraction of ``epochs``, at most 1, in which v of a wrong label grows from ``init_std`` to 1 at rate ``lr_v``."""
    rate = math.log1p(4 * lr_v / BATCH)
    return min(-math.log(init_std) / (rate * epochs), 1.0) if rate > 0 and 0 < init_std < 1 else 1.0


class SOP(Method):
    """Sparse over-parameterization.

    ``lr_u``: rate of the correction of the given label, at batches of 128. ``lr_v``: of the other classes, in ``lr_epochs`` epochs.
    ``lr_epochs``: the budget for which ``lr_v`` is meant, 0 for any. ``init_std``: standard deviation of u and v at the start.
    ``variant``: the steps of the released "code" or of the "paper".
    """

    def __init__(
        self,
        task: Task,
        *,
        lr_u: float = 10.0,
        lr_v: float = 10.0,
        lr_epochs: int = 120,
        init_std: float = 1e-8,
        variant: Variant = "code",
    ) -> None:
        super().__init__(task)
        device = next(self.nets.parameters()).device
        self.settled_at = grown(lr_v, init_std, lr_epochs or task.epochs)
        self.state = Corrections(task, lr_u, rate_in(task.epochs, lr_v, lr_epochs), init_std, variant, device)

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        yield from super().epoch(t, train)
        yield self.state.told(train.y)

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        logits = logits.to(self.state.u)  # not in half precision
        u, v = self.state.rows(batch.index)
        terms = sop_terms(logits, batch.y, u, v, self.state.variant)
        loss = terms.label + terms.square
        self.descend(0, loss)
        self.state.step(batch.index, u, v)
        return {"loss": loss.detach()}
