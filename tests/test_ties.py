"""Tensors that config.json ties are tied only where the files agree, as in transformers 5."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, Row, make_model, mlx_class, ragged_inputs, row_name
from weight_files import Tensors, max_difference, output_array, read_tensors, write_tensors

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForMaskedLM

ABSOLUTE = 2e-5
# One row for each way to write a masked-LM head; the others have the names of one of these.
TYPES = ("bert", "distilbert", "electra", "albert", "mpnet", "modernbert", "deberta", "esm", "mobilebert")
TYPES += ("eurobert", "gte", "xlm", "t5", "umt5")
ROWS = [
    next(row for row in FAMILIES if row.model_type == name and (name != "eurobert" or row.config.tie_word_embeddings))
    for name in TYPES
]
DECODER = "cls.predictions.decoder.weight"

Tied = dict[str, str]


def differ(tensors: Tensors, tied: Tied) -> Tensors:
    """Add each tied tensor with other values than the one that it is tied to."""
    return {**tensors, **{target: tensors[source].flip(0) * 1.5 + 0.1 for target, source in tied.items()}}


def weights_differ(tensors: Tensors, tied: Tied) -> Tensors:
    """Add only the tied weights; their biases are missing."""
    return differ(tensors, {target: source for target, source in tied.items() if target.endswith("weight")})


def swap(tensors: Tensors, tied: Tied) -> Tensors:
    """Give each tensor the name that is tied to it, so that its own is missing."""
    names = {source: target for target, source in tied.items()}
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def head_of(row: Row) -> str:
    """Return the head with tied tensors, the bare encoder for T5."""
    return "Model" if row.base == "EncoderModel" else "ForMaskedLM"


def save(folder: Path, row: Row, change: Callable[[Tensors, Tied], Tensors]) -> Any:
    """Save a model with its tied tensors changed, and return it as transformers loads it."""
    model = make_model(row, head_of(row))
    model.save_pretrained(folder)
    write_tensors(folder, change(read_tensors(folder), dict(model.all_tied_weights_keys)))
    return type(model).from_pretrained(folder).eval()


@pytest.mark.parametrize("change", [differ, weights_differ, swap], ids=lambda change: change.__name__)
@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_tied_tensors_are_settled_as_in_transformers(row: Row, change: Any, tmp_path: Path) -> None:
    torch_model = save(tmp_path, row, change)
    output = "last_hidden_state" if head_of(row) == "Model" else "logits"
    inputs = ragged_inputs(row)
    expected = output_array(torch_model, inputs, output)
    found = output_array(mlx_class(head_of(row)).from_pretrained(tmp_path), inputs, output)
    assert max_difference(found, expected, inputs) < max(ABSOLUTE, row.relative * np.abs(expected).max())


@pytest.fixture(scope="module")
def own_decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A BERT whose decoder differs from the embeddings that its config.json ties it to."""
    folder = tmp_path_factory.mktemp("own_decoder")
    return folder, save(folder, FAMILIES[0], differ)


@pytest.mark.parametrize("recipe", [None, "q8"])
def test_a_saved_model_keeps_its_own_decoder(recipe: Any, own_decoder: tuple[Path, Any], tmp_path: Path) -> None:
    folder, torch_model = own_decoder
    inputs = ragged_inputs(FAMILIES[0])
    model = MLXAutoModelForMaskedLM.from_pretrained(folder, quantization_config=recipe)
    model.save_pretrained(tmp_path)
    assert read_tensors(tmp_path)[DECODER] is not None and model.config.tie_word_embeddings is False
    again = MLXAutoModelForMaskedLM.from_pretrained(tmp_path)
    found = [output_array(one, inputs, "logits") for one in (model, again)]
    np.testing.assert_array_equal(*found)
    if recipe is None:
        found.append(output_array(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path), inputs, "logits"))
    expected = output_array(torch_model, inputs, "logits")
    for one in found:
        assert max_difference(one, expected, inputs) < (ABSOLUTE if recipe is None else 0.05 * np.abs(expected).max())


def test_the_encoder_of_an_untied_model_is_converted_with_the_decoder(own_decoder: tuple[Path, Any]) -> None:
    """One conversion serves every head, so the encoder may come first."""
    folder, torch_model = own_decoder
    inputs = ragged_inputs(FAMILIES[0])
    states = MLXAutoModel.from_pretrained(folder)(**inputs).last_hidden_state
    scores = MLXAutoModelForMaskedLM.from_pretrained(folder)(**inputs).logits
    with torch.no_grad():
        expected = torch_model.bert(**{name: torch.tensor(value) for name, value in inputs.items()})[0].numpy()
    assert max_difference(np.array(states), expected, inputs) < ABSOLUTE
    assert max_difference(np.array(scores), output_array(torch_model, inputs, "logits"), inputs) < ABSOLUTE


def test_a_decoder_equal_to_the_embeddings_is_one_table(tmp_path: Path) -> None:
    """torch's .bin files always hold both."""
    model = make_model(FAMILIES[0], "ForMaskedLM")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    found = MLXAutoModelForMaskedLM.from_pretrained(tmp_path)
    assert DECODER not in read_tensors(found.loaded.folder) and found.config.tie_word_embeddings
