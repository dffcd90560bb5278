"""Split a batch that sentence-transformers padded into sub-batches of similar length, computed on parallel streams.

Shapes: B texts, L tokens, D hidden size, C labels or vocabulary size; n texts and l tokens of a sub-batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.inference.batching import group_by_length
from mlx_hf_bridge.inference.finite import is_finite_output
from mlx_hf_bridge.inference.model import EncoderOutput
from mlx_hf_bridge.inference.parallel import run_in_parallel
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.pretrained.arrays import to_numpy
from mlx_hf_bridge.pretrained.inputs import ModelInputs
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.pretrained.outputs import to_transformers_output
from mlx_hf_bridge.runtime.executor import run

# The most texts of a sub-batch, the default of sentence-transformers' encode.
_BATCH_SIZE = 32
_SPLIT_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_RECORDED_OUTPUTS = ("output_hidden_states", "output_attentions")


class BatchSplittingModel(MLXPreTrainedModel):
    """An MLXPreTrainedModel for sentence-transformers on torch, which splits large batches by length.

    Calling it takes the model's inputs as any array type and returns transformers' output. Batches with other inputs
    than ids, mask and token type ids, or that ask for hidden states or attentions, are computed whole. Outputs at
    padded positions of split batches are 0; sentence-transformers never reads them.
    """

    def __call__(self, *args: Any, **given: Any) -> Any:
        records = any(self._option(given.get(name), name) for name in _RECORDED_OUTPUTS)
        arrays = {name: value for name, value in given.items() if name not in (*_RECORDED_OUTPUTS, "return_dict")}
        # Recorded outputs have the padded length in their shape; texts of a length-dependent model must keep their
        # padding.
        if args or records or not _can_split(arrays, self.loaded.independent_length):
            return super().__call__(*args, **given)
        parts = _SubBatches.split({name: to_numpy(value) for name, value in arrays.items() if value is not None})
        if parts is None:
            return super().__call__(**given)
        output = to_transformers_output(self._output(self._encode(parts), given["input_ids"]))
        return output if given.get("return_dict", True) is not False else output.to_tuple()

    def _encode(self, parts: "_SubBatches") -> EncoderOutput:
        batches = [parts.model_inputs(self.loaded, number) for number in range(len(parts.rows))]
        jobs = [partial(_compute, self.loaded.model, self.loaded.task, batch) for batch in batches]
        outputs = {name: mx.array(array) for name, array in parts.merge(list(run_in_parallel(jobs))).items()}
        hidden, encoded = outputs.pop("hidden", mx.zeros(0)), outputs.pop("encoder", None)
        encoder = None if encoded is None else EncoderOutput(encoded)
        output = EncoderOutput(hidden, outputs.pop("pooled", None), outputs, encoder=encoder)
        self._warn_unless(bool(run(lambda: is_finite_output(output)).item()))
        return output

    def __reduce__(self) -> tuple[Any, ...]:
        read, arguments = super().__reduce__()
        return _restore, (read, *arguments)


@dataclass(frozen=True)
class _SubBatches:
    """A batch split by length.

    Args:
        inputs: input_ids, attention_mask and maybe token_type_ids, (B, L) each, by name.
        rows: The rows of each sub-batch, longest text first.
        lengths: The number of tokens of each of the B texts.
    """

    inputs: Mapping[str, np.ndarray]
    rows: Sequence[list[int]]
    lengths: Sequence[int]

    @classmethod
    def split(cls, inputs: Mapping[str, np.ndarray]) -> Self | None:
        """Split a batch; None if it is not padded on the right only, or fits into one sub-batch."""
        mask = inputs["attention_mask"].astype(bool)
        lengths = mask.sum(axis=1)
        # Cutting a sub-batch to its longest text is right only if all padding is on the right.
        if mask.ndim != 2 or not np.array_equal(mask, np.arange(mask.shape[1]) < lengths[:, None]) or not lengths.all():
            return None
        rows = list(group_by_length(lengths.tolist(), _BATCH_SIZE))
        return cls(inputs, rows, lengths.tolist()) if len(rows) > 1 else None

    def length(self, number: int) -> int:
        """Return the number of tokens of the longest text of a sub-batch."""
        return self.lengths[self.rows[number][0]]

    def model_inputs(self, loaded: LoadedModel, number: int) -> ModelInputs:
        """Return the inputs of one sub-batch, truncated to its longest text."""
        arrays = (self.inputs.get(name) for name in ("input_ids", "attention_mask", "token_type_ids"))
        ids, mask, token_type_ids = (
            None if one is None else one[self.rows[number], : self.length(number)] for one in arrays
        )
        return ModelInputs(loaded, ids, mask, token_type_ids, None, None, {})

    def merge(self, parts: Sequence[Mapping[str, mx.array]]) -> dict[str, np.ndarray]:
        """Merge the outputs of all sub-batches, (n, l, ...) or (n, C) each, into (B, L, ...) or (B, C)."""
        count, width = self.inputs["attention_mask"].shape
        whole: dict[str, np.ndarray] = {}
        for number, part in enumerate(parts):
            for name, output in part.items():
                array = np.array(output)
                per_token = array.ndim == 3
                shape = (count, width, array.shape[2]) if per_token else (count, *array.shape[1:])
                # Zeros at padding, which callers mask out.
                full = whole.setdefault(name, np.zeros(shape, array.dtype))
                if per_token:
                    full[self.rows[number], : self.length(number)] = array
                else:
                    full[self.rows[number]] = array
        return whole


def _can_split(arrays: Mapping[str, Any], independent_length: int) -> bool:
    """Return whether a call has ids and a mask, and no inputs that sub-batches are not built from.

    `independent_length` is the longest batch in which padding changes no output.
    """
    others = any(value is not None for name, value in arrays.items() if name not in _SPLIT_INPUTS)
    if others or arrays.get("input_ids") is None or arrays.get("attention_mask") is None:
        return False
    return int(arrays["input_ids"].shape[-1]) <= independent_length


def _compute(model: Callable[..., EncoderOutput], task: str, call: ModelInputs) -> dict[str, mx.array]:
    """Return the outputs of one sub-batch by name, in float32, since numpy has no bfloat16."""
    encoded = model(call.batch(), outputs_only=task != BASE_TASK)
    encoder = {} if encoded.encoder is None else {"encoder": encoded.encoder.hidden.astype(mx.float32)}
    if task != BASE_TASK:
        return encoder | {name: array.astype(mx.float32) for name, array in encoded.outputs.items()}
    outputs = {"hidden": encoded.hidden, "pooled": encoded.pooled}
    return encoder | {name: array.astype(mx.float32) for name, array in outputs.items() if array is not None}


def _restore(read: Callable[..., MLXPreTrainedModel], *arguments: Any) -> BatchSplittingModel:
    return BatchSplittingModel(read(*arguments).loaded)
