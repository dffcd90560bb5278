"""Keys of config.json are read as transformers reads them, or refused."""

import dataclasses
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from checkpoints import FAMILIES, mlx_class, ragged_inputs, save_model
from config_keys import DIFFERS, outcome, share_of
from weight_files import edit_config, max_difference, output_array, rename

from mlx_hf_bridge.errors import ConfigError, RepositoryError, WeightsError
from mlx_hf_bridge.models import family_for

ABSOLUTE = 2e-5
BY_TYPE = {row.model_type: row for row in reversed(FAMILIES)}
# The sweep of tests/config_keys.py has about 5,000 cases; each run of the tests takes one share of this many. The share
# follows the release of transformers, so that a run can be repeated.
SHARES = 240
SHARE = sum(transformers.__version__.encode()) % SHARES

# What a hand or another tool may have written into config.json, where transformers computes with it.
EDITS: list[tuple[str, dict[str, Any]]] = [
    ("t5", {"dense_act_fn": "gelu_new"}),
    ("mt5", {"dense_act_fn": "gelu"}),
    ("umt5", {"dense_act_fn": "silu"}),
    ("mt5", {"feed_forward_proj": "gelu", "is_gated_act": True}),
    ("qwen3", {"is_causal": False}),
    ("clip_text_model", {"is_causal": False}),
    ("bert", {"hidden_act": ..., "layer_norm_eps": ..., "pad_token_id": -1}),
    ("roberta", {"pad_token_id": -1, "max_position_embeddings": 44}),
    ("convbert", {"pad_token_id": ...}),
    ("bert", {"id2label": {"1": "A", "2": "B"}, "label2id": None}),
    ("gte", {"position_embedding_type": "rope", "rope_scaling": None, "rope_parameters": ..., "rope_theta": 50.0}),
]


@pytest.mark.parametrize(("model_type", "edits"), EDITS, ids=lambda value: str(value)[:60])
def test_a_key_that_transformers_reads_is_read(model_type: str, edits: dict[str, Any], tmp_path: Path) -> None:
    row = BY_TYPE[model_type]
    save_model(tmp_path, row)
    edit_config(tmp_path, **edits)
    loader = transformers.AutoModel if row.base == "Model" else getattr(transformers, row.classes + row.base)
    inputs = ragged_inputs(row)
    expected = output_array(loader.from_pretrained(tmp_path), inputs, "last_hidden_state")
    found = output_array(mlx_class("Model").from_pretrained(tmp_path), inputs, "last_hidden_state")
    assert max_difference(found, expected, inputs) < ABSOLUTE


def test_euroberts_classifier_pools_by_the_key_of_its_authors(tmp_path: Path) -> None:
    """transformers' class has another name for it, and takes its default for files that say `clf_pooling` alone."""
    row = BY_TYPE["eurobert"]
    pooling = next(name for name in ("bos", "mean", "late") if name != row.config.classifier_pooling)
    inputs, head = ragged_inputs(row), "ForSequenceClassification"
    save_model(tmp_path, row, head)
    edit_config(tmp_path, classifier_pooling=pooling)
    expected = output_array(transformers.EuroBertForSequenceClassification.from_pretrained(tmp_path), inputs, "logits")
    edit_config(tmp_path, classifier_pooling=..., clf_pooling=pooling)
    found = output_array(mlx_class(head).from_pretrained(tmp_path), inputs, "logits")
    np.testing.assert_allclose(found, expected, rtol=0, atol=ABSOLUTE)


def test_no_key_is_ignored_silently() -> None:
    """A part of the sweep; `python tests/config_keys.py` runs it whole."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {case.name: outcome(case) for case in share_of(SHARE, SHARES)}
    finally:
        logging.disable(logging.NOTSET)
    assert len(found) > 5
    assert not {name: text for name, (result, text) in found.items() if result == DIFFERS}


@pytest.mark.parametrize("model_type", list(BY_TYPE))
def test_a_key_that_is_left_out_has_the_default_of_transformers(model_type: str) -> None:
    config, checked = BY_TYPE[model_type].config, family_for({"model_type": model_type}).config
    config = config.encoder if model_type == "t5gemma" else config
    raw = {"model_type": model_type, "vocab_size": 101, "use_bidirectional_attention": True}
    found = checked.from_json({**raw, "encoder": raw})
    # The decoder that T5Gemma has by default changes nothing of its encoder.
    wanted = type(config)(vocab_size=101, use_bidirectional_attention=True).to_dict()
    computed = {"label2id", "layer_types", "rope_parameters", "model_type", "is_encoder_decoder"}
    for spec in dataclasses.fields(checked):
        key = checked.attribute_map.get(spec.name, spec.name)
        # None is what is not given, and follows from other values.
        if spec.init and key in wanted and spec.name not in computed and getattr(found, spec.name) is not None:
            value = getattr(found, spec.name)
            assert value == wanted[key] or not (value or wanted[key]), key


BAD_VALUES = [
    ("bert", {"layer_norm_eps": -1}, "layer_norm_eps=-1, expected a number of 0 or more"),
    ("bert", {"layer_norm_eps": float("nan")}, "layer_norm_eps=nan, expected a number of 0 or more"),
    ("bert", {"layer_norm_eps": 10**400}, "layer_norm_eps=1000.*, expected a number of 0 or more"),
    ("modernbert", {"global_rope_theta": -5, "rope_parameters": ...}, "global_rope_theta=-5, expected a number"),
    ("nomic_bert", {"rope_parameters": {"rope_theta": -5.0}}, "rope_theta=-5.0, expected a number above 0"),
    ("qwen3", {"head_dim": 1}, "heads of width 1, expected an even number"),
    ("gemma3_text", {"head_dim": 9}, "heads of width 9, expected an even number"),
    ("eurobert", {"head_dim": 5}, "heads of width 5, expected an even number"),
    ("nomic_bert", {"head_dim": 3}, "heads of width 3, expected an even number"),
    ("modernbert", {"num_attention_heads": 8}, "heads of width 3, expected an even number"),
    ("roformer", {"num_attention_heads": 8}, "heads of width 3, expected an even number"),
    ("esm", {"num_attention_heads": 8}, "heads of width 3, expected an even number"),
    ("bert", {"hidden_act": "prelu"}, "hidden_act='prelu'; known are .*or use transformers on torch"),
    ("roberta", {"id2label": {"a": "A"}}, "expected a mapping of ids to labels"),
]


@pytest.mark.parametrize(("model_type", "edits", "message"), BAD_VALUES, ids=lambda value: str(value)[:50])
def test_a_value_that_cannot_be_computed_is_refused(model_type: str, edits: dict[str, Any], message: str) -> None:
    raw = {**BY_TYPE[model_type].config.to_dict(), **edits}
    with pytest.raises(ConfigError, match=message):
        family_for(raw).config.from_json({key: value for key, value in raw.items() if value is not ...})


@pytest.mark.parametrize("labels", [{"1": "A", "2": "B", "3": "C"}, {"0": "A", "2": "B", "5": "C"}])
def test_there_are_as_many_classes_as_labels_whatever_their_ids(labels: dict[str, str], tmp_path: Path) -> None:
    row, head = BY_TYPE["bert"], "ForSequenceClassification"
    save_model(tmp_path, row, head)
    edit_config(tmp_path, id2label=labels, label2id={name: int(number) for number, name in labels.items()})
    inputs = ragged_inputs(row)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    model = mlx_class(head).from_pretrained(tmp_path)
    expected, found = (output_array(one, inputs, "logits") for one in (loaded, model))
    assert max_difference(found, expected, inputs) < ABSOLUTE
    assert model.config.id2label == loaded.config.id2label and model.config.num_labels == 3


def test_an_error_about_a_repo_with_code_of_its_own_says_so(tmp_path: Path) -> None:
    row = BY_TYPE["bert"]
    save_model(tmp_path, row)
    edit_config(tmp_path, auto_map={"AutoModel": "bert_layers.BertModel"}, position_embedding_type="rotary")
    with pytest.raises(ConfigError, match=r"position_embedding_type='rotary'.* auto_map names remote code"):
        mlx_class("Model").from_pretrained(tmp_path)
    edit_config(tmp_path, position_embedding_type="absolute")
    rename(tmp_path, lambda name: name.replace("self.query", "self.Wqkv"))
    with pytest.raises(WeightsError, match=r"no parameter for: .*Wqkv.* auto_map names remote code"):
        mlx_class("Model").from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"x")
    with pytest.raises(RepositoryError, match=r"It has ONNX files \(onnx/model\.onnx\), which ONNX Runtime computes"):
        mlx_class("Model").from_pretrained(tmp_path)
