"""Finding the study that a command is about."""

from pathlib import Path

from raystudy.errors import unknown


def held(storage: Path, study: str, arrays: bool = False, weights: bool = False) -> Path:
    """A study's folder, brought up to its storage. Raises InputError, with the nearest name, where there is none."""
    from raystudy.design.study import study_dir
    from raystudy.record import mirror
    from raystudy.record import storage as storages

    folder = study_dir(storage.expanduser().absolute(), study)
    mirror.pull(folder, arrays, weights)
    if not (folder / "study.toml").exists():
        raise unknown(f"study in {storages.told(storage)}", study, storages.studies(storage.expanduser()))
    return folder


def running(folder: Path) -> bool:
    """Whether a sweep of the study runs, here or, by what its storage says, on another machine."""
    from raystudy.record.ledger import is_running
    from raystudy.record.mirror import driven

    return is_running(folder) or driven(folder)
