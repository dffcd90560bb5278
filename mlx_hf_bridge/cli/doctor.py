"""`mlx-hf-bridge doctor`: show what this machine computes with, how fast it is, and what would make it faster."""

import argparse
from dataclasses import asdict

from mlx_hf_bridge.cli.console import listing, show, show_json
from mlx_hf_bridge.cli.diagnosis import Diagnosis, diagnose
from mlx_hf_bridge.cli.texts import paragraph
from mlx_hf_bridge.runtime.precision import is_exact


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis as tables or JSON."""
    found = diagnose()
    if args.json:
        show_json(asdict(found))
        return 0
    show(listing("Machine", _facts(found)), "")
    show(listing("Versions", [(name, number or "not installed") for name, number in found.versions.items()]), "")
    speeds = [(name, f"{gflops:,.0f} GFLOP/s") for name, gflops in found.speeds.items()]
    show(listing("Matrix multiplication, by kind of weights", speeds), "")
    show("Advice", *(paragraph("  ", line) for line in found.advice or ("Nothing to do.",)))
    return 0


def _facts(found: Diagnosis) -> list[tuple[str, str]]:
    return [
        ("system", found.system),
        ("backend", f"{found.backend} ({found.device})"),
        ("cores", f"{found.cores}; parallel batches: {found.streams}"),
        ("BLAS", _blas(found)),
        (
            "float32",
            f"{'exact' if is_exact(found.float32_error) else 'TF32'}, matmuls are {found.float32_error:.0e} off",
        ),
        ("cache", found.cache),
    ]


def _blas(found: Diagnosis) -> str:
    if found.blas is None:
        return "MLX's own"
    kernels = f", kernels for {found.blas_kernels}" if found.blas_kernels else ""
    plural = "" if found.blas_threads == 1 else "s"
    threads = f", {found.blas_threads} thread{plural}" if found.blas_threads else ""
    return f"{found.blas}{kernels}{threads}"
