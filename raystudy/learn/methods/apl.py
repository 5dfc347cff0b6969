"""Active passive losses (APL): a normalised loss that raises p_y, plus one that lowers the other probabilities.

Paper: Ma, Huang, Wang, Romano, Erfani, Bailey, "Normalized Loss Functions for Deep Learning with Noisy Labels", ICML
2020 (arXiv 2006.13554). Original code: HanxunH/Active-Passive-Losses @04bce53 (loss.py, configs).

| equation | here |
| --- | --- |
| NCE, NFL: a loss divided by its sum over all classes taken for the label (eq. 5, 7) | ``losses.nce``, ``losses.nfl`` |
| MAE, RCE (passive) | ``losses.mae``, ``losses.rce`` |
| alpha active + beta passive (eq. 10) | ``APL.step`` |

Deviations from the original, and why
- The original's focal factor (1 - p)^gamma is a constant in the gradient, also in the normaliser (it is built from
  detached values). So it is here by default (``focal_detach``); False differentiates the formula. ``gamma`` and
  ``focal_detach`` act on "nfl" only.
- MAE is the reduced form 1 - p_y as in the original: a weight tuned for it is half of the weight of the textbook's.
  RCE clamps the one-hot at 1e-4 (A = -9.21), as the original and unlike the SCE paper.
- The normaliser of the original's normalised RCE is written 1 / 4 * (K - 1), a precedence slip for 1 / (4 (K - 1)).
  Neither normalised RCE nor normalised MAE is used in a combination, so they are not built.
- The original's GCE+MAE and GCE+RCE ignore alpha. They are no active-passive pairs (GCE is not normalised), and are
  left out.
- The gradient norm is clipped at 5 (``clip_norm``, 0: not), part of the original recipe and needed by NCE+RCE at large
  rates.
- The network of the CIFAR-100 runs is ResNet-50 in the config and ResNet-34 in the paper; the study decides. Their
  images are also rotated by up to 20 degrees, ours as the data set says. WebVision's rate falls by 0.97 every epoch
  there; recipes have steps, so by 0.97^10 every tenth. MNIST's cosine ends at 0.001, ours at 0.

NCE alone, or with a small beta, underfits on CIFAR-100. The training loss is not comparable with that of other losses.
"""

from typing import Literal

from raystudy.errors import unknown
from raystudy.learn.losses import mae, nce, nfl, rce
from raystudy.learn.method import Batch, Log, Method, Task


class APL(Method):
    """``alpha`` times the ``active`` loss + ``beta`` times the ``passive`` one.

    ``gamma``: exponent of the normalised focal loss. ``focal_detach``: its factor has no gradient. ``clip_norm``:
    largest norm of the gradient, 0 for no limit.
    """

    def __init__(
        self,
        task: Task,
        *,
        active: Literal["nce", "nfl"] = "nce",
        passive: Literal["mae", "rce"] = "rce",
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 0.5,
        focal_detach: bool = True,
        clip_norm: float = 5.0,
    ) -> None:
        super().__init__(task)
        if active not in ("nce", "nfl"):
            raise unknown("active loss", active, ("nce", "nfl"))
        if passive not in ("mae", "rce"):
            raise unknown("passive loss", passive, ("mae", "rce"))
        self.active, self.passive, self.alpha, self.beta = active, passive, alpha, beta
        self.gamma, self.focal_detach, self.clip_norm = gamma, focal_detach, clip_norm

    def step(self, batch: Batch, t: int) -> Log:
        logits, y = self.nets[0](batch.x), batch.y
        active = nce(logits, y) if self.active == "nce" else nfl(logits, y, self.gamma, self.focal_detach)
        passive = mae(logits, y) if self.passive == "mae" else rce(logits, y)
        loss = (self.alpha * active + self.beta * passive).mean()
        self.descend(0, loss, self.clip_norm)
        return {"loss": loss.detach()}
