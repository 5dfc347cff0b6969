"""What streaming costs: JPEG files decoded by worker threads, alone and beside a training, against the same images in memory.

    python benchmarks/streaming.py [--images N] [--side PIXELS] [--size PIXELS] [--network NAME] [--threads N]

The files are smooth random pictures of SIDE x (SIDE + 44) pixels as JPEG (quality 90), resized and cropped to SIZE. One training
with decoding threads, one with the images in memory, in one process and in turns; both are checked to give the same records.
``hidden`` is the share of the shorter of the two (training, decoding) that cost no time: 1 where an epoch from files takes as long as
the longer one, 0 where it takes as long as both, one after the other. On a CPU both want the same cores. So it is measured a second
time with a loop that waits, for as long as decoding a batch takes, as a loop waits whose updates run on a GPU.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torchvision.io import write_jpeg

from raystudy.data import datasets
from raystudy.data.files import Files, decoders
from raystudy.data.noise import Noise
from raystudy.data.spec import located
from raystudy.learn import training
from raystudy.learn.celldata import prepare
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec

EPOCHS = 4  # of which the first is not counted


def write(folder: Path, n: int, side: int) -> str:
    rng = torch.Generator().manual_seed(0)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["path", "label", "split"])
        for i in range(n):
            coarse = torch.randint(256, (1, 3, 16, 16), generator=rng).float()
            picture = F.interpolate(coarse, (side, side + 44), mode="bicubic").clamp(0, 255).to(torch.uint8)[0]
            write_jpeg(picture, str(folder / f"{i}.jpg"), quality=90)
            out.writerow([f"{i}.jpg", i % 10, "test" if i % 20 == 19 else "train"])
    return f"folder:{folder}"


def run(dataset: str, network: str) -> training.Run:
    setting = Noise("given", 0.0)
    data = prepare(dataset, Path("data"), setting, 0.05)
    recipe = Recipe(batch_size=32).to_dict()
    told = (setting.to_dict(), data.noise_digest, network, recipe, EPOCHS, 0, 0.05, 0)
    return training.Run(TrialSpec("ce", 1, {}, dataset, data.data_digest, *told), data)


def waiting(run: training.Run) -> tuple[float, float, float]:
    """Seconds of a pass over the training images: the waiting alone, the decoding alone, and both; medians of five in turns."""
    batches = -(-len(run.train_set) // 32)

    def a_pass(wait: float) -> float:
        began = time.perf_counter()
        for _ in run.train_set.batches():
            time.sleep(wait)
        return time.perf_counter() - began

    wait = a_pass(0.0) / batches
    alone, together = zip(*((a_pass(0.0), a_pass(wait)) for _ in range(5)), strict=True)
    return wait * batches, median(alone), median(together)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600, metavar="N")
    parser.add_argument("--side", type=int, default=256, metavar="PIXELS")
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS")
    parser.add_argument("--network", default="mlp", metavar="NAME")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads, and decoding threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        place = write(Path(folder), args.images, args.side)
        labels = str(Path(folder) / "labels.csv")
        runs = {
            how: run(located(place, labels=labels, size=args.size, stream=how), args.network)
            for how in ("never", "always")
        }
        held = datasets.load(runs["always"].spec.dataset).x_train
        assert isinstance(held, Files)
        seconds: dict[str, list[float]] = {"training": [], "files": [], "decoding": []}
        for _ in range(EPOCHS):
            for name, how in (("training", "never"), ("files", "always")):
                runs[how].epoch()
                seconds[name].append(runs[how].records[-1]["cost/seconds"] or 0.0)
            began = time.perf_counter()
            with decoders() as pool:
                for part in (held, runs["always"]._whole.images):
                    assert isinstance(part, Files)
                    for _ in part.chunks(range(len(part)), 32, pool):
                        pass
            seconds["decoding"].append(time.perf_counter() - began)
        wait, alone, together = waiting(runs["always"])
        same = [
            [{k: v for k, v in record.items() if k != "cost/seconds"} for record in r.records] for r in runs.values()
        ]
        decoded = len(held) + len(runs["always"]._whole.images)
    assert same[0] == same[1], "the records differ"
    t, d, f = (median(seconds[name][1:]) for name in ("training", "decoding", "files"))
    print(f"{args.images} images {args.side}x{args.side + 44} -> {args.size}, {args.network}, {args.threads} thread(s)")
    print(
        f"decoding alone: {decoded / d:.0f} images/s; an epoch of {decoded} images: decoding {d:.2f} s, training {t:.2f} s"
    )
    print(f"an epoch from files: {f:.2f} s, {f / t:.2f} times that from memory; hidden: {(t + d - f) / min(t, d):.2f}")
    print(
        f"a loop that waits: waiting {wait:.2f} s, decoding {alone:.2f} s, both {together:.2f} s; "
        f"hidden: {(wait + alone - together) / min(wait, alone):.2f}"
    )


if __name__ == "__main__":
    main()
