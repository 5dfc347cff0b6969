"""How a network memorises wrong labels, and a method that does not: two trainings side by side, without Ray. A minute on one core.

python examples/curves.py [EPOCHS]
"""

import sys

import pandas as pd

import raystudy as rs

epochs = int((sys.argv[1:] or ["30"])[0])
curves = pd.DataFrame(
    {
        method: [record["test/acc"] for record in rs.train(method, noise="symmetric:0.5", epochs=epochs, threads=1)]
        for method in ("ce", "elr")
    }
)
print(curves.round(3).to_string())
curves.plot(xlabel="epoch", ylabel="test accuracy", title="digits, half of the labels redrawn").figure.savefig(
    "curves.png"
)
print("drawn: curves.png")
