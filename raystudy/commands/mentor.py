"""``raystudy train-mentor``: a MentorNet for mentornet_dd."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from raystudy.commands.options import DATA, DataRoot, Dataset, Network, Noise, Threads, TrackingUri, whole
from raystudy.terminal import say, terminal


def train_mentor(
    *,
    out: Annotated[Path, Parameter(help="where it goes (default: mentor.npz)")] = Path("mentor.npz"),
    dataset: Dataset = "digits",
    noise: Noise = "symmetric:0.2",
    students: Annotated[int, Parameter(converter=whole, help="students whose losses are recorded (default: 4)")] = 4,
    seed: Annotated[int, Parameter(converter=whole, help="seed of the first student and its flips (default: 0)")] = 0,
    epochs: Annotated[
        int | None, Parameter(converter=whole, help="epochs that 18 % are trained of (default: by data set)")
    ] = None,
    network: Network = None,
    steps: Annotated[int, Parameter(converter=whole, help="updates of the MentorNet (default: 30000)")] = 30_000,
    percentile: Annotated[float, Parameter(help="of a student's losses that diff starts from (default: 0.9)")] = 0.9,
    data_root: DataRoot = DATA,
    threads: Threads = 1,
    tracking_uri: TrackingUri = None,
    no_tracking: Annotated[bool, Parameter(help="keep it out of MLflow")] = False,
) -> int:
    """Records students, fits a MentorNet, writes it and stores it in MLflow."""
    from raystudy.data.spec import located
    from raystudy.tools import mentor
    from raystudy.tracking import store

    console = terminal()
    uri = None if no_tracking else tracking_uri or store.default_uri()
    if uri:
        store.check_models(store.absolute(uri))
    made = mentor.train(
        out,
        located(dataset),
        noise,
        students=students,
        seed=seed,
        epochs=epochs,
        network=network,
        steps=steps,
        percentile=percentile,
        data_root=data_root,
        threads=threads,
        tell=lambda text: say(console, text),
    )
    told = made.told
    held = f"{told['held_out/accuracy']:.1%} of the held-out fifth told right (AUROC {told['held_out/auroc']:.3f})"
    say(console, f"{out}: {students} students, {told['losses']:.0f} losses, {held}")
    if uri:
        model = mentor.register(out, uri, made.params, told)
        say(console, f"in MLflow: experiment {mentor.EXPERIMENT!r}, model {model}")
    say(console, f"use it: raystudy train mentornet_dd --set mentor={out.absolute()}")
    return 0
