"""`mlx-hf-bridge export-metal`: a converted folder in the form that plain transformers loads."""

import argparse

from mlx_hf_bridge.checkpoints.safetensors_file import MB, SINGLE_FILE
from mlx_hf_bridge.cli.console import show
from mlx_hf_bridge.conversion.metal_export import export_metal


def run(args: argparse.Namespace) -> int:
    """Write the folder and say where, how large it is, and how to load it."""
    target = export_metal(args.folder, args.output)
    size = (target / SINGLE_FILE).stat().st_size / MB
    show(f"{target}: {size:.1f} MB of weights, for transformers; off Apple's GPUs with device_map={{'': 'cpu'}}")
    return 0
