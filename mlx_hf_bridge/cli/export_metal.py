"""`mlx-hf-bridge export-metal`: export a converted folder in the format of transformers' "metal" quantizer."""

import argparse

from mlx_hf_bridge.checkpoints.safetensors_file import MB, SINGLE_FILE
from mlx_hf_bridge.cli.console import listing, show, show_json
from mlx_hf_bridge.conversion.metal_export import export_metal


def run(args: argparse.Namespace) -> int:
    """Write the folder and print its path, its size and how to load it."""
    target = export_metal(args.folder, args.output)
    size = (target / SINGLE_FILE).stat().st_size / MB
    if args.json:
        show_json({"folder": str(target), "weight_bytes": (target / SINGLE_FILE).stat().st_size})
        return 0
    facts = [
        ("weights", f"{size:.1f} MB"),
        (
            "dtype",
            "linear layers stay quantized; the rest, token embeddings too, is float32 for transformers' loader",
        ),
        ("load", "transformers.AutoModel.from_pretrained; without an Apple GPU pass device_map={'': 'cpu'}"),
    ]
    show(listing(str(target), facts))
    return 0
