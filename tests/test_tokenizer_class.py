"""The class of a tokenizer is AutoTokenizer's choice, for model types, declared classes and kinds of tokenizer.json."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors
from transformers.models.auto import tokenization_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint, read_json
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion import tokenizer_class as ours
from mlx_hf_bridge.conversion.tokenizer_files import build_tokenizer
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.models import bert, family_for, model_types

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", "▁", "Ġ", "Ġc", "##t"]
DECLARED = [
    None,
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "XLMRobertaTokenizerFast",
    "DebertaV2Tokenizer",
    "BertTokenizerFast",
    "RobertaTokenizer",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
    "PreTrainedTokenizer",
    "NoSuchTokenizerFast",
]
# The config's keys beside the model type: transformers looks for a few models by another key.
TYPES: list[dict[str, Any]] = [
    {"model_type": "bert"},
    {"model_type": "roberta"},
    {"model_type": "xlm-roberta"},
    {"model_type": "deberta-v2"},
    {"model_type": "modernbert"},
    {"model_type": "umt5"},
    {"model_type": "xlm-roberta-xl"},
    {"model_type": "eurobert"},
    {"model_type": "luke"},
    {"model_type": "camembert", "model_name": "camembertv2-base"},
    {"model_type": "qwen3"},
    # Traced.
    {"model_type": "qwen2"},
    {"model_type": "llama"},
]


def unigram() -> tokenizers.Tokenizer:
    """Make a tokenizer that puts no space in front, which a class that rebuilds it would do."""
    tokenizer = tokenizers.Tokenizer(models.Unigram([(word, -1.0) for word in WORDS], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    return tokenizer


def byte_level() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE({word: row for row, word in enumerate(WORDS)}, [("Ġ", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def write(folder: Path, kind: Callable[[], tokenizers.Tokenizer], config: dict[str, Any], **settings: Any) -> None:
    tokenizer = kind()
    tokenizer.post_processor = processors.TemplateProcessing("</s> $A <s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**special, **settings}))


def build(folder: Path) -> Any:
    config = read_json(folder / "config.json")
    model_type = config["model_type"]
    # As conversion/traced.py asks transformers for the class of a type that has no file here.
    traced = replace(
        bert.FAMILY,
        model_type=model_type,
        tokenizer=auto.TOKENIZER_MAPPING_NAMES.get(model_type, "").removesuffix("Fast"),
    )
    family = family_for(config) if model_type in model_types() else traced
    return build_tokenizer(Checkpoint(locate(folder, HubOptions()), folder, folder, config, None), family)


@pytest.mark.parametrize("kind", [unigram, byte_level])
@pytest.mark.parametrize("config", TYPES, ids=lambda config: config["model_type"])
def test_class_and_ids_are_those_of_auto_tokenizer(
    config: dict[str, Any], kind: Callable[[], tokenizers.Tokenizer], tmp_path: Path
) -> None:
    compared = 0
    for declared in DECLARED:
        write(tmp_path, kind, config, **({"tokenizer_class": declared} if declared else {}))
        try:
            expected = transformers.AutoTokenizer.from_pretrained(tmp_path)
        except Exception:  # the bare class is what tokenizers raises
            continue
        found = build(tmp_path)
        assert type(found) is type(expected), declared
        assert found("a cat").input_ids == expected("a cat").input_ids, declared
        compared += 1
    # CamembertTokenizer, which that model always gets, reads no byte-level file.
    assert compared >= 5 or (config["model_type"] == "camembert" and kind is byte_level)


def test_the_lists_are_those_of_transformers() -> None:
    assert ours.INCORRECTLY_DECLARED == auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    assert list(ours.REPOS_AS_THEY_STAND) == auto.MODEL_IDS_TO_TOKENIZERS_BACKEND
    generic = {"TokenizersBackend": ours.AS_IT_STANDS}
    registered = {name: generic.get(kind, kind) for name, kind in auto.TOKENIZER_MAPPING_NAMES.items() if kind}
    # Types that only repos with code of their own have are none of AutoTokenizer's.
    known = set(model_types()) & set(CONFIG_MAPPING_NAMES)
    assert known - set(registered) == ours.UNREGISTERED
    assert {name: family_for({"model_type": name}).tokenizer for name in model_types() if name in registered} == {
        name: registered[name].replace("TokenizersBackend", ours.AS_IT_STANDS)
        for name in model_types()
        if name in registered
    }


def test_a_listed_repo_is_read_as_it_stands(tmp_path: Path) -> None:
    write(tmp_path, unigram, {"model_type": "xlm-roberta"}, tokenizer_class="XLMRobertaTokenizer")
    checkpoint = Checkpoint(locate(tmp_path, HubOptions()), tmp_path, tmp_path, {"model_type": "xlm-roberta"}, None)
    assert ours.tokenizer_class_name(checkpoint, bert.FAMILY) == "XLMRobertaTokenizer"
    listed = replace(checkpoint, source=replace(checkpoint.source, name="allenai/dolma2-tokenizer"))
    assert ours.tokenizer_class_name(listed, bert.FAMILY) == ours.AS_IT_STANDS


@pytest.mark.parametrize(
    "settings",
    [
        [],
        {"tokenizer_class": 5},
        {"model_max_length": "512"},
        {"truncation_side": 1},
        {"model_input_names": "input_ids"},
    ],
    ids=str,
)
def test_settings_of_a_wrong_type_are_an_error(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"config\.json (has .*, expected .*|is not a JSON object)\. Take the"):
        ours.tokenizer_config(tmp_path)
