"""The reference studies that come with raystudy: a ledger made compact tells what the ledger told; the files are small and portable."""

import math
from pathlib import Path

import pytest
from recorded import write

from analysis import leaderboard, load
from analysis.reference import ledgers
from raystudy.errors import InputError

FOLDER = Path(ledgers.__file__).parent
STUDIES = Path(__file__).parents[2] / "search_spaces" / "studies" / "reference"


def test_a_compact_ledger_tells_what_the_ledger_told(tmp_path: Path) -> None:
    write(tmp_path / "mine")
    study, before = load.study(tmp_path / "mine")
    assert ledgers.write(tmp_path / "mine", tmp_path / "mine.parquet") == sum(len(h.trials) for h in before.values())
    told, after = ledgers.read(tmp_path / "mine.parquet")
    assert told == study
    assert list(after) == list(before)
    for cell, history in after.items():
        same = before[cell]
        assert history.header == same.header
        for key, trial in history.trials.items():
            there = same.trials[key]
            assert (trial.point, trial.oracle, trial.state, trial.times) == (
                *(there.point, there.oracle),
                *(there.state, there.times),
            )
            assert trial.curves["test/acc"] == there.curves["test/acc"]
    assert leaderboard.lines(study, after)[0] == leaderboard.lines(study, before)[0]


def test_a_folder_is_made_of_it_again(tmp_path: Path) -> None:
    write(tmp_path / "mine", dataset=f"npz:{tmp_path}/data/some.npz")
    study, before = load.study(tmp_path / "mine", ledgers.CURVES)
    ledgers.write(tmp_path / "mine", tmp_path / "mine.parquet")
    folder = ledgers.restore(tmp_path / "mine.parquet", tmp_path / "again", tmp_path / "data")
    assert load.study(folder, ledgers.CURVES) == (study, before)
    with pytest.raises(InputError, match="there is a study already"):
        ledgers.restore(tmp_path / "mine.parquet", tmp_path / "again")


def test_a_machines_paths_stay_there(tmp_path: Path) -> None:
    write(tmp_path / "mine", dataset=f"npz:{tmp_path}/some.npz?pad=0")
    ledgers.write(tmp_path / "mine", tmp_path / "mine.parquet")
    study, histories = ledgers.read(tmp_path / "mine.parquet")
    assert study.datasets == ("npz:some.npz?pad=0",)
    assert {cell.dataset for cell in histories} == set(study.datasets)
    assert str(tmp_path) not in study.to_toml()


def test_what_is_no_reference_study(tmp_path: Path) -> None:
    for path in (tmp_path / "none.parquet", FOLDER / "pools.parquet"):
        with pytest.raises(InputError) as e:
            ledgers.read(path)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", sorted(p.stem for p in STUDIES.glob("*.toml")))
def test_shipped(name: str) -> None:
    path = FOLDER / f"{name}.parquet"
    study, histories = ledgers.read(path)
    assert study.name == name
    assert not any("/" in d for d in study.datasets)
    assert set(histories) <= set(study.cells())
    values = [v for row in leaderboard.lines(study, histories) for x in row for v in [x.scores["last10"].mean]]
    assert all(math.isnan(v) or 0 < v <= 1 for v in values)


def test_fifteen_megabytes_at_most() -> None:
    assert sum(p.stat().st_size for p in FOLDER.glob("*.parquet")) < 15e6
