"""What was measured and comes with raystudy.

``pools.parquet``: recorded pools of random trials, a benchmark for searches and what ``--start-from reference`` starts from. Made by
``benchmarks/pools.py``; docs/search.md says what its columns are. ``results.parquet``: what each method reached under each condition,
which ``raystudy recommend`` looks up. Made by ``benchmarks/reference_results.py``; columns: ``analysis.conditions.COLUMNS``.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

POOLS = Path(__file__).parent / "pools.parquet"
RESULTS = Path(__file__).parent / "results.parquet"


def pools(fraction: float = 1.0) -> "pd.DataFrame":
    """A row a training on this fraction of the training set, its point as JSON, its curves as arrays [epochs]."""
    import pandas as pd

    table = pd.read_parquet(POOLS)
    return table[table["fraction"].round(3) == fraction].reset_index(drop=True)


def results() -> "pd.DataFrame":
    """A row a condition, method and way of choosing the point."""
    import pandas as pd

    return pd.read_parquet(RESULTS)
