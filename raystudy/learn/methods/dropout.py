"""Cross-entropy with a tuned dropout rate: the rows "Dropout" and "Forgetting" of the MentorNet and MentorMix tables.

Papers: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 2014; Arpit et
al., "A Closer Look at Memorization in Deep Networks", ICML 2017 (arXiv 1706.05394), whose observation that dropout
limits memorisation MentorNet's Table 2 calls "Forgetting". No code for it is in google/mentornet @76d6be2.

| equation | here |
| --- | --- |
| h' = h m / (1 - d), m ~ Bernoulli(1 - d), while training | the networks, ``task.net(dropout=d)`` |

It is no method that forgets samples and has nothing to do with forgetting events (Toneva et al. 2019).

Deviations from the originals, and why
- The rate is that of dropping. Whether MentorNet's searched number (0.2 to 0.9) is of keeping or of dropping is not
  stated.
- Where dropout acts is the network's business: behind each hidden layer ("mlp"), before the classifier ("convnet"),
  inside the residual blocks as in mixup's experiments ("preact_resnet18"), channels after pooling ("cnn9").
- The values of the points are those of the mixup paper's baseline "ERM + dropout" (Zhang et al. 2018); MentorNet's
  are not published.
"""

from dataclasses import replace
from functools import partial

import torch.nn.functional as F

from raystudy.learn.method import Batch, Log, Method, Task


class Dropout(Method):
    """Cross-entropy on a network that drops a share ``dropout`` of its units while training."""

    def __init__(self, task: Task, *, dropout: float = 0.5) -> None:
        super().__init__(replace(task, net=partial(task.net, dropout=dropout)))

    def step(self, batch: Batch, t: int) -> Log:
        loss = F.cross_entropy(self.nets[0](batch.x), batch.y)
        self.descend(0, loss)
        return {"loss": loss.detach()}
