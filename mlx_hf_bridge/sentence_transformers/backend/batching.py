"""A batch that sentence-transformers made, computed in parts: sorted by length, filled to a budget, side by side.

B texts, L tokens, D hidden, C classes or words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.inference.batching import group_by_length
from mlx_hf_bridge.inference.model import EncoderOutput
from mlx_hf_bridge.inference.parallel import run_in_parallel
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.pretrained.arrays import to_numpy
from mlx_hf_bridge.pretrained.inputs import ModelInputs
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.pretrained.outputs import to_transformers_output

# Texts of a part, as in encode's own default.
_BATCH_SIZE = 32
_SERVED = {"input_ids", "attention_mask", "token_type_ids"}
_TRACED = ("output_hidden_states", "output_attentions")


class BatchSplittingModel(MLXPreTrainedModel):
    """MLXPreTrainedModel for callers on torch. Where it computes in parts, slots of padding answer 0."""

    def __call__(self, *args: Any, **given: Any) -> Any:
        traced = any(self._asked(given.get(name), name) for name in _TRACED)
        arrays = {name: value for name, value in given.items() if name not in (*_TRACED, "return_dict")}
        if args or traced or not _plain(arrays) or self.loaded.family.length_dependent:
            return super().__call__(*args, **given)
        parts = _Parts.of({name: to_numpy(value) for name, value in arrays.items() if value is not None})
        if parts is None:
            return super().__call__(**given)
        output = to_transformers_output(self._output(self._encoded(parts), given["input_ids"]))
        return output if given.get("return_dict", True) is not False else output.to_tuple()

    def _encoded(self, parts: "_Parts") -> EncoderOutput:
        calls = [parts.call(self.loaded, number) for number in range(len(parts.rows))]
        works = [partial(_answers, self.loaded.model, self.loaded.task, call) for call in calls]
        answers = {name: mx.array(array) for name, array in parts.joined(list(run_in_parallel(works))).items()}
        hidden = answers.pop("hidden", mx.zeros(0))
        return EncoderOutput(hidden, answers.pop("pooled", None), answers)

    def __reduce__(self) -> tuple[Any, ...]:
        read, arguments = super().__reduce__()
        return _again, (read, *arguments)


@dataclass(frozen=True)
class _Parts:
    """given: ids, mask and maybe segments (B, L), by name. rows: whose a part are, longest first. lengths: of all."""

    given: Mapping[str, np.ndarray]
    rows: Sequence[list[int]]
    lengths: Sequence[int]

    @classmethod
    def of(cls, given: Mapping[str, np.ndarray]) -> Self | None:
        """None where the mask is not one of padding on the right, or one part is all there is."""
        mask = given["attention_mask"].astype(bool)
        lengths = mask.sum(axis=1)
        if mask.ndim != 2 or not np.array_equal(mask, np.arange(mask.shape[1]) < lengths[:, None]) or not lengths.all():
            return None
        rows = list(group_by_length(lengths.tolist(), _BATCH_SIZE))
        return cls(given, rows, lengths.tolist()) if len(rows) > 1 else None

    def longest(self, number: int) -> int:
        """The tokens of a part."""
        return self.lengths[self.rows[number][0]]

    def call(self, loaded: LoadedModel, number: int) -> ModelInputs:
        """The call of a part, cut to its longest text."""
        given = (self.given.get(name) for name in ("input_ids", "attention_mask", "token_type_ids"))
        ids, mask, segments = (None if one is None else one[self.rows[number], : self.longest(number)] for one in given)
        return ModelInputs(loaded, ids, mask, segments, None, None, {})

    def joined(self, parts: Sequence[Mapping[str, mx.array]]) -> dict[str, np.ndarray]:
        """Each part's answers, (n, l, ...) or (n, C) -> (B, L, ...) or (B, C)."""
        count, width = self.given["attention_mask"].shape
        whole: dict[str, np.ndarray] = {}
        for number, part in enumerate(parts):
            for name, answer in part.items():
                array = np.array(answer)
                of_tokens = array.ndim == 3
                shape = (count, width, array.shape[2]) if of_tokens else (count, *array.shape[1:])
                full = whole.setdefault(name, np.zeros(shape, array.dtype))
                if of_tokens:
                    full[self.rows[number], : self.longest(number)] = array
                else:
                    full[self.rows[number]] = array
        return whole


def _plain(arrays: Mapping[str, Any]) -> bool:
    """Whether a call gives ids and a mask, and nothing that parts are not cut from."""
    others = any(value is not None for name, value in arrays.items() if name not in _SERVED)
    return not others and arrays.get("input_ids") is not None and arrays.get("attention_mask") is not None


def _answers(model: Callable[..., EncoderOutput], task: str, call: ModelInputs) -> dict[str, mx.array]:
    """What a part answers by name; float32, since numpy has no bfloat16."""
    encoded = model(call.batch(), outputs_only=task != BASE_TASK)
    if task != BASE_TASK:
        return {name: array.astype(mx.float32) for name, array in encoded.outputs.items()}
    answers = {"hidden": encoded.hidden, "pooled": encoded.pooled}
    return {name: array.astype(mx.float32) for name, array in answers.items() if array is not None}


def _again(read: Callable[..., MLXPreTrainedModel], *arguments: Any) -> BatchSplittingModel:
    return BatchSplittingModel(read(*arguments).loaded)
