"""Focal loss: hard examples weigh more. Under label noise those are the wrong labels, so it is a negative control.

Paper: Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", ICCV 2017 (arXiv 1708.02002), here
with K classes and no class weights. As a row of the tables of MentorNet (Jiang et al., ICML 2018): google/mentornet
@76d6be2.

| equation | here |
| --- | --- |
| -(1 - p_y)^gamma log p_y (eq. 4) | ``losses.focal`` |
| MentorNet: v l with v = (1 - exp(-l))^gamma without gradient | the same with ``detach_weight`` |

Deviations from the original, and why
- MentorNet's tables take the factor for a weight of the sample: the value is the same, since exp(-l) = p_y, but it has
  no gradient; that is ``detach_weight``, set in the points of those tables. In the released runs a small network fitted
  to this function gives v, so it is approximate there; here it is exact.
- The percentile of the losses (0.7), burn-in (0) and example dropout (none) of those runs do not enter this weight.
- The weight of the student's weight decay by mean(v) in the released code is not copied: the recipe's acts on every
  method alike. So is the learning rate: the recipe's milestones are those of the MentorNet runs, steps 19531, 25000 and 30000
  of 39000 (the released *baseline* computes x 0.1 every 50 epochs and then overwrites it with an exponential one).
- Traps of the released runs that do not exist here: commands that misspell the percentile's flag (they fail, or keep
  0.7), a stop_gradient without effect (the weight is outside the graph for another reason), epochs counted in percent
  of the training, and test images under the name of validation.
- The factor is no statement of how clean a label is (rather the reverse), so it is not reported as the weight.
"""

from raystudy.learn.losses import focal
from raystudy.learn.method import Batch, Log, Method, Task


class Focal(Method):
    """Focal loss with exponent ``gamma`` (0: cross-entropy). ``detach_weight``: the factor is a weight without gradient."""

    def __init__(self, task: Task, *, gamma: float = 2.0, detach_weight: bool = False) -> None:
        super().__init__(task)
        self.gamma, self.detach_weight = gamma, detach_weight

    def step(self, batch: Batch, t: int) -> Log:
        loss = focal(self.nets[0](batch.x), batch.y, self.gamma, self.detach_weight).mean()
        self.descend(0, loss)
        return {"loss": loss.detach()}
