"""List every encoder type of transformers with what the code supports of it: native, traced or unsupported."""

from dataclasses import dataclass

from mlx_hf_bridge.architecture.family import HF_SUFFIXES
from mlx_hf_bridge.architecture.unsupported import UNSUPPORTED, UNTRACEABLE
from mlx_hf_bridge.models import family_for, model_types

_HEADING = """# Models

Every text encoder of transformers, as `mlx-hf-bridge models --markdown` prints it from the code. A native type has an
implementation in MLX, a file of its own under `mlx_hf_bridge/models/`. Each of its heads is compared with transformers
on random weights, through files on disk: padded on either side and unbatched, with eager and sdpa attention, to 2e-5
(`tests/test_parity.py`); in float16 and bfloat16, with padding in every pattern (`tests/test_half_precision.py`); with
every quantization recipe (`tests/test_quantization.py`); and at the longest text it takes (`tests/test_lengths.py`).
Types that only their authors' code has in torch, marked with \\*, are compared with an independent implementation in
NumPy instead (`tests/numpy_reference.py`), to the same 2e-5; nothing of a repo's code is ever run. So are variants of
nomic_bert that transformers' class lacks: mixtures of experts, biases, other feed-forward blocks.

Any other type is traced if possible (docs/tracing.md): transformers' own module runs as a graph, which each conversion
first compares with torch; "tried" means that no obstacle is known. Otherwise loading it is an error.

Of the types with \\*, some share another's model_type in config.json, whose other keys tell them apart
(`mlx_hf_bridge/architecture/remote_code.py`):

- jina_bert: bert with `position_embedding_type` alibi (jina-embeddings-v2, jina-reranker-v1)
- mosaic_bert: bert with `alibi_starting_size` (DNABERT-2, MosaicBERT)
- xlm_roberta_flash: xlm-roberta with `position_embedding_type` rotary (jina-embeddings-v3 in its own repo's layout,
  with a LoRA for each task; jina-colbert-v2)

`MLXGLiNER` loads GLiNER models, whose gliner_config.json names an encoder of any native type: those that score spans
(`span_mode` marker and markerV0 to markerV2: urchade/gliner_small-v2.1, gliner_multi-v2.1) or words (token_level: NuNER
Zero, gliner-multitask), with labels before the text or in an encoder of their own (gliner-bi, gliner-poly). They are
compared with the gliner package on torch (`tests/test_gliner.py`). Relation extraction, label generation, streaming and
word splitters other than whitespace are refused.

[checkpoints.md](checkpoints.md) lists public checkpoints of these types whose layouts were tested.
"""


@dataclass(frozen=True)
class Support:
    """One model_type.

    heads: the suffixes of the supported transformers classes. reason: why it is not native. traced: "tried", or "no: "
    and why. in_transformers: whether transformers has classes of it, which tests compare with.
    """

    model_type: str
    heads: tuple[str, ...] = ()
    reason: str = ""
    traced: str = ""
    in_transformers: bool = True


def supported_types() -> list[Support]:
    """Return every encoder type, native ones first, each group sorted by name."""
    native = [_native(model_type) for model_type in model_types()]
    return native + [_traced(model_type, reason) for model_type, reason in sorted(UNSUPPORTED.items())]


def _native(model_type: str) -> Support:
    family = family_for({"model_type": model_type})
    tasks = [task for task in HF_SUFFIXES if task in family.heads]
    heads = ("Model", *(HF_SUFFIXES[task] for task in tasks))
    return Support(model_type, heads, in_transformers=family.in_transformers)


def _traced(model_type: str, reason: str) -> Support:
    obstacle = UNTRACEABLE.get(model_type)
    return Support(model_type, reason=reason, traced=f"no: {obstacle}" if obstacle else "tried")


def as_markdown() -> str:
    """Return the page docs/models.md."""
    rows = supported_types()
    native = [row for row in rows if row.heads]
    refused = [row for row in rows if row.reason]
    lines = [_HEADING, f"## Native ({len(native)})", "", "| model_type | classes |", "| --- | --- |"]
    for row in native:
        mark = "" if row.in_transformers else " \\*"
        lines.append(f"| {row.model_type}{mark} | {', '.join(head.removeprefix('For') for head in row.heads)} |")
    lines += ["", f"## Not native ({len(refused)})", "", "| model_type | why | traced |", "| --- | --- | --- |"]
    lines += [f"| {row.model_type} | {row.reason} | {row.traced} |" for row in refused]
    return "\n".join(lines) + "\n"
