"""Symmetric cross-entropy (SCE, SL): cross-entropy plus reverse cross-entropy.

Paper: Wang, Ma, Chen, Luo, Yi, Bailey, "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019
(arXiv 1908.06112). Original code: YisenWang/symmetric_cross_entropy_for_noisy_labels @ec778df (loss.py); the values
of the points are from HanxunH/Active-Passive-Losses @04bce53 (configs).

| equation | here |
| --- | --- |
| alpha CE + beta RCE (eq. 7) | ``SCE.step`` |
| RCE = -sum_k p_k log t_k with log 0 := A, so -A (1 - p_y) (eq. 6) | ``losses.rce`` |

Deviations from the original, and why
- A is -4 in the paper; the code clamps the one-hot at 1e-4 and takes the natural log, so there A = -9.21. The listed
  (alpha, beta) belong to the code, so ``log_zero`` is the code's by default.
- RCE is computed in its closed form, a multiple of the mean absolute error: the same value and gradient.
- The label smoothing beside it in that repository is another method; ``label_smoothing`` tells what is wrong there.
- The recipe is that of Active-Passive-Losses, as the points are. The authors' own: CIFAR-10, rate 0.01, a tenth after 40
  and 80 of 120 epochs, images shifted; CIFAR-100, ResNet-44, rate 0.1, a tenth after 80 and 120 of 150 epochs, l2 1e-2.
- Active-Passive-Losses also clips the gradient norm at 5; that is left to ``apl``. The training loss is not comparable
  with that of other losses.
- The authors' asymmetric noise of CIFAR-100 swaps two random classes of each block of five: its effective rate is 0.4 of
  the nominal one. No noise model here is that.
"""

import math

import torch.nn.functional as F

from raystudy.learn.losses import rce
from raystudy.learn.method import Batch, Log, Method, Task


class SCE(Method):
    """``alpha`` cross-entropy + ``beta`` reverse cross-entropy, in which log 0 is ``log_zero``."""

    def __init__(self, task: Task, *, alpha: float = 0.1, beta: float = 1.0, log_zero: float = math.log(1e-4)) -> None:
        super().__init__(task)
        self.alpha, self.beta, self.log_zero = alpha, beta, log_zero

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        reverse = rce(logits, batch.y, self.log_zero).mean()
        loss = self.alpha * F.cross_entropy(logits, batch.y) + self.beta * reverse
        self.descend(0, loss)
        return {"loss": loss.detach()}
