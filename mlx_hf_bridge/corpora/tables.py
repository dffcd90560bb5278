"""Results as further columns of an Arrow table, for engines that read and write rows themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_hf_bridge.corpora.compute import compute_chunk
from mlx_hf_bridge.corpora.rows import Chunk, python_values
from mlx_hf_bridge.corpora.storage import pyarrow
from mlx_hf_bridge.corpora.tasks import Computation, Task

# The column that says why a row has no result.
ERROR = "error"


def add_results(table: Any, columns: Sequence[str], computation: Computation) -> Any:
    """Compute the rows of a table.

    Args:
        table: A pyarrow.Table.
        columns: The columns that are computed from.
        computation: The task, loaded.

    Returns:
        The table with the columns of results and "error". A row that cannot be computed has nulls and its reason.
    """
    pa, count = pyarrow(), table.num_rows
    inputs = {name: python_values(table.column(name).combine_chunks()) for name in columns}
    results = compute_chunk(Chunk(list(range(count)), inputs, {}), pa.schema([]), tuple(columns), None, computation)
    positions: list[int | None] = [None] * count
    for position, row in enumerate(results.rows):
        positions[row] = position
    taken = pa.array(positions, pa.int64())
    for number, one in enumerate(computation.fields):
        column = results.columns[number].take(taken) if results.columns else pa.nulls(count, one.type)
        table = table.append_column(one, column)
    reasons: list[str | None] = [None] * count
    for bad in results.bad:
        reasons[bad.row or 0] = bad.reason
    return table.append_column(ERROR, pa.array(reasons, pa.string()))


@dataclass
class TableWorker:
    """A process's part in the work on tables: its model, loaded with the first of them.

    Args:
        task: What is computed.
    """

    task: Task
    _computation: Computation | None = field(default=None, repr=False)

    def load(self) -> Computation:
        """Return the computation, and load its model if that was not done yet."""
        if self._computation is None:
            self._computation = self.task.load()
        return self._computation

    def compute(self, table: Any) -> Any:
        """Return a table with the results of its rows, as `add_results` does."""
        return add_results(table, self.task.columns, self.load())


_workers: dict[str, TableWorker] = {}


def worker_of(task: Task) -> TableWorker:
    """Return this process's worker for a task; the same one for equal tasks.

    Args:
        task: What is computed.

    Returns:
        The worker.
    """
    key = repr((task.model, _sorted(task.settings())))
    # One model in memory at a time: processes of an engine are kept for its next tasks.
    if key not in _workers:
        _workers.clear()
        _workers[key] = TableWorker(task)
    return _workers[key]


def _sorted(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(settings.items())
