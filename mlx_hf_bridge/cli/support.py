"""What is supported, read from the code: every encoder type of transformers, native or refused."""

from dataclasses import dataclass

from mlx_hf_bridge.architecture.family import HF_SUFFIXES
from mlx_hf_bridge.architecture.unsupported import UNSUPPORTED, UNTRACEABLE
from mlx_hf_bridge.models import family_for, model_types

_HEADING = """# Models

Every text encoder of transformers, as `mlx-hf-bridge models --markdown` prints it from the code. A native type is
computed by a file of its own under `mlx_hf_bridge/models/`. Each of its heads is compared with transformers on random
weights, through files on disk: batches padded on either side and texts alone, eager and sdpa attention, to 2e-5
(`tests/test_parity.py`); computed in float16 and bfloat16, with padding in every pattern
(`tests/test_half_precision.py`); with every quantisation recipe (`tests/test_quantization.py`); and at the longest text
it takes (`tests/test_lengths.py`).

Any other type is traced where it can be (docs/tracing.md): transformers' own module runs as a graph, which each
conversion compares with torch first; "tried" says that nothing is known against it. Else it ends in an error.
"""


@dataclass(frozen=True)
class Support:
    """One model_type: the transformers classes that it answers for, or why it has none, and whether it is traced."""

    model_type: str
    heads: tuple[str, ...] = ()
    reason: str = ""
    traced: str = ""


def supported_types() -> list[Support]:
    """Native types first, each group by name."""
    native = [_native(model_type) for model_type in model_types()]
    return native + [_traced(model_type, reason) for model_type, reason in sorted(UNSUPPORTED.items())]


def _native(model_type: str) -> Support:
    family = family_for({"model_type": model_type})
    tasks = [task for task in HF_SUFFIXES if task in family.heads]
    return Support(model_type, ("Model", *(HF_SUFFIXES[task] for task in tasks)))


def _traced(model_type: str, reason: str) -> Support:
    hindrance = UNTRACEABLE.get(model_type)
    return Support(model_type, reason=reason, traced=f"no: {hindrance}" if hindrance else "tried")


def as_markdown() -> str:
    """docs/models.md."""
    rows = supported_types()
    native = [row for row in rows if row.heads]
    refused = [row for row in rows if row.reason]
    lines = [_HEADING, f"## Native ({len(native)})", "", "| model_type | classes |", "| --- | --- |"]
    lines += [f"| {row.model_type} | {', '.join(head.removeprefix('For') for head in row.heads)} |" for row in native]
    lines += ["", f"## Not native ({len(refused)})", "", "| model_type | why | traced |", "| --- | --- | --- |"]
    lines += [f"| {row.model_type} | {row.reason} | {row.traced} |" for row in refused]
    return "\n".join(lines) + "\n"
