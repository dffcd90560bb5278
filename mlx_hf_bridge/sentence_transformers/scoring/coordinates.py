"""Sparse vectors of any kind (torch, scipy, numpy) by their coordinates, and back.

N vectors, V their width.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, BackendError, InputError
from mlx_hf_bridge.sentence_transformers.encoding.results import to_numpy
from mlx_hf_bridge.sentence_transformers.scoring.similarity import is_torch

# What one text's vector is on its way: the dimensions that are not 0 in ascending order, and their values.
SparseRow = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class CooMatrix:
    """values[i] stands at (rows[i], columns[i]) of a matrix (N, V), sorted by rows and columns.

    single: it was one vector (V,). as_torch: it was a torch tensor.
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]
    is_vector: bool = False
    from_torch: bool = False

    def row(self, index: int) -> SparseRow:
        """One vector's dimensions and values."""
        start, end = np.searchsorted(self.rows, [index, index + 1])
        return self.columns[start:end], self.values[start:end]


def to_coo(given: Any) -> CooMatrix:
    """A torch tensor, a scipy sparse array or a numpy array, one vector or several; a list of vectors."""
    if isinstance(given, (list, tuple)):
        parts = [to_coo(one) for one in given]
        if not parts or not all(part.is_vector for part in parts):
            raise InputError("got a list, expected one of single vectors. Give a matrix (texts, width) or such a list.")
        rows = [(part.columns, part.values) for part in parts]
        return _from_rows(rows, parts[0].shape[1], parts[0].from_torch)
    if is_torch(given):
        return _from_torch(given)
    if type(given).__module__.startswith("scipy.sparse"):
        return _sorted(given.tocoo().coords, given.tocoo().data, given.shape)
    if not isinstance(given, np.ndarray):
        raise ArgumentTypeError(
            f"got a {type(given).__name__}, expected a torch tensor, a scipy sparse array or a numpy array."
        )
    return _sorted(np.nonzero(given), given[np.nonzero(given)], given.shape)


def _from_torch(given: Any) -> CooMatrix:
    given = given.detach().cpu()
    sparse = (given if given.is_sparse else given.to_sparse()).coalesce()
    found = _sorted(sparse.indices().numpy(), to_numpy(sparse.values()), tuple(given.shape))
    return CooMatrix(found.rows, found.columns, found.values, found.shape, found.is_vector, from_torch=True)


def _from_rows(rows: list[SparseRow], width: int, from_torch: bool = False) -> CooMatrix:
    places = np.repeat(np.arange(len(rows)), [len(columns) for columns, _ in rows])
    columns = np.concatenate([row[0] for row in rows]) if rows else np.zeros(0, np.int64)
    values = np.concatenate([row[1] for row in rows]) if rows else np.zeros(0, np.float32)
    return CooMatrix(places, columns, values, (len(rows), width), from_torch=from_torch)


def _sorted(indices: Any, values: np.ndarray, shape: tuple[int, ...]) -> CooMatrix:
    if len(shape) not in (1, 2):
        raise InputError(f"got an array of the shape {tuple(shape)}, expected one vector or a matrix (texts, width).")
    is_vector = len(shape) == 1
    columns = np.asarray(indices[-1])
    rows = np.zeros_like(columns) if is_vector else np.asarray(indices[0])
    order = np.lexsort((columns, rows))
    whole = (1, int(shape[0])) if is_vector else (int(shape[0]), int(shape[1]))
    return CooMatrix(rows[order], columns[order], np.asarray(values)[order], whole, is_vector)


def to_sparse_array(found: CooMatrix, torch: ModuleType | None) -> Any:
    """A sparse COO tensor of torch where it is given, else scipy's: csr_array for a matrix, coo_array for a vector."""
    shape = found.shape[1:] if found.is_vector else found.shape
    places = (found.columns,) if found.is_vector else (found.rows, found.columns)
    if torch is not None:
        indices = torch.from_numpy(np.stack(places).astype(np.int64))
        return torch.sparse_coo_tensor(
            indices, torch.from_numpy(found.values), shape, is_coalesced=True, check_invariants=False
        )
    sparse = import_scipy_sparse()
    array = sparse.coo_array((found.values, places), shape=shape)
    return array if found.is_vector else array.tocsr()


def to_dense_array(found: CooMatrix, torch: ModuleType | None) -> Any:
    """The whole matrix or vector with its zeros, in torch where it is given, else in numpy."""
    dense = np.zeros(found.shape, np.float32)
    dense[found.rows, found.columns] = found.values
    dense = dense[0] if found.is_vector else dense
    return dense if torch is None else torch.from_numpy(dense)


def from_rows(rows: list[SparseRow], width: int) -> CooMatrix:
    """A vector each -> the matrix (N, V)."""
    return _from_rows(rows, width)


def torch_if_installed() -> ModuleType | None:
    """torch where it is installed, which sparse results are given in; None otherwise."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def import_scipy_sparse() -> ModuleType:
    """scipy.sparse; BackendError where scipy is not installed."""
    try:
        import scipy.sparse
    except ImportError as error:
        raise BackendError(
            "sparse vectors without torch are scipy's, which is not installed. pip install scipy, or pass "
            "convert_to_sparse_tensor=False."
        ) from error
    sparse: ModuleType = scipy.sparse
    return sparse
