"""TAPAS' choice of cells and aggregations, against transformers: the logits, saved models, and the pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import WORDS
from weight_files import edit_config

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForTableQuestionAnswering, pipeline
from mlx_hf_bridge.errors import BackendError, ConfigError, InputError
from mlx_hf_bridge.pipelines import table_question_answering

# float32 tolerance across kernels, as in test_parity.py; excluded cells have logits of -10000, spaced by 1e-3.
ABSOLUTE, RELATIVE = 2e-5, 1e-6
SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 44,
    "temperature": 0.5,
}
KINDS: dict[str, dict[str, Any]] = {
    "aggregating": {"num_aggregation_labels": 4},
    "selecting": {"allow_empty_column_selection": True},
}


def save_tapas(folder: Path, vocabulary: int = 101, **keys: Any) -> Any:
    """Save a TAPAS with random weights, and return it."""
    torch.manual_seed(0)
    model = transformers.TapasForQuestionAnswering(transformers.TapasConfig(vocab_size=vocabulary, **SIZES, **keys))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model.eval()


def inputs_of(config: Any) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    mask = (torch.arange(17)[None] < torch.tensor([17, 12, 9])[:, None]).long()
    types = [torch.randint(0, size, mask.shape, generator=random) for size in config.type_vocab_sizes]
    ids = torch.randint(5, config.vocab_size, mask.shape, generator=random)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.stack(types, -1) * mask[..., None]}


@pytest.mark.parametrize("kind", KINDS)
def test_cells_are_scored_as_in_transformers(kind: str, tmp_path: Path) -> None:
    sizes = {"type_vocab_sizes": [3, 9, 8, 2, 5, 6, 4], "max_num_rows": 5, "max_num_columns": 6}
    torch_model = save_tapas(tmp_path, **sizes, **KINDS[kind])
    model, inputs = MLXAutoModelForTableQuestionAnswering.from_pretrained(tmp_path), inputs_of(torch_model.config)
    for names in (list(inputs), ["input_ids", "token_type_ids"], ["input_ids"]):
        given = {name: inputs[name] for name in names}
        with torch.no_grad():
            expected = torch_model(**given)
        actual = model(**{name: tensor.numpy() for name, tensor in given.items()})
        assert list(actual) == list(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(actual[name], value, rtol=RELATIVE, atol=ABSOLUTE)
    assert isinstance(model(**inputs), transformers.models.tapas.modeling_tapas.TableQuestionAnsweringOutput)


def test_the_head_is_kept_for_other_tasks_and_read_back_by_transformers(tmp_path: Path) -> None:
    save_tapas(tmp_path, num_aggregation_labels=4)
    MLXAutoModel.from_pretrained(tmp_path)
    MLXAutoModelForTableQuestionAnswering.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    loaded = transformers.TapasForQuestionAnswering.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not loaded[1]["missing_keys"] | loaded[1]["unexpected_keys"]


def test_a_head_that_transformers_cannot_compute_is_refused(tmp_path: Path) -> None:
    save_tapas(tmp_path)
    edit_config(tmp_path, select_one_column=False)
    with pytest.raises(ConfigError, match="select_one_column=false"):
        MLXAutoModelForTableQuestionAnswering.from_pretrained(tmp_path)


LABELS = {0: "NONE", 1: "SUM", 2: "AVERAGE", 3: "COUNT"}
TABLE = {"cat": ["dog sat", "news", "a film"], "dog": ["3", "12", "7"], "market": ["good", "bad .", "the mat"]}
QUESTIONS = ["is the film good ?", "the stock market rose today", "a dog"]
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "one": ((TABLE, QUESTIONS[0]), {}),
    "several": ((TABLE, QUESTIONS), {}),
    "in turn": ((TABLE, QUESTIONS), {"sequential": True}),
    "by name": ((), {"table": TABLE, "query": QUESTIONS[1], "padding": "max_length"}),
    "list": (([{"table": TABLE, "query": one} for one in QUESTIONS],), {}),
}


@pytest.fixture(scope="module", params=["aggregating", "selecting"])
def tables(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a TAPAS with its tokenizer."""
    pytest.importorskip("pandas")
    folder: Path = tmp_path_factory.mktemp("tables")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[EMPTY]", *WORDS, *"0123456789"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.TapasTokenizer(str(folder / "vocab.txt"), model_max_length=44).save_pretrained(folder)
    labels = {"aggregation_labels": LABELS, "no_aggregation_label_index": 0} if request.param == "aggregating" else {}
    save_tapas(folder, len(words), **labels, **KINDS[request.param])
    return folder


@pytest.mark.parametrize("call", CALLS)
def test_the_pipeline_answers_as_that_of_transformers(call: str, tables: Path) -> None:
    args, options = CALLS[call]
    expected = transformers.pipeline("table-question-answering", model=str(tables), device="cpu")(*args, **options)
    assert pipeline("table-question-answering", model=tables)(*args, **options) == expected


def test_the_pipeline_refuses_what_that_of_transformers_refuses(tables: Path) -> None:
    ask = pipeline("table-question-answering", model=tables)
    for given, message in ((({}, "a dog"), "table is empty"), ((TABLE, ""), "query is empty"), ((TABLE,), "table")):
        with pytest.raises(InputError, match=message):
            ask(*given)


def test_a_missing_pandas_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_question_answering, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"needs pandas, .*`pip install 'mlx-hf-bridge\[tables\]'"):
        table_question_answering._require_pandas()
