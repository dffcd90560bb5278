"""`mlx-hf-bridge embed`: embed a corpus of files, on this machine or on a Ray cluster."""

import argparse
from typing import Any

from mlx_hf_bridge.cli.console import show, show_json
from mlx_hf_bridge.cli.quantization_options import options_from_flags
from mlx_hf_bridge.corpora import CorpusResult, embed_files
from mlx_hf_bridge.runtime.extras import require


def run(args: argparse.Namespace) -> int:
    """Embed the files, and print how many rows have embeddings, as a JSON document or a sentence."""
    result = _on_ray(args) if args.ray else _here(args)
    if args.json:
        facts = {"units": result.units, "pending": result.pending, "computed": result.computed}
        rows = {"rows": result.rows, "quarantined": result.quarantined}
        show_json({"model": args.model, "output": str(result.output), **facts, **rows})
    else:
        show(_sentence(result))
    return 0


def _here(args: argparse.Namespace) -> CorpusResult:
    machines = {"workers": args.workers or 1, "shard": args.shard, "show_progress_bar": True}
    return embed_files(args.input, args.output, args.model, args.text_column, **machines, **_options(args))


def _on_ray(args: argparse.Namespace) -> CorpusResult:
    ray = require("ray.data", "ray", "--ray")
    from mlx_hf_bridge.integrations.ray import embed_dataset

    ray.init(address=args.ray, log_to_driver=args.verbose)
    given = {"output": args.output, "show_progress_bar": True, **_options(args)}
    result: CorpusResult = embed_dataset(args.input, args.model, args.text_column, **given)
    return result


def _options(args: argparse.Namespace) -> dict[str, Any]:
    quantization = options_from_flags(args).to_kwargs()
    loading = {"revision": args.revision, **quantization}
    given = {
        "id_column": args.id_column,
        "keep_columns": args.keep_column,
        "prompt_name": args.prompt_name,
        "normalize_embeddings": args.normalize,
        "truncate_dim": args.truncate_dim,
        "precision": args.precision,
        "rows_per_unit": args.rows_per_unit,
        "restart": args.restart,
        "batch_size": args.batch_size,
        "model_kwargs": {name: value for name, value in loading.items() if value is not None},
    }
    return {name: value for name, value in given.items() if value is not None}


def _sentence(result: CorpusResult) -> str:
    if result.pending:
        finished = result.units - result.pending
        return f"{finished} of {result.units} units are in {result.output}; {result.pending} belong to other shards"
    bad = f"; {result.quarantined} without one are in {result.output}/_quarantine" if result.quarantined else ""
    return f"{result.rows} embeddings in {result.units} files in {result.output}{bad}"
