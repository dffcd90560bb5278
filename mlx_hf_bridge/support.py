"""What is supported, read from the code: every encoder type of transformers, native or refused."""

from dataclasses import dataclass

from mlx_hf_bridge.family import HF_SUFFIXES
from mlx_hf_bridge.models import family_for, model_types
from mlx_hf_bridge.refused import REFUSED

_HEADING = """# Models

Every text encoder of transformers, as `mlx-hf-bridge models --markdown` prints it from the code. A native type is
computed by a file of its own under `mlx_hf_bridge/models/`. Each of its heads is compared with transformers on random
weights, through files on disk: batches padded on either side and texts alone, eager and sdpa attention, to 2e-5
(`tests/test_parity.py`); computed in float16 and bfloat16, with padding in every pattern
(`tests/test_half_precision.py`); with every quantisation recipe (`tests/test_quantization.py`); and at the longest text
it takes (`tests/test_lengths.py`). Any other type ends in an error with the reason below.
"""


@dataclass(frozen=True)
class Support:
    """One model_type: the transformers classes that it answers for, or why it has none."""

    model_type: str
    heads: tuple[str, ...] = ()
    reason: str = ""


def supported() -> list[Support]:
    """Native types first, each group by name."""
    native = [_native(model_type) for model_type in model_types()]
    return native + [Support(model_type, reason=reason) for model_type, reason in sorted(REFUSED.items())]


def _native(model_type: str) -> Support:
    family = family_for({"model_type": model_type})
    tasks = [task for task in HF_SUFFIXES if task in family.heads]
    return Support(model_type, ("Model", *(HF_SUFFIXES[task] for task in tasks)))


def as_markdown() -> str:
    """docs/models.md."""
    rows = supported()
    native = [row for row in rows if row.heads]
    refused = [row for row in rows if row.reason]
    lines = [_HEADING, f"## Native ({len(native)})", "", "| model_type | classes |", "| --- | --- |"]
    lines += [f"| {row.model_type} | {', '.join(head.removeprefix('For') for head in row.heads)} |" for row in native]
    lines += ["", f"## Refused ({len(refused)})", "", "| model_type | why |", "| --- | --- |"]
    lines += [f"| {row.model_type} | {row.reason} |" for row in refused]
    return "\n".join(lines) + "\n"
