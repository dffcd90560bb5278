"""The list of supported models is complete, generated from the code, and equal to docs/models.md."""

import json
from pathlib import Path

import pytest
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from mlx_hf_bridge.architecture.unsupported import UNSUPPORTED
from mlx_hf_bridge.cli import main
from mlx_hf_bridge.cli.support import as_markdown, supported_types
from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.models import family_for, model_types

# Listed in transformers' tables but not text encoders: decoders and audio-only models.
NOT_TEXT_ENCODERS = {
    "audioflamingo3", "emu3", "emu3_text_model", "glmasr", "granite_speech", "granite_speech_plus",
    "kosmos_2_5_text_model", "kosmos_2_text_model", "llama4", "mistral4", "mllama", "mllama_text_model",
    "molmo2_text", "moss_transcribe_diarize", "musicflamingo", "nemo_speechlm", "omniasr", "pix2struct_text_model",
    "qwen2_audio", "qwen3_asr", "vibevoice_asr", "voxtral", "voxtral_realtime",
}  # fmt: skip

ENCODING = {f"FOR_{name}" for name in (
    "MASKED_LM", "TEXT_ENCODING", "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING",
    "MULTIPLE_CHOICE", "NEXT_SENTENCE_PREDICTION", "SEQ_TO_SEQ_CAUSAL_LM",
)}  # fmt: skip
PAGE = Path(__file__).parent.parent / "docs" / "models.md"


def test_the_page_in_docs_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_markdown(), "mlx-hf-bridge models --markdown > docs/models.md"


def test_every_encoder_of_transformers_is_native_or_refused_with_a_reason() -> None:
    """Check the types that transformers maps to an encoding task, except those that are decoder-only."""
    tables = {name: set(getattr(modeling_auto, f"MODEL_{name}_MAPPING_NAMES")) for name in ENCODING | {"FOR_CAUSAL_LM"}}
    decoders = tables.pop("FOR_CAUSAL_LM") - tables["FOR_MASKED_LM"]
    towers = {name for name in CONFIG_MAPPING_NAMES if name.endswith(("_text_model", "t5gemma2_encoder"))}
    encoders = set().union(*tables.values(), towers) - decoders - NOT_TEXT_ENCODERS
    assert len(encoders) > 90
    assert encoders <= {row.model_type for row in supported_types()}
    assert all(row.heads or row.reason for row in supported_types())


def test_no_type_is_both_native_and_refused() -> None:
    assert not set(model_types()) & {name.replace("_", "-") for name in UNSUPPORTED}


@pytest.mark.parametrize("model_type", sorted(UNSUPPORTED))
def test_a_refused_type_is_an_error_with_its_reason(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        family_for({"model_type": model_type})
    assert UNSUPPORTED[model_type] in str(caught.value)
    assert "Use transformers on torch" in str(caught.value)


def test_files_with_adapters_of_their_authors_code_are_errors_that_name_transformers_own() -> None:
    jina = {"model_type": "xlm-roberta", "position_embedding_type": "absolute", "lora_adaptations": ["separation"]}
    with pytest.raises(
        UnsupportedModelError, match=r"lora_adaptations=\['separation'\]: .* Load .*/jina-embeddings-v3-hf\)"
    ):
        family_for(jina)


def test_the_command_prints_the_list_in_three_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(row.model_type in printed for row in supported_types())
    assert main(["models", "--json"]) == 0
    assert [row["model_type"] for row in json.loads(capsys.readouterr().out)] == [
        row.model_type for row in supported_types()
    ]
    assert main(["models", "--markdown"]) == 0
    assert capsys.readouterr().out == as_markdown()
