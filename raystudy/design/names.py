"""The names that a study is made of and that can be listed without loading anything, so that help and mistakes are answered at once."""

from pathlib import Path

import search_spaces

OBJECTIVES = ("val/acc", "val/loss")

SAMPLERS = ("tpe", "random", "qmc", "gp", "cmaes")

AUTO = "auto"  # one of these, chosen when a study begins

SCHEDULERS = ("asha", "none")

# Which finished trainings leave their weights: none, the best of a cell, or all.
MODELS = ("none", "best", "all")

# One recipe for all methods, each method's published one, or one method's published one for all.
SPACES = {p.stem for p in Path(search_spaces.__path__[0]).glob("*.toml")} - {"recipes", "prices"}

RECIPES = ("shared", "paper", *sorted(SPACES))

# Study files that come with raystudy.
SHIPPED = tuple(sorted(p.stem for p in Path(search_spaces.__path__[0], "studies").glob("*.toml")))
