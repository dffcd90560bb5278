"""`from_pretrained` of transformers' classes, answered by MLX where it can, by torch where it cannot.

Reference: transformers/modeling_utils.py, PreTrainedModel.from_pretrained.
"""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from transformers import PreTrainedModel

from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.facade import facade
from mlx_hf_bridge.loading.load import load
from mlx_hf_bridge.pretrained.model import create_model
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.zero_change.eligibility import check_eligibility, check_family
from mlx_hf_bridge.zero_change.patches import Patches
from mlx_hf_bridge.zero_change.report import Record, Report

# Whether a torch model is being loaded, with what it loads on the way.
_on_torch: ContextVar[bool] = ContextVar("on_torch", default=False)


@dataclass(frozen=True)
class Mode:
    """How zero-change mode was installed."""

    recipe: MLXQuantizationConfig | None
    strict: bool
    watch_torch: bool
    report: Report


@dataclass
class TorchFallback:
    """The torch model that a facade falls back on: the same call of from_pretrained."""

    hf_class: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    record: Record
    strict: bool
    watched: bool

    def __call__(self, reason: str) -> Any:
        """FallBackError where falling back was forbidden; else what transformers returns or raises."""
        self.record.fall_back(reason, self.strict)
        with _torch_alone():
            loaded = self.hf_class.from_pretrained(*self.arguments, **self.options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # output_loading_info
        if self.watched:
            model.forward = TimedForward(model, self.hf_class, self.record)
        return loaded


class TimedForward:
    """The forward of a torch model, with its calls and seconds counted; sentence-transformers calls no hooks."""

    def __init__(self, model: PreTrainedModel, hf_class: Any, record: Record) -> None:
        functools.update_wrapper(self, hf_class.forward.__get__(model))
        self.state = (model, hf_class, record)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model, hf_class, record = self.state
        start = time.perf_counter()
        answer = hf_class.forward(model, *args, **kwargs)
        record.on_torch(time.perf_counter() - start)
        return answer

    def __getstate__(self) -> tuple[Any, ...]:
        return self.state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]


@contextmanager
def _torch_alone() -> Iterator[None]:
    token = _on_torch.set(True)
    try:
        yield
    finally:
        _on_torch.reset(token)


def replace_loading(patches: Patches, modeling_utils: ModuleType, mode: Mode) -> None:
    """Put MLX before PreTrainedModel.from_pretrained, which auto classes, pipelines and concrete classes all call."""
    original = PreTrainedModel.__dict__["from_pretrained"].__func__

    @functools.wraps(original)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        if _on_torch.get():
            return original(cls, pretrained_model_name_or_path, *model_args, **kwargs)
        return _load(mode, cls, pretrained_model_name_or_path, model_args, kwargs)

    patches.replace(modeling_utils.PreTrainedModel, "from_pretrained", classmethod(from_pretrained))


def _load(mode: Mode, hf_class: Any, name: Any, model_args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    record = Record(str(name), hf_class.__name__)
    behind = TorchFallback(hf_class, (name, *model_args), options, record, mode.strict, mode.watch_torch)
    reason = None
    try:
        model = _on_mlx(mode, behind)
    except BridgeError as error:
        reason = str(error)
    mode.report.records.append(record)
    return model if reason is None else behind(reason)


def _on_mlx(mode: Mode, behind: TorchFallback) -> Any:
    name, *model_args = behind.arguments
    request = check_eligibility(behind.hf_class, name, tuple(model_args), behind.options)
    loaded = load(
        name,
        request.task,
        quantization_config=mode.recipe,
        dtype=request.dtype,
        options=request.hub,
        pooler=request.pooler,
        trace="never",
    )
    check_family(behind.hf_class, loaded)
    model = create_model(loaded)
    return facade(
        model,
        request.config,
        behind.hf_class,
        dtype=request.output_dtype(loaded),
        fall_back=behind,
        on_call=behind.record.on_mlx,
    )
