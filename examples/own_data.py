"""Your own images and labels: arrays into a file, noise that you know into the labels, a study on them. Minutes on two cores.

python examples/own_data.py [EPOCHS]
"""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import raystudy as rs

epochs = int((sys.argv[1:] or ["40"])[0])
x, y = load_digits(return_X_y=True)  # in place of your own: images [n, H, W] or [n, H, W, C] of uint8, labels [n]
images = (x.reshape(-1, 8, 8) * 15).astype(np.uint8)
x_train, x_test, y_train, y_test = train_test_split(images, y, test_size=0.25, random_state=0, stratify=y)
noisy = rs.corrupt(y_train, "pair:0.3", seed=0)
print(f"{(noisy != y_train).mean():.1%} of the labels are wrong")
np.savez("own.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, y_noisy=noisy)

study = rs.Study("gce", dataset="npz:own.npz", noise="given", epochs=epochs, trials=3, replicates=1)
print(rs.run(study).leaderboard()[["method", "noisy_val", "last10"]].to_string(index=False))
