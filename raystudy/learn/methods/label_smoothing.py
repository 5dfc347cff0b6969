"""Label smoothing, and negative label smoothing: cross-entropy against (1 - e) one-hot + e / K.

Papers: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016 (arXiv 1512.00567);
under label noise: Lukasik et al., "Does Label Smoothing Mitigate Label Noise?", ICML 2020 (arXiv 2003.02819), and with
e < 0 Wei et al., "To Smooth or Not? When Label Smoothing Meets Noisy Labels", ICML 2022 (arXiv 2106.04149). Code: that
of PyTorch's cross-entropy; YisenWang/symmetric_cross_entropy_for_noisy_labels @ec778df has one of its own.

| equation | here |
| --- | --- |
| -sum_k [(1 - e) t_k + e / K] log p_k | ``losses.label_smoothing`` |

Deviations from the originals, and why
- The helper of the symmetric cross-entropy repository takes another e / K off the true class, so its target sums to
  1 - e / K (0.99 for e = 0.1, K = 10). That is a slip; ours sums to 1.
- The recipe is the DivideMix paper's for plain cross-entropy; neither paper's is for these data sets with noise.
- e < 0 is allowed (PyTorch refuses it). The loss is then unbounded from below and grows more negative for as long as
  it trains: its value says nothing, and it is not comparable with that of other losses.
"""

from raystudy.learn.losses import label_smoothing
from raystudy.learn.method import Batch, Log, Method, Task


class LabelSmoothing(Method):
    """Cross-entropy against labels smoothed by ``smoothing`` (e; larger helps at high noise, negative sharpens)."""

    def __init__(self, task: Task, *, smoothing: float = 0.1) -> None:
        super().__init__(task)
        self.smoothing = smoothing

    def step(self, batch: Batch, t: int) -> Log:
        loss = label_smoothing(self.nets[0](batch.x), batch.y, self.smoothing).mean()
        self.descend(0, loss)
        return {"loss": loss.detach()}
