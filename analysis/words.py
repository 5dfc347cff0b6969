"""What stands below the tables and figures of a report: how each is to be read."""

from collections.abc import Mapping

from analysis import collapse, names
from analysis.select import MAIN
from analysis.stats import DRAWS
from analysis.surfaces import FAR, FEW
from analysis.suspects import WORST
from raystudy.design.study import Cell, Study
from raystudy.record.ledger import CellHistory

COMPARED = (
    "{n} studies beside each other. Cells of the same data, noise and method are compared as they are: "
    "look whether their protocols agree."
)
LEADS = {
    "results": "{measured} of every method at every noise level, under each rule for picking the epoch.",
    "selection": "What the numbers would be under other rules, and what it costs not to look at the test set.",
    "statistics": "Which differences are more than chance: over replicates within a condition, and over conditions.",
    "published": "Ours beside published numbers. The protocols differ, and the differences are named.",
    "training": "What happened during training, at the chosen points.",
    "suspects": "Which images the methods distrust at their chosen points, and how they agree. Distrust is no proof: look at them.",
    "search": "What the search tried, which hyperparameters matter, and how the best ones move with the noise rate.",
    "cost": "What a training and a search cost, and the methods at equal budget.",
    "models": "Whose weights were kept, and how to ask them.",
    "provenance": "How to get these numbers again.",
}

RATES = f"Rule {MAIN}: mean of the last ten epochs. Bands: one standard deviation over replicates on fresh seeds."
LEADERBOARD = (
    "Mean ± standard deviation over replicates, each of which picks its epoch anew. "
    "Bold: significantly better than every other method (paired t test by seed, Holm, 0.05)."
)
ORACLE = (
    "Mean ± standard deviation over replicates. ORACLE picks the epoch on the test set: an upper bound and no result, "
    "so nothing is bold."
)
FILTER = (
    "Training labels alone, before any training; the methods of a condition saw the same. Precision: share of wrong labels among those "
    "removed or relabelled; recall: share of the wrong labels that were; AUROC: of the filter's score. Dashes: nobody knows the truth."
)
STAR = " * ORACLE: its point was read off the truth, so it is no result and not compared."
GAP = (
    "Marker: epoch by noisy validation. Bar: ORACLE, the best test epoch. "
    "The line between is what honest selection costs."
)
SELECTION = (
    "Point and epoch are chosen separately. First columns: the point chosen by noisy validation, trained on fresh seeds, "
    "under each rule for the epoch. gap: ORACLE minus noisy_val, percentage points. redone: every replicate seed chooses "
    "its point anew among the points trained on it (the chosen and the published one), then its epoch, all by noisy "
    "validation. point ...: one training on the search's own seed, its point chosen by that rule among all finished "
    "trials, its epoch by noisy validation; ORACLE chooses on the test set."
)
POINTS = "gain: percentage points."
FILLED = " * filled in from the truth."
RANKS = (
    "Mean rank over {n} conditions under {rule}, 1 is best. {test}"
    "Grey bars join methods whose ranks differ by less than Nemenyi's critical difference.{careful}"
)
FRIEDMAN = "Friedman's test (Iman and Davenport's F) that all methods are alike: {p}. "
WILCOXON = "Wilcoxon's signed-rank test that both methods are alike: {p}. "
POWERLESS = (
    "Wilcoxon's signed-rank test of pairs is left out: the smallest p that {n} conditions can reach is {least:.3g}, "
    "{corrected:.3g} after Holm's correction over {pairs}, so nothing could be significant"
)
PAIRS = "Wilcoxon's signed-rank test over conditions, two-sided, p corrected by Holm over all pairs."
INTERVALS = (
    f"Interval: 95 % bootstrap (BCa, {DRAWS:,} draws) of the mean, from three replicates on; with fewer than ten it is "
    "too narrow. p: paired t test by seed against the condition's best method, Holm within the condition. "
    "Bold: all of them below 0.05."
)
ELSEWHERE = "Other data sets than this study's: for orientation only; the numbers are not comparable. "
CURVES = "Mean of the replicates."
IN_PART = (
    " Between the epochs that were evaluated in full, the accuracy is that on {n} test samples (`test/subset_acc`)."
)
COLLAPSED = (
    f"Trials with {' or '.join(collapse.WHAT.values())}, {collapse.WHEN}. The first is a failure of the training, no number to "
    "compare; with the second a method trained as if it weighed nothing, whatever its accuracy: its selection took no part in it. "
    "Epochs are counted from 1; told is the first that was the third of its kind."
)
MEMORY = "Memorised, corrected: share of the wrong training labels that are predicted as given, as the truth."
SIEVE = (
    "Of the samples a method trusts (weight above one half): precision, the share with a right label; "
    "recall, the share of the right labels trusted."
)
LOSSES = (
    "Training images, after the last epoch of one replicate, without augmentation. Dashed: the two Gaussians fitted to all "
    "losses, as DivideMix fits them; they are drawn for every method, whether it uses them or not."
)
CONFUSION = "Test images by class and predicted class, after the last epoch, all replicates together, % of each class."
TRANSITION = "The labels: training images by true and given class, as counted. The model: what the noise draws from."
NO_ARRAYS = "no trial has left arrays (written when a trial completes; studies from before that have none)"
SUSPECTS = (
    "Position in the data set's training set: given label→what the models would rather call it (trust; mean of the replicates). "
    "Told by weight: the one the method gave the label in its last epoch; by confidence: the method weighs nothing, so its final "
    "models' probability of the given label. Both are in-sample: the label was learned from. Validation images are out of sample: "
    "the probability of the given label from models that never saw it. The CSV has more of them."
)
AGREEMENT = (
    f"Spearman's correlation of the trust in the given labels, and how many of the {WORST:.0%} most distrusted images two methods share "
    f"(by chance {WORST:g})."
)
NO_SUSPECTS = (
    "no replicate has left what it holds of single images (written when one completes; studies from before have none)"
)
ALONE = "only one method here has left what it holds of single images"
IMPORTANCE = (
    "Optuna's PED-ANOVA on {metric}, all noise levels together, each counted from its median; sums to 1. "
    "With few trials it is a hint."
)
PARALLEL = "Finished trials of the search. Red: the chosen point of each level."
SURFACE = (
    "Between two levels the recommendation is interpolated on the scale of the search space; "
    "beyond the outermost levels it is theirs."
)
TRANSFER = (
    f"Accuracy on the test images in %, {MAIN}, one training on the search's seed. Nothing is trained for this table. nearest trial: the "
    "finished trial of that level nearest to the recommendation; distance: root mean square per dimension of the unit cube of "
    f"the search space, 'far' beyond {FAR:g}, where the trial says little about the recommendation; regressed: a Gaussian "
    f"process over that level's trials, from {FEW} trials on. Train a recommendation itself with "
    "`raystudy train METHOD --noise ... --set NAME=VALUE ...`."
)
COST = (
    "One training at the chosen point. Sample passes: forward 1, forward and backward 3, times networks; "
    "they do not depend on the machine."
)
BUDGET = (
    "Accuracy on the test images (epoch by noisy validation, search seed) of the point the search would have chosen after so much; "
    "pruned trials are paid for, replicates are not. Dotted: the search had ended."
)
BUDGETS = "spent on the search of a cell. One training on the search's seed, so nothing is bold. –: no trial had finished by then."
SECONDS = "Seconds are those of the machine it ran on, with whatever else ran there."
PLACES = "Means over equal parts of the time in which a sweep ran. Line: how many trials fit at once. Areas: what became of them."
TRAININGS = (
    "Trials in training, by the records of their epochs. How many places there were, no driver of this study told; from the next "
    "run on it does."
)
PLACES_OF = (
    "Hours of places: of four idle for an hour, four. busy: a trial had a worker there, which also loads, and writes checkpoints. "
    "lost: of busy hours, what the records do not have, or had already."
)
PROVENANCE = (
    "A + after a commit: the working tree had changes. More than one value: cells were begun at different times."
)
ASK = """\
# Probabilities for other data, and the models for other programs (torch, onnx, mlflow):
raystudy predict {card} DATA --out predicted.csv
raystudy model {study} --export exported --format onnx"""
DIGESTS = "Equal digests: the same images, the same labels and split. – wrong labels: nobody knows how many are."


def begun(study: Study, histories: Mapping[Cell, CellHistory]) -> str:
    """The head of a report: how far the study is, and what short names in it stand for."""
    trials = [t for h in histories.values() for t in h.trials.values()]
    done = sum(t.state == "complete" for t in trials)
    far = f"{len(histories)} of {len(study.cells())} cells begun, {len(trials)} trials, {done} complete."
    told = f" {study.evaluated}" * bool(study.evaluated)
    told += f" Before every method: {study.filter}." * bool(study.filter)
    return f"{far}{told}{names.full(study)}"
