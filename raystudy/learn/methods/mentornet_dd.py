"""MentorNet DD: weigh the samples of a batch by a small network learned from losses whose labels were known clean or wrong.

Paper: Jiang, Zhou, Leung, Li, Fei-Fei, "MentorNet: Learning Data-Driven Curriculum for Very Deep Neural Networks on
Corrupted Labels", ICML 2018 (arXiv 1712.05055). Original code: google/mentornet @76d6be2 (utils.py,
training_mentornet/).

| original | here |
| --- | --- |
| g_m: bi-LSTM of one unit on the one step (l, l - m), cell states; embeddings; FC 20 tanh; 1 (``mentornet_nn``) | ``mentor_logits`` |
| features z = (l, l - m, label = 0, e); m follows the p-percentile | ``ops.nearest_rank``, ``ops.moving_average`` |
| v = sigmoid(g_m(z)), raised to 1 while e < burn_in - 1 | ``with_burn_in`` |
| e' = min(e, burn_in): the percent after which the epoch input stands still | ``MentorNetDD.step`` |
| example dropout; mean_B(v l) + mean(v) weight decay | ``mentornet_pd.example_mask``, ``losses.weighted_mean`` |
| fitting g_m by cross-entropy to v* = 1[given == clean] | ``raystudy train-mentor`` (outside the wall) |

``mentor`` says which net: "package" is the one shipped beside this file, ``mentornet_dd.npz``, made by ``raystudy train-mentor
--dataset digits --noise symmetric:0.2 --students 4 --epochs 100``: students on scikit-learn's digits with 20 % symmetric noise,
stopped at 18 % of training, as in the paper (CIFAR-10 there). Anything else is the path of a file that the same command made of another
source study. Whoever uses a net on other data uses it outside its training distribution, as the released net was at other rates
and on CIFAR-100; weights need not fall evenly for large losses. Truth was needed to learn it, but none of the data set it is used on.
A study knows a file by its path: give another net another name. Arrays are read, nothing is unpickled.

Deviations from the original, and why
- The released checkpoints are TensorFlow 1 in a bucket that may be gone, so the net is relearned, by the original's
  recipe. Its dump holds the last record of each image; here every student is recorded once, at its end.
- The epoch input is always the percent the net was trained at (18, in the file); there it is 17 for one percent more,
  an embedding that was drawn at random and never trained. So is every other one: an input that moves on would be noise.
- The label input is 0 there too, for all samples; its embedding is a constant.
- ``keep``: the commands misspell the percentile's flag, so 0.7, the default here, was in effect in the runs launched
  with them; the values meant are the paper points.
- m starts at the first percentile, not at 0 (all within the burn-in). Progress is counted in whole epochs.
- The third stage of the dropout schedule (0.9 for the last 5 %) is never reached there, as the stopped epoch indexes the
  schedule too; left out.
- The paper refits g_m at 21 % and 75 % of training; the released code never does, nor do we. The paper's history of
  several losses is one loss in the code.
- The output bias is added to the weights of the output layer, not to the output, as published.
- v is a constant for the student, and the parameters of g_m are buffers: no optimizer, no weight decay reaches them.
- The weight decay of the original acts on the weights of convolutions and dense layers only, here on all parameters.
- The original's net starts from TensorFlow's defaults; ours is drawn as ``raystudy train-mentor`` says. Neither start is published,
  and the embeddings that are never trained stay what they were drawn as, so two relearned nets differ.
- The last short batch is kept.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raystudy.errors import InputError
from raystudy.learn.losses import weighted_mean
from raystudy.learn.method import Batch, Log, Method, Task
from raystudy.learn.methods.mentornet_pd import example_mask
from raystudy.learn.ops import moving_average, nearest_rank, progress

FILE = Path(__file__).with_name("mentornet_dd.npz")
SHAPES: dict[str, tuple[int, ...]] = {
    "lstm_kernel_fw": (3, 4),
    "lstm_kernel_bw": (3, 4),
    "label_embedding": (2, 2),
    "epoch_embedding": (100, 5),
    "fc_w": (9, 20),
    "out_w": (20, 1),
    "lstm_bias_fw": (4,),
    "lstm_bias_bw": (4,),
    "fc_b": (20,),
    "out_b": (1,),
}


def mentor_logits(net: dict[str, Tensor], losses: Tensor, diff: Tensor, e: Tensor) -> Tensor:
    """The output [B] of a MentorNet before the sigmoid, from ``losses``, ``diff`` [B] and percent ``e`` (int64, [B] or 0-d).

    ``net``: lstm_kernel_{fw,bw} [3, 4] and lstm_bias_{fw,bw} [4] (gates i, j, f, o; rows loss, diff, h),
    label_embedding [2, 2], epoch_embedding [100, 5], fc_w [9, 20], fc_b [20], out_w [20, 1], out_b [1]. One time step from
    zero state: h is 0 and the cell state is sigmoid(i) tanh(j).
    """
    x = torch.stack([losses, diff], 1)
    cells = []
    for way in ("fw", "bw"):
        gates = x @ net[f"lstm_kernel_{way}"][:2] + net[f"lstm_bias_{way}"]
        cells.append(gates[:, :1].sigmoid() * gates[:, 1:2].tanh())
    label = net["label_embedding"][0].expand(len(x), -1)
    epoch = net["epoch_embedding"][e].expand(len(x), -1)
    hidden = torch.tanh(torch.cat([label, epoch, *cells], 1) @ net["fc_w"] + net["fc_b"])
    return (hidden @ (net["out_w"] + net["out_b"])).squeeze(1)


def with_burn_in(v: Tensor, e: int, burn_in_percent: float) -> Tensor:
    """max(v, 1[e < burn_in - 1]), [B]; both in percent of training."""
    return torch.ones_like(v) if e < burn_in_percent - 1 else v


def read_mentor(path: Path) -> dict[str, Tensor]:
    """The arrays of a MentorNet and ``trained_at``. Raises InputError, one line, for a file that is none; nothing is unpickled."""
    if not path.is_file():
        raise InputError(
            f"there is no mentor {path}; give 'package' or the whole path of a file that raystudy train-mentor wrote"
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in (*SHAPES, "trained_at")}
    except Exception as e:  # numpy and zipfile raise all sorts on foreign or torn files
        raise InputError(
            f"mentor {path} cannot be read ({type(e).__name__}); make it with raystudy train-mentor"
        ) from None
    at = arrays.pop("trained_at")
    for name, array in arrays.items():
        if array.shape != SHAPES[name] or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(
                f"mentor {path}: {name} must be {list(SHAPES[name])} finite numbers, it is {array.dtype} {list(array.shape)}"
            )
    if at.shape != () or at.dtype.kind not in "iu" or not 0 <= at < len(arrays["epoch_embedding"]):
        raise InputError(f"mentor {path}: trained_at must be a whole number of percent from 0 to 99")
    return {name: torch.from_numpy(array).float() for name, array in arrays.items()} | {
        "trained_at": torch.tensor(int(at))
    }


class Mentor(nn.Module):
    """A learned MentorNet as constants: weights [B] from losses and their distance to the percentile, both [B].

    ``source``: "package" or the path of an ``.npz`` of ``raystudy train-mentor``.
    """

    def __init__(self, source: str = "package") -> None:
        super().__init__()
        for name, array in read_mentor(FILE if source == "package" else Path(source)).items():
            self.register_buffer(name, array)

    @torch.no_grad()
    def forward(self, losses: Tensor, diff: Tensor) -> Tensor:
        net = dict(self.named_buffers())
        with torch.autocast(losses.device.type, enabled=False):
            return mentor_logits(net, losses, diff, net["trained_at"]).sigmoid()


class MentorNetDD(Method):
    """A student weighted by the learned MentorNet.

    ``keep``: the percentile p of the losses. ``update_rate``: weight of the newest batch in its moving average.
    ``burn_in``: fraction of the epochs with weight 1, less one percent. ``early_dropout``: example dropout until
    ``dropout_until`` of the epochs, ``late_dropout`` after it. ``mentor``: "package", or the path of a learned MentorNet.
    """

    files = ("mentor",)
    m: Tensor  # 0-d moving average, NaN before the first batch

    def __init__(
        self,
        task: Task,
        *,
        keep: float = 0.7,
        update_rate: float = 0.5,
        burn_in: float = 0.18,
        early_dropout: float = 0.5,
        dropout_until: float = 0.17,
        late_dropout: float = 0.05,
        mentor: str = "package",
    ) -> None:
        super().__init__(task)
        self.keep, self.update_rate, self.burn_in = keep, update_rate, burn_in
        self.early_dropout, self.dropout_until, self.late_dropout = early_dropout, dropout_until, late_dropout
        device = next(self.nets.parameters()).device
        self.register_buffer("m", torch.full((), torch.nan, device=device))
        self.mentor = Mentor(mentor).to(device)

    def settled(self) -> float:
        return min(max(self.burn_in, self.dropout_until), 1.0)

    def step(self, batch: Batch, t: int) -> Log:
        e = progress(t, self.task.epochs)
        losses = F.cross_entropy(self.nets[0](batch.x), batch.y, reduction="none")
        fixed = losses.detach()
        self.m = moving_average(self.m, nearest_rank(fixed, self.keep), self.update_rate)
        v = with_burn_in(self.mentor(fixed, fixed - self.m), e, 100 * self.burn_in)
        rate = self.early_dropout if e < 100 * self.dropout_until else self.late_dropout
        used = v * example_mask(len(v), rate, v.device)
        self.descend(0, weighted_mean(losses, used, self.optimizers[0], "batch"))
        log: Log = {"loss": (used * fixed).mean(), "percentile": self.m}
        return log if e < 100 * self.burn_in - 1 else log | {"weight": v}
