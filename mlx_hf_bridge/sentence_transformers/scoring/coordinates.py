"""Sparse embeddings of any library (torch, scipy, numpy) as coordinates and values, and back.

Shapes: N embeddings, V their width.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, BackendError, InputError
from mlx_hf_bridge.sentence_transformers.encoding.results import to_numpy
from mlx_hf_bridge.sentence_transformers.scoring.similarity import is_torch

# One sparse embedding: its nonzero dimensions in ascending order, and their values.
SparseRow = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class CooMatrix:
    """A sparse matrix (N, V) in coordinate format, sorted by row, then by column.

    Args:
        rows: The row of each nonzero value.
        columns: The column of each nonzero value.
        values: The nonzero values.
        shape: (N, V); a single embedding has N = 1.
        is_vector: Whether a single embedding (V,) was given.
        from_torch: Whether a torch tensor was given.
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]
    is_vector: bool = False
    from_torch: bool = False

    def row(self, index: int) -> SparseRow:
        """Return the nonzero dimensions of one embedding, ascending, and their values.

        Args:
            index: The row.

        Returns:
            (columns, values), of one length.
        """
        # Two binary searches instead of a comparison with every row: rows are sorted.
        start, end = np.searchsorted(self.rows, [index, index + 1])
        return self.columns[start:end], self.values[start:end]


def to_coo(embeddings: Any) -> CooMatrix:
    """Convert one or several sparse embeddings to coordinates.

    Args:
        embeddings: A torch tensor, a scipy sparse array or a numpy array, of shape (V,) or (N, V), or a list of
            embeddings (V,).

    Returns:
        The matrix of all.

    Raises:
        InputError: If a list holds anything but single embeddings, or an array has more than two axes.
        ArgumentTypeError: If it is of another type.
    """
    if isinstance(embeddings, (list, tuple)):
        parts = [to_coo(one) for one in embeddings]
        if not parts or not all(part.is_vector for part in parts):
            raise InputError(
                "got an empty list, or a list of something other than single embeddings. "
                "Give a list of embeddings (width,) or a matrix (texts, width)."
            )
        rows = [(part.columns, part.values) for part in parts]
        return from_rows(rows, parts[0].shape[1], parts[0].from_torch)
    if is_torch(embeddings):
        return _from_torch(embeddings)
    # By the module's name, so that scipy need not be installed.
    if type(embeddings).__module__.startswith("scipy.sparse"):
        return _sorted(embeddings.tocoo().coords, embeddings.tocoo().data, embeddings.shape)
    if not isinstance(embeddings, np.ndarray):
        raise ArgumentTypeError(
            f"got a {type(embeddings).__name__}, expected a torch tensor, a scipy sparse array or a numpy array. "
            "Pass what encode returns."
        )
    return _sorted(np.nonzero(embeddings), embeddings[np.nonzero(embeddings)], embeddings.shape)


def _from_torch(embeddings: Any) -> CooMatrix:
    embeddings = embeddings.detach().cpu()
    # coalesce() sums duplicate coordinates, which torch allows.
    sparse = (embeddings if embeddings.is_sparse else embeddings.to_sparse()).coalesce()
    found = _sorted(sparse.indices().numpy(), to_numpy(sparse.values()), tuple(embeddings.shape))
    return CooMatrix(found.rows, found.columns, found.values, found.shape, found.is_vector, from_torch=True)


def from_rows(rows: list[SparseRow], width: int, from_torch: bool = False) -> CooMatrix:
    """Stack single embeddings into a matrix (N, V).

    Args:
        rows: (columns, values) of each embedding.
        width: V.
        from_torch: Whether they came from torch tensors.

    Returns:
        The matrix.
    """
    row_numbers = np.repeat(np.arange(len(rows)), [len(columns) for columns, _ in rows])
    columns = np.concatenate([row[0] for row in rows]) if rows else np.zeros(0, np.int64)
    values = np.concatenate([row[1] for row in rows]) if rows else np.zeros(0, np.float32)
    return CooMatrix(row_numbers, columns, values, (len(rows), width), from_torch=from_torch)


def _sorted(indices: Any, values: np.ndarray, shape: tuple[int, ...]) -> CooMatrix:
    """Return the matrix of coordinates in any order; one row of indices makes a vector."""
    if len(shape) not in (1, 2):
        raise InputError(
            f"got an array of shape {tuple(shape)}, expected one embedding (width,) or a matrix (texts, width)."
        )
    is_vector = len(shape) == 1
    columns = np.asarray(indices[-1])
    rows = np.zeros_like(columns) if is_vector else np.asarray(indices[0])
    # lexsort's last key is the primary one.
    order = np.lexsort((columns, rows))
    whole = (1, int(shape[0])) if is_vector else (int(shape[0]), int(shape[1]))
    return CooMatrix(rows[order], columns[order], np.asarray(values)[order], whole, is_vector)


def to_sparse_array(matrix: CooMatrix, torch: ModuleType | None) -> Any:
    """Convert a matrix to a sparse array of torch or scipy.

    Args:
        matrix: One or several embeddings.
        torch: The torch module, or None for scipy.

    Returns:
        A coalesced COO tensor of torch, or scipy's csr_array (coo_array for a single embedding).

    Raises:
        BackendError: If torch is None and scipy is not installed.
    """
    shape = matrix.shape[1:] if matrix.is_vector else matrix.shape
    indices = (matrix.columns,) if matrix.is_vector else (matrix.rows, matrix.columns)
    if torch is not None:
        stacked = torch.from_numpy(np.stack(indices).astype(np.int64))
        # Sorted and without duplicates already, so torch need not sort or check again.
        return torch.sparse_coo_tensor(
            stacked, torch.from_numpy(matrix.values), shape, is_coalesced=True, check_invariants=False
        )
    sparse = import_scipy_sparse()
    array = sparse.coo_array((matrix.values, indices), shape=shape)
    # CSR, whose rows can be sliced.
    return array if matrix.is_vector else array.tocsr()


def to_dense_array(matrix: CooMatrix, torch: ModuleType | None) -> Any:
    """Convert a matrix to a dense float32 array, zeros included.

    Args:
        matrix: One or several embeddings.
        torch: The torch module, or None for numpy.

    Returns:
        A tensor or array of shape (N, V), or (V,) for a single embedding.
    """
    dense = np.zeros(matrix.shape, np.float32)
    dense[matrix.rows, matrix.columns] = matrix.values
    dense = dense[0] if matrix.is_vector else dense
    return dense if torch is None else torch.from_numpy(dense)


def torch_if_installed() -> ModuleType | None:
    """Return the torch module, in whose tensors sparse results are returned, or None if it is not installed.

    Returns:
        torch or None.
    """
    try:
        import torch
    except ImportError:
        return None
    return torch


def import_scipy_sparse() -> ModuleType:
    """Return the module scipy.sparse.

    Returns:
        The module.

    Raises:
        BackendError: If scipy is not installed.
    """
    try:
        import scipy.sparse
    except ImportError as error:
        raise BackendError(
            "sparse embeddings without torch are scipy arrays, and scipy is not installed. pip install scipy, or pass "
            "convert_to_sparse_tensor=False."
        ) from error
    sparse: ModuleType = scipy.sparse
    return sparse
