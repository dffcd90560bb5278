"""Count the primitives that are kernels on a GPU in one forward pass with mean pooling and normalization.

python -m benchmarks.primitives [--rounds 200]

Nothing is measured on a GPU, and none is needed: the choices are those of Metal (MLX_HF_BRIDGE_ACT_AS), and the graph
is described and not computed. MLX's fast functions, which are many primitives on a CPU, count as one where Metal has a
kernel. Views of memory do not count; reshaping counts where it copies. The batch is 8 texts of 24 tokens, one of them
padded; weights are zeros in the shapes of MiniLM-L6 and BERT-base. With --rounds, the script also measures the time
that Python takes to describe a forward pass of one text.
"""

import argparse
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("MLX_HF_BRIDGE_ACT_AS", "metal")

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.inference.model import Model, build_model, set_activation_dtype

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from mlx_hf_bridge.architecture.config import NO_POSITIONS
from mlx_hf_bridge.inference.pooling import normalize, pool
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import family_for

# Width, layers and heads; the vocabulary changes no count.
SHAPES = {"MiniLM-L6": (384, 6, 12), "BERT-base": (768, 12, 12)}
STORED = ("float32", "float16", "q8")
# Widths of heads that Metal's fused attention takes for more than eight queries (scaled_dot_product_attention.cpp).
_FUSED_WIDTHS = (64, 72, 80, 96, 128)
_VIEWS = {
    "Broadcast", "Reshape", "Transpose", "Slice", "Split", "Squeeze", "ExpandDims", "Flatten", "Unflatten", "View",
    "StopGradient", "Depends", "View float16", "View float32",
}  # fmt: skip
# Stands for a fast function; the model has no other.
_STAND_IN = "CumSum"


def make_model(shape: str, stored: str, compiled: bool) -> Model:
    """Return a BERT without weights to speak of.

    Args:
        shape: A key of SHAPES.
        stored: "float32", "float16" or "q8".
        compiled: Whether its forward pass is compiled.

    Returns:
        The model, its zeros evaluated.
    """
    width, layers, heads = SHAPES[shape]
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    raw = {"model_type": "bert", "vocab_size": 1000, "num_attention_heads": heads, "hidden_act": "gelu", **sizes}
    family = family_for({**raw, "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12})
    config = family.config.from_json(
        {**raw, "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
    )
    model = build_model(family, config, BASE_TASK, pooler=False)
    dtype = mx.float32 if stored == "float32" else mx.float16
    model.update(tree_map(lambda array: array.astype(dtype), model.parameters()))
    if stored == "q8":
        nn.quantize(model, 64, 8, class_predicate=lambda path, module: isinstance(module, Linear) or "word" in path)
    set_activation_dtype(model, dtype)
    mx.eval(model.parameters())
    if compiled:
        model.compile(config, NO_POSITIONS)
    return model


def embed(model: Model, texts: int = 8, tokens: int = 24) -> mx.array:
    """Describe the vectors of texts, of which the first is half as long as the others unless it is the only one."""
    mask = np.ones((texts, tokens), bool)
    mask[0, tokens // 2 :] = texts == 1
    batch = TokenBatch(mx.array(np.full((texts, tokens), 5, np.int32)), None if texts == 1 else mx.array(mask))
    return normalize(pool(model(batch).hidden, batch, ("mean",)))


@contextmanager
def fast_functions_as_one() -> Iterator[None]:
    """Replace the fast functions that Metal has a kernel for by one primitive each, which nothing is fused with."""
    attention = mx.fast.scaled_dot_product_attention

    def one(x: mx.array, *others: Any, **options: Any) -> mx.array:
        given = [array for array in (*others, *options.values()) if isinstance(array, mx.array)]
        result: mx.array = mx.depends([mx.cumsum(x, axis=-1)], given)[0] if given else mx.cumsum(x, axis=-1)
        return result

    def attend(queries: mx.array, *others: Any, **options: Any) -> mx.array:
        function = one if queries.shape[-1] in _FUSED_WIDTHS else attention
        return function(queries, *others, **options)

    def dequantize(weight: mx.array, *others: Any, **options: Any) -> mx.array:
        # Eight bits: half as many numbers of 16 bits as there are weights.
        half = weight.view(options["dtype"])
        given = [array for array in others if isinstance(array, mx.array)]
        return mx.depends([mx.concatenate([half, half], axis=-1)], given)[0]  # type: ignore[no-any-return]

    with (
        mock.patch.multiple(mx.fast, scaled_dot_product_attention=attend, layer_norm=one, rms_norm=one, rope=one),
        mock.patch.object(mx, "dequantize", dequantize),
    ):
        yield


def count(shape: str, stored: str, compiled: bool) -> Counter[str]:
    """Return the primitives of a forward pass, by name, as described above.

    Args:
        shape: A key of SHAPES.
        stored: "float32", "float16" or "q8".
        compiled: Whether the forward pass is compiled.

    Returns:
        Name to number.
    """
    model = make_model(shape, stored, compiled)
    with tempfile.TemporaryDirectory() as scratch, fast_functions_as_one():
        path = Path(scratch, "graph.dot")
        mx.export_to_dot(str(path), embed(model))
        text = path.read_text(encoding="utf-8")
    names = dict(re.findall(r'(\d+) \[label ?= ?"([^"]+)", shape=rectangle', text))
    # Arrays are named by letters, primitives by numbers; "A" -> 1 is an input, 1 -> "B" an output.
    makers = {array: number for number, array in re.findall(r'(\d+) -> "(\w+)"', text)}
    inputs = {number: array for array, number in reversed(re.findall(r'"(\w+)" -> (\d+)', text))}

    def is_copy(number: str) -> bool:
        """Return whether a reshape copies: after a transpose, unless of fused attention, which writes that layout."""
        transposed = False
        while number in names and names[number] in _VIEWS:
            if names[number] == "Slice":
                return True
            transposed |= names[number] == "Transpose"
            number = makers.get(inputs.get(number, ""), "")
            if names.get(number) in ("Reshape", "Flatten"):
                return transposed
        return transposed and names.get(number) != _STAND_IN

    kernels = Counter(name for name in names.values() if name not in _VIEWS)
    if not compiled:
        # A function that is compiled by itself is one primitive of the graph, however often it is called.
        called = Counter(names[number] for number in re.findall(r'(\d+) -> "', text))
        kernels.update({name: called[name] - kernels[name] for name in kernels if name.startswith("Compiled")})
    copies = sum(is_copy(number) for number, name in names.items() if name in ("Reshape", "Flatten"))
    return kernels + Counter({"Copy": copies})


def milliseconds(shape: str, stored: str, compiled: bool, rounds: int) -> float:
    """Return the median time that describing a forward pass of one text of ten tokens takes."""
    model = make_model(shape, stored, compiled)
    embed(model, 1, 10)
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        embed(model, 1, 10)
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=0)
    arguments.add_argument("--details", action="store_true", help="print the primitives by name")
    given = arguments.parse_args()
    print("| model | stored | primitives | compiled |" + (" description, ms | compiled, ms |" if given.rounds else ""))
    print("| --- | --- | ---: | ---: |" + (" ---: | ---: |" if given.rounds else ""))
    for shape in SHAPES:
        for stored in STORED:
            found = [count(shape, stored, compiled) for compiled in (False, True)]
            cells = [str(sum(one.values())) for one in found]
            if given.rounds:
                cells += [f"{milliseconds(shape, stored, compiled, given.rounds):.2f}" for compiled in (False, True)]
            print(f"| {shape} | {stored} | {' | '.join(cells)} |")
            if given.details:
                print(*(f"  {dict(one.most_common())}" for one in found), sep="\n")


if __name__ == "__main__":
    main()
