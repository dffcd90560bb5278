"""Arrays on the host for code written for torch: the few tensor methods that transformers' post-processing calls."""

from typing import Any, NamedTuple

import numpy as np

from mlx_hf_bridge.errors import TopKError

# torch.float16 and torch.bfloat16 there; logits are always float32 here.
float16 = bfloat16 = np.dtype(np.float16)


class HostArray(np.ndarray):
    """A numpy array with a tensor's methods."""

    def float(self) -> "HostArray":
        """In float32."""
        return as_host_array(self.astype(np.float32))

    def numpy(self) -> np.ndarray:
        """The plain numpy array."""
        return self.view(np.ndarray)

    def cpu(self) -> "HostArray":
        """Itself: it is on the host."""
        return self

    def unsqueeze(self, axis: int) -> "HostArray":
        """With one more axis, of length 1."""
        return as_host_array(np.expand_dims(self, axis))

    def softmax(self, dim: int) -> "HostArray":
        """Along an axis, the maximum subtracted."""
        powers = np.exp(self - self.max(axis=dim, keepdims=True))
        return as_host_array(powers / powers.sum(axis=dim, keepdims=True))

    def topk(self, count: int) -> "TopK":
        """The largest of the last axis, best first; TopKError for more than there are, as in torch."""
        size = self.shape[-1]
        if not 0 <= count <= size:
            raise TopKError(f"top_k={count}, and there are {size} words to choose from. Ask for 0 to {size}.")
        order = np.argsort(-self.numpy(), axis=-1, kind="stable")[..., :count]
        return TopK(as_host_array(np.take_along_axis(self.numpy(), order, -1)), as_host_array(order))


class TopK(NamedTuple):
    """values and their indices, of equal shape."""

    values: HostArray
    indices: HostArray


def as_host_array(array: Any) -> HostArray:
    """Any array of the host as one with a tensor's methods, without a copy."""
    return np.asarray(array).view(HostArray)


def nonzero(array: np.ndarray, as_tuple: bool = False) -> HostArray:
    """torch.nonzero: one row of indices for each element that is not zero."""
    assert not as_tuple
    return as_host_array(np.argwhere(array))
