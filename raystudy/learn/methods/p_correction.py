"""PENCIL (P-correction): a learnable label distribution per image, corrected by gradient descent along with the network.

Paper: Yi, Wu, "Probabilistic End-to-end Noise Correction for Learning with Noisy Labels", CVPR 2019 (arXiv 1903.07788). Original
code: yikun2019/PENCIL @8a89ed5 (PENCIL.py). Called P-correction in the tables of the DivideMix paper.

| equation | here |
| --- | --- |
| y_i = softmax(Y_i), a label distribution per image; Y = K one-hot after stage 1 (eq. 5, 6) | ``PCorrection.label_logits`` |
| L_c = KL(f || y) (eq. 10), L_o = CE(t, y) (eq. 8), L_e = entropy of f (eq. 9), L = L_c / C + alpha L_o + beta L_e / C | ``pencil_terms`` |
| stage 1: cross-entropy on the given labels at a constant high rate | ``PCorrection.step`` |
| stage 2: L, one step of the network and Y <- Y - lambda dL/dY (eq. 7) | ``PCorrection.step`` |
| stage 3: Y frozen, L_c / C alone, rate lr2, a tenth of it from each third on | ``PCorrection.rate`` |

Owns its learning rate: ``lr1`` in stages 1 and 2 and ``lr2`` in stage 3 replace the recipe's rate and schedule, as the method rests
on a high constant rate that keeps memorisation slow. Optimizer, momentum, weight decay and batch size are the recipe's.

Deviations from the original, and why
- ``compat_double_softmax=True`` (the default, as published): L_o applies log-softmax to labels that are already a softmax, so it pulls
  far more weakly on Y than y - t, the gradient of the text; False gives the text.
- L_c and L_e are means over B x C entries as published; so the network's step in stages 2 and 3 is C times weaker than with a KL per
  image, and the label step goes with 1/(B C). lambda is published at B = 128: ours is scaled by B/128, so that a label moves alike at
  any batch size, in a short last batch too. It still goes with C.
- The original's stage 3 uses lr2 // 10 and lr2 // 100, which are 0.0: its last two thirds train nothing. ``floor_decay=True`` is that;
  the default divides, as a later port does.
- The one-hot start is hard-coded to 10 columns there. Its new labels are collected in zeros each epoch, so an image that is not seen
  gets a uniform label; here Y is a buffer that is updated in place. It saves Y to disk each epoch; our checkpoint holds it.
- Stages are fractions of the budget (70, 130 and 120 of 320). Stage 1 has at least one epoch.
- ``label_decay="linear"`` lowers lambda to 0 over stage 2 (4000 minus 30.76 per epoch, 130 epochs, for asymmetric 50 %). Clothing1M's
  separate rate in stage 2 (8e-4) and drop of lambda (3000 to 500) are not rebuilt.
- Its noise overwrites CIFAR's pickles ``data_batch_1`` to ``5`` only, and the ``val_batch`` by which it picks its epoch stays clean
  (PENCIL.py, lines 101 and 291; addnoise_SN.py): compare its own numbers with our rule ``clean_val`` (``--clean-val 5000``), never with
  one that knows noisy labels alone. The networks PreAct ResNet-32 and ResNet-34 are the study's choice.
- Stage 1 must end before memorisation; at high noise ``lr1`` matters more than ``stage1``. lambda, alpha and beta were chosen per noise
  rate; sources disagree on CIFAR-100 (1000 or 10000).
- Weights are the corrected label's share of the given label, y_i[given], from stage 2 on.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.losses import kl_rows
from raystudy.learn.method import Batch, Log, Method, Task, Train

LABEL_BATCH = 128  # the batch size at which lambda is published

LabelDecay = Literal["none", "linear"]


class PencilTerms(NamedTuple):
    classification: Tensor  # L_c / C, scalar
    compatibility: Tensor  # L_o
    entropy: Tensor  # L_e / C


def pencil_terms(logits: Tensor, label_logits: Tensor, y: Tensor, double_softmax: bool = True) -> PencilTerms:
    """The three losses of PENCIL (Yi & Wu 2019, eq. 8 to 10): L_c / C, L_o and L_e / C, means over the batch.

    ``logits`` [B, C] of the network, ``label_logits`` [B, C] the label variable Y, ``y`` [B] the given labels.
    ``double_softmax``: L_o takes softmax(Y) for logits, as the published code does.
    """
    n_classes = logits.shape[1]
    log_f = F.log_softmax(logits, 1)
    entropy = -(log_f.exp() * log_f).mean()
    compatibility = F.cross_entropy(label_logits.softmax(1) if double_softmax else label_logits, y)
    return PencilTerms(kl_rows(logits, label_logits).mean() / n_classes, compatibility, entropy)


class PCorrection(Method):
    """PENCIL.

    ``lr1``: learning rate of stages 1 and 2. ``lr2``: of stage 3. ``stage1``, ``stage2``: fractions of the epochs. ``alpha``: weight of
    the compatibility with the given labels. ``beta``: weight of the entropy. ``label_lr``: lambda, the step of the labels at batch size
    128. ``label_decay``: "linear" lowers it to 0 over stage 2. ``init_scale``: K, the logit a given label starts with.
    ``compat_double_softmax``, ``floor_decay``: the published code's L_o and stage-3 rates.
    """

    label_logits: Tensor  # [n, C] the label variable Y

    def __init__(
        self,
        task: Task,
        *,
        lr1: float = 0.06,
        lr2: float = 0.2,
        stage1: float = 70 / 320,
        stage2: float = 130 / 320,
        alpha: float = 0.4,
        beta: float = 0.1,
        label_lr: float = 600.0,
        label_decay: LabelDecay = "none",
        init_scale: float = 10.0,
        compat_double_softmax: bool = True,
        floor_decay: bool = False,
    ) -> None:
        super().__init__(task)
        if label_decay not in ("none", "linear"):
            raise unknown("label_decay", label_decay, ("none", "linear"))
        self.lr1, self.lr2, self.alpha, self.beta = lr1, lr2, alpha, beta
        self.label_lr, self.label_decay, self.init_scale = label_lr, label_decay, init_scale
        self.compat_double_softmax, self.floor_decay = compat_double_softmax, floor_decay
        self.settled_at = min(stage1 + stage2, 1.0)
        self.begin2 = max(round(stage1 * task.epochs), 1)  # the first epoch of stage 2
        self.begin3 = max(round((stage1 + stage2) * task.epochs), self.begin2)
        device = next(self.nets.parameters()).device
        self.register_buffer("label_logits", torch.zeros(task.n, task.n_classes, device=device))

    def settled(self) -> float:
        return self.settled_at

    def rate(self, t: int) -> float:
        """The learning rate of epoch ``t``."""
        if t < self.begin3:
            return self.lr1
        third = 3 * (t - self.begin3) // max(self.task.epochs - self.begin3, 1)
        return self.lr2 // 10**third if self.floor_decay and third else self.lr2 / 10**third

    def label_rate(self, t: int) -> float:
        """lambda in epoch ``t`` of stage 2."""
        if self.label_decay == "none":
            return self.label_lr
        return self.label_lr * (1 - (t - self.begin2) / max(self.begin3 - self.begin2, 1))

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        self.drive(0, self.rate(t))
        if t == self.begin2:
            self.label_logits.copy_(self.init_scale * F.one_hot(train.y, train.n_classes))
        yield from super().epoch(t, train)
        if t >= self.begin2:
            share = self.label_logits.softmax(1).gather(1, train.y[:, None]).squeeze(1)
            yield {"index": torch.arange(len(train), device=share.device), "weight": share, "given_share": share.mean()}

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        if t < self.begin2:
            loss = F.cross_entropy(logits, batch.y)
            self.descend(0, loss)
            return {"loss": loss.detach()}
        label_logits = self.label_logits[batch.index].requires_grad_(t < self.begin3)
        terms = pencil_terms(logits, label_logits, batch.y, self.compat_double_softmax)
        if t < self.begin3:
            loss = terms.classification + self.alpha * terms.compatibility + self.beta * terms.entropy
        else:
            loss = terms.classification
        self.descend(0, loss)
        if label_logits.grad is not None:
            step = self.label_rate(t) * len(batch.y) / LABEL_BATCH
            self.label_logits[batch.index] = label_logits.detach() - step * label_logits.grad
        return {"loss": loss.detach()}
