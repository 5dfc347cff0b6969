"""A classifier from labels of which a part is wrong, beside scikit-learn's own, and which labels it doubts. Two minutes on one core.

python examples/classifier.py [EPOCHS]
"""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import raystudy as rs

epochs = int((sys.argv[1:] or ["40"])[0])
x, y = load_digits(
    return_X_y=True
)  # in place of your own: vectors [n, d] or images [n, H, W] of uint8, labels of any kind
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
given = rs.corrupt(y_train, "symmetric:0.4", seed=0)
wrong = given != y_train
print(f"{wrong.mean():.1%} of the labels are wrong")

plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(x_train, given)
robust = rs.NoisyLabelClassifier("auto", epochs=epochs, random_state=0, verbose=1).fit(x_train, given)
print(
    f"test accuracy: {plain.score(x_test, y_test):.3f} by logistic regression, {robust.score(x_test, y_test):.3f} by {robust.method_}"
)

doubted = np.argsort(robust.label_quality_)[: int(wrong.sum())]
print(
    f"of the {len(doubted)} labels it doubts most, {wrong[doubted].mean():.1%} are wrong; by chance {wrong.mean():.1%}"
)
