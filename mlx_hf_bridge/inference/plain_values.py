"""Python's own values for what numpy and pandas give callers: scalars, and columns of texts or labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def plain_scalar(value: Any) -> Any:
    """Return Python's own number for one of numpy, so that `np.int64(2)` is taken where 2 is.

    Args:
        value: Anything.

    Returns:
        An int, float, bool or str for a scalar of numpy; every other value as it is.
    """
    return value.item() if isinstance(value, np.generic) else value


def plain_list(value: Any) -> Any:
    """Return a list for a tuple, array, or column of a table (pandas.Series, datasets.Column).

    Args:
        value: Anything.

    Returns:
        A list of its elements for what has a length and elements by number; every other value as it is, texts, sets
        and mappings among them.
    """
    is_column = all(hasattr(value, name) for name in ("__len__", "__iter__", "__getitem__"))
    return list(value) if is_column and not isinstance(value, (str, bytes, Mapping)) else value
