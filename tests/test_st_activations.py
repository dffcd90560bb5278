"""Every activation of torch that sentence-transformers builds from a name is computed, with torch's values."""

import inspect
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from st_checkpoints import TEXTS, TOLERANCE, randomized
from tokenizers import Tokenizer, models, pre_tokenizers

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.sentence_transformers.modules.activations import DENSE_ACTIVATIONS, parse_activation, torch_name

# It takes images only.
LEFT_OUT = {"Softmax2d"}


def buildable() -> dict[str, Any]:
    """Return torch's activation classes that need no arguments, by name."""
    found: dict[str, Any] = {}
    for name, cls in vars(torch.nn.modules.activation).items():
        if inspect.isclass(cls) and cls.__module__ == "torch.nn.modules.activation":
            try:
                cls()
            except TypeError:
                continue
            found[name] = cls
    return found


def test_no_activation_of_torch_is_missing() -> None:
    assert set(buildable()) - LEFT_OUT <= set(DENSE_ACTIVATIONS)


@pytest.mark.parametrize("name", DENSE_ACTIVATIONS)
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_activations_have_torchs_values(name: str) -> None:
    x = np.linspace(-30, 30, 48, dtype=np.float32).reshape(4, 12)
    x[0] /= 40
    expected = getattr(torch.nn, name)().eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(np.array(DENSE_ACTIVATIONS[name][1](mx.array(x))), expected, **TOLERANCE)
    for spelling in (torch_name(name), f"torch.nn.{name}"):
        assert parse_activation(spelling, "here", DENSE_ACTIVATIONS) == name
    assert torch_name(name) == f"{getattr(torch.nn, name).__module__}.{name}"


def test_a_softmax_over_the_texts_of_a_batch_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Softmax without dim is applied to 3 axes"):
        DENSE_ACTIVATIONS["Softmax"][1](mx.zeros((2, 3, 4)))


def test_the_weight_of_prelu_is_read_and_saved(tmp_path: Path) -> None:
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(["[UNK]", "cat", "dog", "a"])}, "[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    dense = randomized(Dense(6, 5, activation_function=torch.nn.PReLU(init=0.7)))
    modules = [StaticEmbedding(words, torch.randn(4, 6)), dense]
    torch_model = SentenceTransformer(modules=modules, device="cpu")
    torch_model.save_pretrained(str(tmp_path / "repo"))
    model = MLXSentenceTransformer(tmp_path / "repo")
    model.save_pretrained(tmp_path / "saved")
    expected = torch_model.encode(TEXTS)
    for one in (model, MLXSentenceTransformer(tmp_path / "saved")):
        np.testing.assert_allclose(one.encode(TEXTS), expected, **TOLERANCE)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS), expected)
