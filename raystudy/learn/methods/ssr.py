"""SSR and SSR+: relabel where the network is confident, keep what a balanced vote of neighbours agrees with, train on that.

Paper: Feng, Tzimiropoulos, Patras, "SSR: An Efficient and Robust Framework for Learning with Unknown Label Noise", BMVC 2022 (arXiv
2111.11288). Original code: MrChenFeng/SSR_BMVC2022 @849530d (main_cifar.py, utils/funcs.py, utils/classbalancedsampler.py).

| original | here |
| --- | --- |
| features and predictions in eval mode of weakly augmented images | ``SSR._select``, ``features.bank`` |
| label := arg max where its probability > theta_r (strict), each epoch anew from the given label | ``relabelled`` |
| vote of the k most similar by cosine, the sample itself among them, all with weight 1, divided by class frequencies | ``balanced_vote`` |
| clean: vote of the own label / largest vote >= theta_s | ``right_score`` |
| class-balanced order: each class as often as the largest, empty ones left out | ``balanced_order`` |
| two strong views stacked, one lam = max(draw, 1 - draw), soft cross-entropy | ``SSR._step``, ``ops.mix`` |
| SSR+: minus the cosine of the strong view's prediction and the weak one's projection, on all images | ``semi.feature_consistency`` |
| as many steps as the whole set has batches, the labelled order begun anew whenever it runs out | ``SSR.epoch`` |

Deviations from the original, and why
- ``lambda_fc`` = 0 is SSR, 1 SSR+. The original computes the consistency with SSR, too, and so moves batch norm's running statistics
  by all images; so do we (without gradient), or published SSR would be another method.
- In front of a linear classifier of fixed vectors nothing can be consistent: that branch is left out there whatever ``lambda_fc``.
- The vote is on *augmented* images, so that selection is random even with fixed weights, as published; ``train`` in eval mode.
- A sample votes for itself (1/k of the raw vote, more for a rare class): ``self_vote`` = false leaves it out.
- Clothing1M's script passes its arguments one place off, and so runs without balance: that is ``balanced`` = false.
- k is at most N/K, the mean size of a class: beyond it a vote is of other classes (the original fails for k > N).
- Selection from the first epoch on, by a network that knows nothing: no warm-up, as published.
- Labels do not accumulate: what is no longer confident falls back to the given label, as published.
- theta_s = 1 is an equality of floats that holds by construction: both sides are the same number.
- Last batches are kept, where both loaders drop them and too few clean ids end in a bare ``except``. Without any clean sample (never
  seen: a sample votes for itself) all are taken.
- Steps are counted by the whole set: at 90 % noise each clean sample is seen many times an epoch.
- The learning rate falls to 1/50 of the first one there; the recipe's cosine falls to 0.
- Clean labels are only logged there; those of images from elsewhere are 10000 when drawn and 10 when read. WebVision's script crashes
  after one epoch, ANIMAL-10N's uses an iterator method that is gone. Neither is rebuilt.
- Noise there is kept in a file whose name has no seed; asymmetric noise of CIFAR-100 is a key error. The README's numbers are of the best
  epoch on the test set.
- Strong views are the study's (there AutoAugment's policy of CIFAR-10 or ImageNet, RandAugment for ANIMAL-10N).
- Weights: how much of the largest vote the *given* label has, so a relabelled sample is held for wrong.

Cost: a pass over all images, 2 B forward and backward for the mixup, B forward and B forward and backward for consistency. Neighbours
are exact, a product of all pairs of features a epoch, in chunks.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.learn.features import Featured, bank, projector, with_heads
from raystudy.learn.losses import soft_cross_entropy
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.neighbours import nearest, tally
from raystudy.learn.ops import beta_draw, mix, permutation
from raystudy.learn.semi import feature_consistency, views

EVAL_BATCH = 2048  # images per forward pass when features are collected; changes no result


def relabelled(probs: Tensor, y: Tensor, theta_r: float) -> Tensor:
    """Labels [n]: the arg max of ``probs`` [n, K] where it is above ``theta_r``, else the given ``y`` [n]."""
    confidence, best = probs.max(1)
    return torch.where(confidence > theta_r, best, y)


def balanced_vote(counts: Tensor, y: Tensor) -> Tensor:
    """``counts`` [n, K] of neighbours' labels divided by the frequencies of the labels ``y`` [n], rows of sum 1, float64."""
    frequency = torch.bincount(y, minlength=counts.shape[1]).double() + 1e-10
    vote = counts.double() / (frequency / frequency.sum())
    return vote / vote.sum(1, keepdim=True)


def right_score(vote: Tensor, y: Tensor) -> Tensor:
    """How much of the largest of ``vote`` [n, K] the label ``y`` [n] has, [n] in [0, 1]; 1 for the winner."""
    return vote.gather(1, y[:, None]).squeeze(1) / vote.amax(1)


def balanced_order(y: Tensor, n_classes: int, orders: list[Tensor] | None = None) -> Tensor:
    """Positions in ``y`` [n], class by class, each non-empty class as often as the largest has members (m).

    A class is repeated ceil(m / size) times, its last m positions are shuffled, its first m kept; so every sample comes floor or ceil
    of m / size times. ``orders``: the permutations [m] of the non-empty classes; None: drawn.
    """
    members = [own for c in range(n_classes) if len(own := (y == c).nonzero().squeeze(1))]
    most = max(map(len, members))
    orders = orders or [permutation(most, y.device) for _ in members]
    out = []
    for own, order in zip(members, orders, strict=True):
        own = own.repeat(-(-most // len(own)))
        out.append(torch.cat([own[:-most], own[-most:][order]])[:most])
    return torch.cat(out)


class SSR(Method):
    """SSR, and with ``lambda_fc`` above 0 SSR+.

    ``theta_r``: a label is replaced where the prediction is more confident; 1 for never. ``theta_s``: share of the
    largest vote from which a label is kept. ``k``: neighbours that vote. ``lambda_fc``: weight of the consistency of
    features. ``alpha``: strength of mixup. ``balanced``: votes are divided by class frequencies. ``self_vote``: a
    sample is its own first neighbour.
    """

    labels: Tensor  # [n] of this epoch
    clean: Tensor  # [n] bool

    def __init__(
        self,
        task: Task,
        *,
        theta_r: float = 0.9,
        theta_s: float = 1.0,
        k: int = 200,
        lambda_fc: float = 1.0,
        alpha: float = 4.0,
        balanced: bool = True,
        self_vote: bool = True,
    ) -> None:
        super().__init__(
            with_heads(task, projection=lambda d: projector(d, 256, 128), prediction=lambda d: projector(128, 256, 128))
        )
        self.theta_r, self.theta_s, self.lambda_fc, self.alpha = theta_r, theta_s, lambda_fc, alpha
        self.balanced, self.self_vote = balanced, self_vote
        self.k = max(min(k, task.n // task.n_classes), 1)
        device = next(self.nets.parameters()).device
        self.register_buffer("labels", torch.zeros(task.n, dtype=torch.int64, device=device))
        self.register_buffer("clean", torch.zeros(task.n, dtype=torch.bool, device=device))

    @property
    def net(self) -> Featured:
        net = self.nets[0]
        assert isinstance(net, Featured)
        return net

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        yield self._select(train)
        self.train()
        kept = self.clean.nonzero().squeeze(1) if self.clean.any() else torch.arange(len(train), device=train.y.device)
        labelled = self._labelled(train, kept)
        for batch in train.batches(views=2, augment=(True, "strong")):
            yield self._step(next(labelled), batch)

    @torch.no_grad()
    def _select(self, train: Train) -> Log:
        """Labels and the clean set of this epoch."""
        self.eval()
        features, logits = bank(self.net, train.batches(shuffle=False, batch_size=EVAL_BATCH))
        self.labels.copy_(relabelled(logits.softmax(1), train.y, self.theta_r))
        near = nearest(features, self.k, "cosine", self.self_vote).position
        counts = tally(near, self.labels, train.n_classes)
        vote = balanced_vote(counts, self.labels) if self.balanced else counts.double()
        self.clean.copy_(right_score(vote, self.labels) >= self.theta_s)
        return {
            "index": torch.arange(len(train), device=train.y.device),
            "weight": right_score(vote, train.y).float(),
            "passes": len(train),
            "relabelled": (self.labels != train.y).double().mean(),
            "clean": self.clean.double().mean(),
        }

    def _labelled(self, train: Train, kept: Tensor) -> Iterator[Batch]:
        """Batches of two strong views of the ``kept`` [m] samples, classes balanced, without end."""
        while True:
            order = kept[balanced_order(self.labels[kept], train.n_classes)]
            yield from train.batches(order, views=2, augment="strong")

    def _step(self, x: Batch, everything: Batch) -> Log:
        """One update on labelled images ``x`` and, for consistency, any others."""
        net, images = self.net, torch.cat(views(x))
        targets = F.one_hot(self.labels[x.index], self.task.n_classes).float().repeat(2, 1)
        lam = beta_draw(self.alpha)
        images, targets = mix(images, targets, max(lam, 1 - lam), permutation(len(images), images.device))
        loss = soft_cross_entropy(net(images), targets)
        passes = 6 * len(x.y)
        if net.learns:
            weak, strong = views(everything)
            with torch.no_grad():
                target = net.get_submodule("projection")(net.features(weak))
            with torch.set_grad_enabled(self.lambda_fc > 0):
                prediction = net.get_submodule("prediction")(net.get_submodule("projection")(net.features(strong)))
            loss = loss + self.lambda_fc * feature_consistency(prediction, target)
            passes += (4 if self.lambda_fc else 2) * len(everything.y)
        self.descend(0, loss)
        return {"loss": loss.detach(), "passes": passes}
