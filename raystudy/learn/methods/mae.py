"""Mean absolute error between prediction and one-hot label: robust to symmetric noise in theory, slow to fit in
practice.

Paper: Ghosh, Kumar, Sastry, "Robust Loss Functions under Label Noise for Deep Neural Networks", AAAI 2017 (arXiv
1712.09482). Code: HanxunH/Active-Passive-Losses @04bce53 (loss.py).

| equation | here |
| --- | --- |
| sum_k abs(p_k - t_k) = 2 (1 - p_y), reduced to 1 - p_y | ``losses.mae`` |

Its sum over all labels is constant, so symmetric noise below (K - 1) / K does not move its minimum; its gradient is
that of cross-entropy times p_y, so it hardly learns what it does not yet believe.

Deviations from the original, and why
- The reduced form of the code, half of the textbook's: with SGD the factor is one of the learning rate.
- The recipe is that of Active-Passive-Losses, not of Ghosh et al., and also clips the gradient norm at 5; gradients
  of this loss are far below that.

On CIFAR-100 an accuracy near chance within usual budgets is normal, not a mistake. The training loss is not
comparable with that of other losses.
"""

from raystudy.learn.losses import mae
from raystudy.learn.method import Batch, Log, Method


class MAE(Method):
    """Mean absolute error on the given labels; no hyperparameters."""

    def step(self, batch: Batch, t: int) -> Log:
        loss = mae(self.nets[0](batch.x), batch.y).mean()
        self.descend(0, loss)
        return {"loss": loss.detach()}
