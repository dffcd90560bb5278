"""Tests that the package runs without installation, from a checkout and from one archive as in bundled apps."""

import zipfile
from pathlib import Path

import pytest
from checkpoints import make_checkpoint
from subprocesses import run_python

import mlx_hf_bridge

pytestmark = pytest.mark.slow
PACKAGE = Path(mlx_hf_bridge.__file__).parent
# Only the metadata of this package is hidden: httpx and other libraries look up their own.
PROGRAM = """
import importlib.metadata, sys
found = importlib.metadata.version
def version(name):
    if name.replace("_", "-") == "mlx-hf-bridge":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
sys.path.insert(0, sys.argv[1])
from mlx_hf_bridge import MLXSentenceTransformer, convert, pipeline
from mlx_hf_bridge.version import installed_version
convert(sys.argv[2], sys.argv[3], quantization_config="q4-fit")
model = MLXSentenceTransformer(sys.argv[3])
model.save_pretrained(sys.argv[3] + "-saved")
assert len(model.encode("the cat sat")) == len(pipeline("feature-extraction", sys.argv[3])("the cat sat")[0][0]) == 24
print(sys.modules["mlx_hf_bridge"].__file__)
print(installed_version("mlx-hf-bridge"), installed_version("no-such-package"))
"""


def run_from(place: Path, tmp_path: Path) -> list[str]:
    """Run the program with the package imported from `place` and return the lines that it prints."""
    make_checkpoint(tmp_path / "source")
    printed = run_python(PROGRAM, place, tmp_path / "source", tmp_path / "converted", PYTHONPATH="", PYTHONSAFEPATH="1")
    return printed.splitlines()


def test_a_checkout_that_is_not_installed_runs(tmp_path: Path) -> None:
    where, versions = run_from(PACKAGE.parent, tmp_path)
    assert Path(where).parent == PACKAGE
    assert versions == f"{mlx_hf_bridge.__version__} None"


def test_the_package_runs_from_a_zip_archive(tmp_path: Path) -> None:
    archive = tmp_path / "application.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in PACKAGE.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, path.relative_to(PACKAGE.parent))
    where, versions = run_from(archive, tmp_path)
    assert Path(where).parent.parent == archive
    assert versions == f"{mlx_hf_bridge.__version__} None"
