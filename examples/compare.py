"""Three methods over two noise levels, and a picture of who wins by how much. Ten minutes on two cores; the same call goes on if stopped.

python examples/compare.py [EPOCHS] [TRIALS]
"""

import sys

import matplotlib.pyplot as plt

import raystudy as rs

epochs, trials = (int(n) for n in [*sys.argv[1:], "90", "5"][:2])
study = rs.Study(["elr", "coteaching"], noise="symmetric:0.2,0.5", name="compare", epochs=epochs, trials=trials)
results = rs.run(study)

board = results.leaderboard()
print(board[["rate", "method", "last10", "last10_std", "gain", "n"]].to_string(index=False))

axes = board.pivot(index="rate", columns="method", values="last10").plot.bar(rot=0, ylabel="test accuracy (last10)")
axes.set_title(f"{study.name}: tuned, mean of {board['n'].min()} seeds")
plt.savefig("compare.png", dpi=130)
print("drawn: compare.png; the whole report:", results.report())
