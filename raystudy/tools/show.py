"""``raystudy data show``: pictures of a data set under noise, into a folder."""

import argparse

from raystudy.data import datasets, noise
from raystudy.data.pictures import pictures
from raystudy.errors import InputError
from raystudy.learn.celldata import prepare
from raystudy.learn.condition import condition
from raystudy.terminal import terminal

VAL_FRACTION = 0.1  # of the split that data is prepared with; pictures show both sides of it


def command(args: argparse.Namespace) -> int:
    """``raystudy data show``."""
    from raystudy import sweep

    console = terminal()
    if args.images < 1:
        raise InputError(f"--images is {args.images}; it must be at least 1")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out} is a file; it takes a folder")
    settings = noise.parse(args.noise, seed=args.noise_seed)
    if len(settings) != 1:
        raise InputError(f"data show draws one noise level, not {len(settings)}: {args.noise}")
    dataset = sweep.dataset_of(args)
    cell = prepare(dataset, args.data_root, settings[0], VAL_FRACTION)
    shown = condition(cell, settings[0], datasets.load(dataset, args.data_root, settings[0]).classes, args.images)
    files = pictures(shown, args.out)
    effective = "unknown" if shown.effective is None else f"{shown.effective:.1%}"
    nominal = "" if shown.nominal is None else f"nominal rate {shown.nominal:g}, "
    console.print(
        f"{shown.title}: {len(shown.given):,} images, {len(shown.classes)} classes; {nominal}{effective} of the labels wrong",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for file in files:
        console.print(f"  {file}", markup=False, highlight=False, soft_wrap=True)
    return 0
