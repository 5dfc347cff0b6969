"""``NoisyLabelClassifier``: the methods as a scikit-learn estimator, for vectors and images that stand in memory.

Here belongs what makes an estimator of a method: any labels, any arrays, a seed, what is told of the labels. How methods learn is in
``learn``; studies, searches and records are for ``raystudy.run``. scikit-learn's own words are kept: ``fit``, ``X``, ``classes_``.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from raystudy.data.dataset import channel_stats
from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.errors import InputError, unknown
from raystudy.learn import ops, point
from raystudy.learn.celldata import CellData
from raystudy.learn.method import Method
from raystudy.learn.methods import METHODS
from raystudy.learn.metrics import Truth
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run, device_here
from raystudy.tools.folds import folds_of, predict

Array = NDArray[Any]
Probs = NDArray[np.float64]  # [N, K]

AUTO = "auto"
# What "auto" chooses: the first whose bound the estimated share of wrong labels is not above.
BY_RATE = ((0.05, "ce"), (1.0, "dividemix"))
RATE_FOLDS = 5  # by which that share is estimated, with cross-entropy,
RATE_EPOCHS = (
    1 / 3
)  # in at most this share of the epochs, the best by a tenth that is held out: before the labels are memorised
MANY = 50  # samples from which on a tenth of four folds can choose anything

TEXT, WHOLE, NUMBER = ((str,), "a text"), ((int, np.integer), "a whole number"), ((int, float, np.number), "a number")
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **{"method": TEXT, "params": ((Mapping,), "a dict"), "noise_rate": NUMBER, "network": TEXT, "epochs": WHOLE},
    **{"batch_size": WHOLE, "folds": WHOLE, "verbose": WHOLE, "n_threads": WHOLE, "device": TEXT},
}
OPTIONAL = ("params", "noise_rate", "network", "epochs", "batch_size", "device")

UPDATES = 1500  # of a network, where nobody names epochs: within these bounds
EPOCHS = (10, 60)
FEW = 4, 10  # a batch is at least the first, and at most a tenth of few samples
FAR = 1e6  # standard deviations: what is further from all that was learned from stands there
SHOWN = 256  # training samples that the progress looks at
CHUNK_NUMBERS = 1 << 22  # of samples that are predicted at once


class Form(NamedTuple):
    """How samples are made into what networks take: vectors standardised by feature, images by channel."""

    shape: tuple[int, ...]  # (features,), or (channels, height, width)
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def images(self) -> bool:
        return len(self.shape) == 3


@dataclass(frozen=True)
class Plan:
    """One training, as everything else about it is known."""

    method: str
    point: dict[str, Any]
    network: str
    recipe: Recipe
    epochs: int
    seed: int
    device: str
    n_classes: int
    form: Form


class Learned(NamedTuple):
    """What a training leaves: the method, ready to predict, and the last weights [n] it gave (NaN where none), None without any."""

    method: Method
    weight: Array | None


class NoisyLabelClassifier(ClassifierMixin, BaseEstimator):
    """A classifier that learns from labels of which some are wrong, by a method of this library.

    Parameters
    ----------
    method : a name of ``raystudy.methods()``, or "auto": by the share of wrong labels, up to 5 % plain cross-entropy ("ce"),
        above "dividemix".
    params : hyperparameters of the method and of the recipe (``lr``, ...) by name; what is not named has its default. None: the published
        ones for the nearest share of wrong labels.
    noise_rate : that share, where you know it. None: it is estimated where it is needed, by cross-entropy trained on four of five folds
        and asked about the fifth (with ``params``, or for a method whose published hyperparameters do not depend on it, it is not).
    network : None for "mlp" on vectors, and by size on images.
    epochs : None for 10 to 60, about 1,500 updates.
    batch_size : None for the recipe's, less where samples are few.
    folds : 0, or at least 2: the method is trained once more for each fold, and ``label_quality_`` and ``noise_matrix_`` come from
        predictions of samples that it was not trained on. Better, and so many times as dear.
    random_state : an int for the same fit every time.
    verbose : 1 for a line now and then from the first epoch on, 2 for every epoch.
    n_threads : of torch while this estimator works; what it was is restored.
    device : None for a GPU where there is one.

    Attributes
    ----------
    classes_ : [K] the labels there are, sorted.
    label_quality_ : [n] in [0, 1], low where the given label of a training sample looks wrong. ``label_quality_source_`` says what
        it is: "out-of-fold", the probability of the given label by the method on other folds (with ``folds``), or by cross-entropy
        (where that estimated ``noise_rate``); "out-of-fold and weight", the mean of the latter and the weight that the method gave the
        sample in its last epoch (where it weighs samples); or in-sample, and worse, that "weight" alone, or the "confidence", the final
        probability of the given label.
    noise_matrix_ : [K, K] estimated P(given label = column | true label = row): the confident joint of out-of-fold predictions, where
        there are any (``folds``, or ``noise_rate`` was estimated), else counted from the final, in-sample predictions, which says little
        of a method that memorises.
    noise_rate_ : the share of wrong labels under it.
    method_, params_ : the method that was used, and its hyperparameters where they are not its defaults.
    n_features_in_, feature_names_in_ : as everywhere in scikit-learn.

    ``X``: vectors [n, d] of any numbers, or images: uint8 (or floats in [0, 1]) [n, H, W], [n, C, H, W] or [n, H, W, C], square, of
    1 or 3 channels. ``y``: labels of any kind, of at least two classes.
    """

    def __init__(
        self,
        method: str = "dividemix",
        *,
        params: Mapping[str, Any] | None = None,
        noise_rate: float | None = None,
        network: str | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        folds: int = 0,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        n_threads: int = 1,
        device: str | None = None,
    ) -> None:
        self.method = method
        self.params = params
        self.noise_rate = noise_rate
        self.network = network
        self.epochs = epochs
        self.batch_size = batch_size
        self.folds = folds
        self.random_state = random_state
        self.verbose = verbose
        self.n_threads = n_threads
        self.device = device

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learns from samples and their given labels."""
        self._check()
        given_x, labels = validate_data(self, X, y, dtype="numeric", allow_nd=True, ensure_min_samples=2)
        self.n_features_in_ = math.prod(given_x.shape[1:])  # scikit-learn counts one dimension of images
        check_classification_targets(labels)
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"y holds one class only, {classes[0]!r}; a classifier needs at least 2 classes")
        x, form = formed(given_x)
        y_given = torch.from_numpy(codes.astype(np.int64).reshape(-1))
        with threads(self.n_threads), torch.random.fork_rng():
            plan, oof = self._planned(x, y_given, len(classes), form)
            told = learn(x, y_given, plan, self._tell(plan.method))
            if self.folds:
                oof = out_of_fold(x, y_given, plan, self.folds, self._fold_tell(plan.method))
            own = probs_of(told.method, x, form)
        self.classes_, self.form_, self.learner_ = classes, form, told.method
        self.method_, self.params_ = plan.method, plan.point
        self._judge(own, oof, told.weight, y_given.numpy())
        return self

    def predict_proba(self, X: ArrayLike) -> Probs:
        """Probabilities [n, K] of the true label, in the order of ``classes_``."""
        check_is_fitted(self)
        images = self.form_.images  # of which scikit-learn would count one dimension
        told = check_array(X, allow_nd=True) if images else validate_data(self, X, reset=False, allow_nd=True)
        x, form = formed(told, self.form_)
        if form.shape != self.form_.shape:
            now, then = ("x".join(map(str, f.shape)) for f in (form, self.form_))
            raise InputError(f"X has samples of {now}, but {type(self).__name__} was fitted on samples of {then}")
        with threads(self.n_threads):
            return probs_of(self.learner_, x, form)

    def predict(self, X: ArrayLike) -> Array:
        """The most probable labels [n]."""
        probs = self.predict_proba(X)
        labels: Array = self.classes_[probs.argmax(1)]
        return labels

    # -- what a fit needs --------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Raises InputError, one line, for an argument that cannot be."""
        for name, (kind, what) in KINDS.items():
            value = getattr(self, name)
            known = value is None and name in OPTIONAL
            if not known and (not isinstance(value, kind) or (isinstance(value, bool) and name != "verbose")):
                raise InputError(f"{name} is {value!r}; it must be {what}{', or None' * (name in OPTIONAL)}")
        if self.method not in (AUTO, *METHODS):
            raise unknown("method", self.method, [AUTO, *METHODS])
        for name, least in (("epochs", 1), ("batch_size", 2), ("n_threads", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        if self.folds < 0 or self.folds == 1:
            raise InputError(f"folds is {self.folds}; it must be 0, or at least 2")
        if self.method == AUTO and self.params is not None:
            raise InputError("params are of one method, and method is 'auto'; name the method, or leave params out")
        if self.noise_rate is not None and not 0 <= self.noise_rate <= 1:
            raise InputError(f"noise_rate is {self.noise_rate}; it is a share of the labels, from 0 to 1")

    def _planned(self, x: Tensor, y: Tensor, n_classes: int, form: Form) -> tuple[Plan, Probs | None]:
        """The training to be made; with the out-of-fold predictions by which the share of wrong labels was estimated, if it was."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        network = self.network or usual(form.shape)
        shared = space.recipe_for("shared", "ce", "", network)
        batch = self.batch_size or min(shared.batch_size, max(FEW[0], len(y) // FEW[1]))
        recipe = replace(shared, batch_size=int(batch))
        epochs = self.epochs or min(EPOCHS[1], max(EPOCHS[0], math.ceil(UPDATES * batch / len(y))))
        plan = Plan("ce", {}, network, recipe, int(epochs), seed, device_here(self.device), n_classes, form)
        if self.params is not None:
            return replace(plan, method=self.method, point=point.checked(self.method, self.params, "params")), None
        rate, oof = self.noise_rate, None
        if rate is None and (self.method == AUTO or rated(self.method)):
            short = replace(plan, epochs=max(1, round(epochs * RATE_EPOCHS)))
            oof = early(x, y, short, RATE_FOLDS, self._fold_tell("ce"))
            rate = rate_of(noise_matrix(oof, y.numpy(), True), y.numpy())
            self._say(f"about {rate:.0%} of the labels are wrong, by cross-entropy out of fold")
        method = self.method if self.method != AUTO else next(name for most, name in BY_RATE if (rate or 0.0) <= most)
        return replace(plan, method=method, point=published(method, rate, n_classes)), oof

    def _judge(self, own: Probs, oof: Probs | None, weight: Array | None, given: NDArray[np.int64]) -> None:
        """What is told of the labels, from in-sample and out-of-fold predictions and the method's weights."""
        rows = np.arange(len(given))
        quality, source = own[rows, given], "confidence"
        if weight is not None:
            quality, source = np.where(np.isnan(weight), quality, weight), "weight"
        if oof is not None and (self.folds or weight is None):
            quality, source = oof[rows, given], "out-of-fold"
        elif oof is not None:  # each sees what the other does not
            quality, source = (oof[rows, given] + quality) / 2, "out-of-fold and weight"
        self.label_quality_, self.label_quality_source_ = quality.clip(0, 1), source
        self.noise_matrix_ = noise_matrix(own if oof is None else oof, given, oof is not None)
        self.noise_rate_ = rate_of(self.noise_matrix_, given)

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)

    def _tell(self, what: str) -> Callable[[int, int, Mapping[str, Any]], None]:
        """Prints how a training goes: the first epoch, so that one sees what it will take, then ten more lines, or all."""
        began = time.monotonic()

        def tell(epoch: int, epochs: int, record: Mapping[str, Any]) -> None:
            done = epoch + 1
            if self.verbose >= 2 or (
                self.verbose and (done == 1 or done % max(1, epochs // 10) == 0 or done == epochs)
            ):
                spent = time.monotonic() - began
                agreed, left = record["val/acc"] or 0.0, spent / done * (epochs - done)
                self._say(
                    f"{what}  epoch {done:>3} of {epochs}  loss {record['train/loss'] or math.nan:.4g}  "
                    f"agrees with {agreed:.1%} of the labels  {spent:.1f} s, {left:.0f} s to go"
                )

        return tell

    def _fold_tell(self, what: str) -> Callable[[int, int], None]:
        def tell(fold: int, folds: int) -> None:
            self._say(f"{what}  fold {fold + 1} of {folds} predicted by a training on the others")

        return tell


# -- samples ---------------------------------------------------------------------------------------------------------------------


def formed(x: Array, form: Form | None = None) -> tuple[Tensor, Form]:
    """Samples as trainings take them, and their form, measured unless it is given. Raises InputError for images that are none.

    Vectors come out standardised, float32; images uint8 [n, C, H, W].
    """
    if x.ndim > 2:
        pixels = images(x)
        return torch.from_numpy(pixels), Form(pixels.shape[1:], *(form[1:] if form else channel_stats(pixels)))
    wide = x.astype(np.float64)
    if form is None or form.images:
        largest = np.abs(wide).max(0)
        unit = np.where(largest > 0, largest, 1.0)  # squares of very large numbers are none
        mean, std = (wide / unit).mean(0), (wide / unit).std(0)
        std = np.where(std <= 1e-12, 1.0, std)  # a feature that is constant
        form = Form((x.shape[1],), tuple((mean * unit).tolist()), tuple((std * unit).tolist()))
    fits = x.shape[1] == len(form.mean)
    standard = ((wide - np.array(form.mean)) / np.array(form.std)).clip(-FAR, FAR) if fits else wide
    return torch.from_numpy(standard.astype(np.float32)), form._replace(shape=(x.shape[1],))


def images(x: Array) -> NDArray[np.uint8]:
    """Images as uint8 [n, C, H, W]."""
    shape = "x".join(map(str, x.shape))
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.shape[2] != x.shape[3]:
        raise InputError(
            f"X is {shape}; it is vectors [n, d], or square images [n, H, W], [n, C, H, W] or [n, H, W, C] of 1 or 3 channels"
        )
    if x.dtype != np.uint8:
        if x.dtype.kind != "f" or x.min() < 0 or x.max() > 1:
            raise InputError(f"X has images of {x.dtype}; images are uint8, or floats in [0, 1]")
        x = np.rint(x * 255)
    return np.ascontiguousarray(x, dtype=np.uint8).copy()  # what it came from may be read-only


def usual(shape: tuple[int, ...]) -> str:
    """The network where nobody names one."""
    if len(shape) == 1:
        return "mlp"
    return "resnet18" if shape[1] >= 64 else "convnet" if shape[1] >= 16 else "mlp"


# -- hyperparameters -------------------------------------------------------------------------------------------------------------


def rated(method: str) -> bool:
    """Whether a method's published hyperparameters differ by the rate of wrong labels."""
    return len({repr(sorted(row.point.items())) for row in space.load(method).papers}) > 1


def published(method: str, rate: float | None, n_classes: int) -> dict[str, Any]:
    """The published hyperparameters for the nearest share of wrong labels, drawn uniformly; the defaults where none depend on it."""
    if rate is None or not rated(method):
        return {}
    redrawn = min(
        1.0, rate * n_classes / (n_classes - 1)
    )  # of which some fall on the right label: as rates are published
    return space.load(method).paper("", Noise("symmetric", redrawn))[0]


# -- trainings -------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """torch's threads while something is done; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def learn(
    x: Tensor,
    y: Tensor,
    plan: Plan,
    tell: Callable[[int, int, Mapping[str, Any]], None] = lambda epoch, epochs, record: None,
) -> Learned:
    """One training on samples as ``formed`` gives them. ``tell`` hears of every epoch. Raises InputError where it diverges."""
    run = Run(spec_of(plan), cell_of(x, y, plan), plan.device)
    for epoch in range(plan.epochs):
        record = run.epoch()
        if run.diverged:
            raise InputError(
                f"{plan.method} diverged in epoch {epoch + 1}: its loss is not finite; choose a smaller lr"
            )
        tell(epoch, plan.epochs, record)
    weight = None if run.weight is None else run.weight.double().cpu().numpy()
    return Learned(bare(run.method), weight)


def spec_of(plan: Plan) -> TrialSpec:
    return TrialSpec(
        method=plan.method,
        version=point.method_class(plan.method).version,
        point=plan.point,
        dataset="",
        data_digest="",
        noise={},
        noise_digest="",
        network=plan.network,
        recipe=plan.recipe.to_dict(),
        epochs=plan.epochs,
        seed=plan.seed,
        val_fraction=0.0,
        clean_val=0,
    )


def cell_of(x: Tensor, y: Tensor, plan: Plan) -> CellData:
    """Samples as a training sees them: all to learn from. Some of them stand in for a validation set, for the progress alone."""
    x, y = x.to(plan.device), y.to(plan.device)
    shown = torch.arange(0, len(y), max(1, math.ceil(len(y) / SHOWN)))
    standard = (0.0,) * len(plan.form.mean), (1.0,) * len(plan.form.std)  # as vectors come
    mean, std = plan.form[1:] if plan.form.images else standard
    size = plan.form.shape[-1]
    return CellData(
        name="X",
        data_digest="",
        noise_digest="",
        effective_rate=None,
        shape=plan.form.shape,
        n_classes=plan.n_classes,
        x=x,
        y=y,
        x_held=x[shown],
        x_val=x[shown],
        y_val=y[shown],
        y_test=y[:0],
        extra={},
        mean=mean,
        std=std,
        pad=0 if not plan.form.images else 4 if size >= 32 else 2 if size >= 16 else 1,
        flip=plan.form.images and plan.form.shape[0] == 3,
        strong=(),
        truth=Truth(y, torch.zeros_like(y, dtype=torch.bool), y[shown], known=False),
        places=torch.cat([torch.arange(len(y)), shown]),
    )


def _nothing(*_: Any, **__: Any) -> Any:
    raise RuntimeError("this method has been trained; it only predicts")


def bare(method: Method) -> Method:
    """A method that only predicts: without what it was trained by, which cannot be pickled, and in double precision on the CPU.

    Double, since a sample's probabilities should not depend on which others it is predicted with: in single precision they do, in the
    last digits.
    """
    for module in method.modules():
        if isinstance(module, Method):
            module.task = replace(module.task, net=_nothing, optimizer=_nothing)
            module.optimizers = []
    on_cpu = next(method.parameters()).device.type == "cpu"
    ready: Method = (method.double() if on_cpu else method).eval()
    return ready


@torch.no_grad()
def probs_of(method: Method, x: Tensor, form: Form) -> Probs:
    """Probabilities [n, K]. In chunks; torch's own random numbers are left alone."""
    example: nn.Parameter = next(method.parameters())
    mean, std = (torch.tensor(v, dtype=example.dtype, device=example.device).view(-1, 1, 1) for v in form[1:])
    found = []
    for chunk in x.split(max(1, CHUNK_NUMBERS // math.prod(form.shape))):
        part = chunk.to(example.device, example.dtype)
        found.append(method.probs((part / 255 - mean) / std if form.images else part).double())
    probs: Probs = torch.cat(found).cpu().numpy()
    return probs / probs.sum(1, keepdims=True)  # to the last digit


def out_of_fold(
    x: Tensor, y: Tensor, plan: Plan, folds: int, tell: Callable[[int, int], None] = lambda fold, folds: None
) -> Probs:
    """Probabilities [n, K] of each sample by a training on the folds that it is not in. At most as many folds as pairs of samples."""
    folds = max(2, min(int(folds), len(y) // 2))
    fold = torch.from_numpy(folds_of(y.numpy(), folds, plan.seed))
    probs = np.zeros((len(y), plan.n_classes))
    for k in range(folds):
        learned = learn(x[fold != k], y[fold != k], replace(plan, seed=plan.seed + 1 + k))
        probs[(fold == k).numpy()] = probs_of(learned.method, x[fold == k], plan.form)
        tell(k, folds)
    return probs


def early(x: Tensor, y: Tensor, plan: Plan, folds: int, tell: Callable[[int, int], None]) -> Probs:
    """As ``out_of_fold``, each at the epoch that is best by noisy labels held out for that: before the labels are memorised."""
    if len(y) < MANY:
        return out_of_fold(x, y, plan, folds, tell)

    def heard(fold: int, epoch: int, _: float) -> None:
        if epoch + 1 == plan.epochs:
            tell(fold, folds)

    probs: Probs = predict(cell_of(x, y, plan), spec_of(plan), folds, heard).probs
    return probs / probs.sum(1, keepdims=True)


# -- labels ----------------------------------------------------------------------------------------------------------------------


def noise_matrix(probs: Probs, given: NDArray[np.int64], honest: bool) -> Probs:
    """P(given = column | true = row) [K, K]: of out-of-fold (``honest``) predictions by the confident joint, else counted by the
    predicted class. A class that nothing was predicted to be keeps its labels."""
    k = probs.shape[1]
    if honest:
        from raystudy.tools.transition import confident  # not at the top: cleanlab takes seconds

        matrix = confident(probs, given)
        if np.isfinite(matrix).all() and np.allclose(matrix.sum(1), 1):
            return matrix
    counts = np.zeros((k, k))
    np.add.at(counts, (probs.argmax(1), given), 1.0)
    empty = counts.sum(1) == 0
    counts[empty] = np.eye(k)[empty]
    found: Probs = ops.row_normalise(torch.from_numpy(counts)).numpy()
    return found


def rate_of(matrix: Probs, given: NDArray[np.int64]) -> float:
    """The share of wrong labels under a matrix, for these labels."""
    from raystudy.tools import transition

    return transition.rate_of(matrix, given)
