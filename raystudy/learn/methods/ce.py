"""Plain cross-entropy on the given labels: the baseline every table has ("Standard", "ERM", "FullModel").

L = -mean_i log softmax(f(x_i))[y_i]. Weight decay belongs to the recipe, dropout to the network.

Original: no paper of its own; the training of google/mentornet @76d6be2 and of LiJunnan1992/DivideMix @d9d3058
without the method. Deviation: the released MentorNet baseline and student do not share a learning rate schedule (the
baseline's is computed and overwritten); here the recipe decides, for every method alike.
"""

import torch.nn.functional as F

from raystudy.learn.method import Batch, Log, Method


class CE(Method):
    """Cross-entropy on the given labels; no hyperparameters."""

    def step(self, batch: Batch, t: int) -> Log:
        loss = F.cross_entropy(self.nets[0](batch.x), batch.y)
        self.descend(0, loss)
        return {"loss": loss.detach()}
