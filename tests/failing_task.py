"""A task that fails, or kills a process, at one row of a corpus; imported by worker processes, so without torch."""

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_hf_bridge.corpora.opening import OpenJob, open_job
from mlx_hf_bridge.corpora.tasks import Computation, EmbedTexts

# Numbers that divide nothing evenly.
SMALL = {"rows_per_unit": 7, "chunk_size": 3}


@dataclass(frozen=True, kw_only=True)
class Failing(EmbedTexts):
    """Embeddings, until a number of texts were computed in one process, which is fatal once.

    Args:
        marker: A file that is there after the failure.
        victim: What is killed: "self" or "parent", "always" this process again and again; "" raises an error.
        row: After how many texts.
    """

    marker: str = ""
    victim: str = ""
    row: int = 0

    def load(self) -> Computation:
        """Load the model."""
        computation, computed = super().load(), [0]

        def run(texts: list[Any]) -> list[Any]:
            computed[0] += len(texts)
            if computed[0] >= self.row and (self.victim == "always" or not Path(self.marker).exists()):
                self.fail()
            return computation.run(texts)

        return replace(computation, run=run)

    def fail(self) -> None:
        """Raise an error, or kill the victim."""
        Path(self.marker).touch()
        if not self.victim:
            raise KeyError("a fault of no row")
        os.kill(os.getppid() if self.victim == "parent" else os.getpid(), signal.SIGKILL)


def failing(corpus: Path, folder: Path, tmp_path: Path, victim: str = "", row: int = 0) -> OpenJob:
    """Open a job that fails once, at least one unit after its start."""
    task = Failing(model=str(folder), columns=("body",), marker=str(tmp_path / "marker"), victim=victim, row=row)
    return open_job(corpus, tmp_path / "out", task, {"id_column": "id", **SMALL})
