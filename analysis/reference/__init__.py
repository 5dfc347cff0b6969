"""Recorded pools of random trials that come with raystudy: a benchmark for searches, and what ``--start-from reference`` starts from.

``pools.parquet`` is made by ``benchmarks/pools.py``; docs/search.md says what its columns are.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

POOLS = Path(__file__).parent / "pools.parquet"


def pools(fraction: float = 1.0) -> "pd.DataFrame":
    """A row a training on this fraction of the training set, its point as JSON, its curves as arrays [epochs]."""
    import pandas as pd

    table = pd.read_parquet(POOLS)
    return table[table["fraction"].round(3) == fraction].reset_index(drop=True)
