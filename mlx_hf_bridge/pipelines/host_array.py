"""numpy arrays with the few tensor methods that transformers' post-processing calls, so that it runs without torch."""

from typing import Any, NamedTuple

import numpy as np

from mlx_hf_bridge.errors import TopKError

# transformers' files read torch.float16 and torch.bfloat16 from this module; logits are always float32 here.
float16 = bfloat16 = np.dtype(np.float16)


class HostArray(np.ndarray):
    """A numpy array with some methods of torch.Tensor."""

    def float(self) -> "HostArray":
        """Convert to float32, like torch.Tensor.float.

        Returns:
            A float32 array of the same shape.
        """
        return as_host_array(self.astype(np.float32))

    def numpy(self) -> np.ndarray:
        """Return the plain numpy array, like torch.Tensor.numpy.

        Returns:
            A view of the same memory as a plain numpy array.
        """
        return self.view(np.ndarray)

    def cpu(self) -> "HostArray":
        """Return the array itself, like torch.Tensor.cpu of a tensor on the CPU.

        Returns:
            This array.
        """
        return self

    def unsqueeze(self, axis: int) -> "HostArray":
        """Insert an axis of length 1, like torch.Tensor.unsqueeze.

        Args:
            axis: Position of the new axis.

        Returns:
            An array with one more axis.
        """
        return as_host_array(np.expand_dims(self, axis))

    def softmax(self, dim: int) -> "HostArray":
        """Compute the softmax along an axis, with the maximum subtracted first so that exp cannot overflow.

        Args:
            dim: The axis that sums to 1.

        Returns:
            An array of the same shape.
        """
        exponentials = np.exp(self - self.max(axis=dim, keepdims=True))
        return as_host_array(exponentials / exponentials.sum(axis=dim, keepdims=True))

    def topk(self, count: int) -> "TopK":
        """Return the largest values of the last axis, largest first, like torch.Tensor.topk.

        Args:
            count: How many values.

        Returns:
            The values and their indices, of shape (..., count).

        Raises:
            TopKError: If there are fewer values (a RuntimeError, as in torch).
        """
        size = self.shape[-1]
        if not 0 <= count <= size:
            raise TopKError(f"top_k={count}, and there are {size} tokens to choose from. Ask for 0 to {size}.")
        # Stable, so that equal scores come in the order of their ids.
        order = np.argsort(-self.numpy(), axis=-1, kind="stable")[..., :count]
        return TopK(as_host_array(np.take_along_axis(self.numpy(), order, -1)), as_host_array(order))


class TopK(NamedTuple):
    """The result of topk: values and their indices, of equal shape."""

    values: HostArray
    indices: HostArray


def as_host_array(array: Any) -> HostArray:
    """Give an array the tensor methods of HostArray, without a copy.

    Args:
        array: A numpy array, or what np.asarray takes.

    Returns:
        A view of the same memory.
    """
    return np.asarray(array).view(HostArray)


def nonzero(array: np.ndarray, as_tuple: bool = False) -> HostArray:
    """Return the indices of nonzero elements, like torch.nonzero.

    Args:
        array: Any array.
        as_tuple: Must be False: transformers asks for nothing else.

    Returns:
        One row of indices for each nonzero element, of shape (count, ndim).
    """
    assert not as_tuple
    return as_host_array(np.argwhere(array))
