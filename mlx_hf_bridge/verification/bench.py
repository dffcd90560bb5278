"""One quick measurement on this machine: load time, latency, throughput and memory of a model, next to torch."""

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import METADATA_FILE
from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.quantization.recipes import QuantizationLike, recipe_from, recipe_name
from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.verification.inputs import check_texts
from mlx_hf_bridge.verification.predictors import EMBEDDING, Predictor, load_converted, load_reference, measure_speed
from mlx_hf_bridge.verification.reference import find_reference
from mlx_hf_bridge.verification.verify import resolve_task

__all__ = ["Speed", "bench"]


@dataclass(frozen=True)
class Speed:
    """What one model took.

    Attributes:
        name: The recipe, or the library that computed.
        load_seconds: The time to load it, without a conversion.
        latency_ms: The median time of a call with one text.
        texts_per_second: The speed of one call with all texts.
        peak_memory_mb: The most memory of MLX's arrays at a time, in MB; None for another library.
    """

    name: str
    load_seconds: float
    latency_ms: float
    texts_per_second: float
    peak_memory_mb: float | None


@guarded
def bench(
    model: str | Path,
    recipes: Sequence[QuantizationLike] = (None,),
    *,
    texts: Sequence[str] | None = None,
    task: str | None = None,
    reference: bool = True,
    on_model: Callable[[str], Any] = lambda name: None,
) -> list[Speed]:
    """Measure how fast a model is on this machine, once, in this process.

    Args:
        model: A Hub id or a folder.
        recipes: The quantizations to measure; None is the model as it is. Default: only that.
        texts: The texts to compute. Default: the texts that come with the package, four times.
        task: "embedding" or "classification". Default: by the architecture in config.json.
        reference: Also measure sentence-transformers or transformers, if torch is installed. Default: True.
        on_model: Called with a name before each measurement.

    Returns:
        A measurement for each recipe, and one of the reference.

    Raises:
        BridgeError: Whatever loading the model raises.

    Example:
        >>> for speed in bench("sentence-transformers/all-MiniLM-L6-v2", ["q8", "q4-best"]):
        ...     print(speed.name, speed.texts_per_second)
    """
    read = check_texts(texts) if texts is not None else check_texts(None) * 4
    configs = [recipe_from(recipe) for recipe in recipes]
    is_converted = (Path(model).expanduser() / METADATA_FILE).is_file()
    source = find_reference(str(model), None if is_converted else model, configs[0])
    chosen = resolve_task(task, str(model), source.folder)
    found = []
    for config in configs:
        name = "as it is" if config is None else recipe_name(config)
        on_model(name)
        # Converted, if need be, before the time is taken.
        load_converted(str(model), chosen, config)
        mx.reset_peak_memory()
        found.append(_measure(name, partial(load_converted, str(model), chosen, config), read))
    library = "sentence_transformers" if chosen == EMBEDDING else "transformers"
    if reference and all(importlib.util.find_spec(needed) for needed in ("torch", library)):
        on_model(library.replace("_", "-"))
        found.append(_measure("", lambda: load_reference(source, chosen), read))
    return found


def _measure(name: str, load: Callable[[], Predictor], texts: Sequence[str]) -> Speed:
    start = time.perf_counter()
    predictor = load()
    seconds = time.perf_counter() - start
    speed = measure_speed(predictor, texts)
    # A reference has no folder of converted files.
    memory = None if predictor.folder is None else mx.get_peak_memory() / MB
    return Speed(name or predictor.name, seconds, speed["latency_ms"], speed["texts_per_second"], memory)
