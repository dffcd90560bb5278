"""In zero-change mode, unmodified programs print equal results, and unsupported uses fall back to torch."""

import copy
import json
import logging
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint, make_wordpiece
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from subprocesses import run_python, start_python, wait_for
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, BertModel
from transformers.models.auto import modeling_auto

import mlx_hf_bridge
from mlx_hf_bridge import zero_change
from mlx_hf_bridge.errors import CheckpointError, FallBackError, QuantizationError
from mlx_hf_bridge.facade import Facade
from mlx_hf_bridge.zero_change.script import run_script

SCRIPTS = Path(__file__).parent / "scripts"
# Tolerance for printed numbers.
PRINTED = 1e-3
FLOAT32 = 2e-5
IDS = torch.tensor([[1, 7, 8, 2]])
NLI = {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"}
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


@pytest.fixture
def mode() -> Iterator[None]:
    mlx_hf_bridge.install(watch_torch=True)
    yield
    mlx_hf_bridge.uninstall()


@pytest.fixture
def checkpoint(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Save a tiny BERT with the head that the script needs."""
    head, labels = getattr(request, "param", ("Model", 3))
    make_checkpoint(tmp_path / "model", head=head, labels=labels)
    if labels == len(NLI):
        config = json.loads((tmp_path / "model" / "config.json").read_text())
        config |= {"id2label": NLI, "label2id": {name: number for number, name in NLI.items()}}
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    return tmp_path / "model"


def in_mode(*arguments: Any, **environment: str) -> tuple[int, str, str]:
    """Run `python -m mlx_hf_bridge arguments...` and return its exit code, stdout and stderr."""
    program = "import runpy, sys; sys.argv.pop(0); runpy._run_module_as_main('mlx_hf_bridge', False)"
    return wait_for(start_python(program, "mlx_hf_bridge", *arguments, **environment))


def assert_printed_alike(actual: str, wanted: str) -> None:
    assert NUMBER.sub("#", actual) == NUMBER.sub("#", wanted)
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (actual, wanted)]
    assert numbers[1], "nothing was compared"
    np.testing.assert_allclose(*numbers, rtol=0, atol=PRINTED)


def plainly(script: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a script prints without mlx_hf_bridge."""
    monkeypatch.setattr(sys, "argv", [script, str(model)])
    capsys.readouterr()
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    return capsys.readouterr().out.strip()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("script", "checkpoint"),
    [
        ("zero_shot.py", ("ForSequenceClassification", 3)),
        ("ner.py", ("ForTokenClassification", 5)),
        ("fill_mask.py", ("ForMaskedLM", 2)),
        ("search.py", ("Model", 2)),
        ("rerank.py", ("ForSequenceClassification", 1)),
        ("keywords.py", ("Model", 2)),
    ],
    indirect=["checkpoint"],
)
def test_an_untouched_script_prints_the_same_and_runs_on_mlx_alone(
    script: str, checkpoint: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = minilm if script in ("search.py", "keywords.py") else checkpoint
    code, printed, complaint = in_mode("--report", "--strict", SCRIPTS / script, model)
    assert code == 0, complaint
    assert_printed_alike(printed, plainly(script, model, monkeypatch, capsys))
    report = complaint[complaint.index("mlx_hf_bridge: what ran where") :]
    assert re.search(r"^MLX +[1-9]\d* +\d+\.\d{3}  \w+ " + re.escape(str(model)), report, re.MULTILINE)
    assert "torch" not in report.replace(str(model), "")


def test_every_script_has_a_test() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in here for path in SCRIPTS.glob("*.py"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("checkpoint", [("ForSequenceClassification", 2)], indirect=True)
def test_fine_tuning_goes_to_torch_and_ends_with_the_same_loss(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed, complaint = in_mode("--report", SCRIPTS / "finetune.py", checkpoint)
    assert code == 0, complaint
    plain = plainly("finetune.py", checkpoint, monkeypatch, capsys)
    last = [text.splitlines()[-2:] for text in (printed, plain)]
    assert last[0][0].startswith("loss")
    assert last[0] == last[1]
    assert f"BertForSequenceClassification of '{checkpoint}' falls back to torch: modules() was called" in complaint
    assert re.search(r"^torch +2 +\d+\.\d{3}  BertForSequenceClassification .*\n +because modules\(\)", complaint, re.M)


def assert_on_mlx(model: Any) -> None:
    assert isinstance(model, Facade)


def test_every_door_of_transformers_opens_on_mlx(mode: None, checkpoint: Path) -> None:
    for load in (AutoModel.from_pretrained, BertModel.from_pretrained, transformers.AutoModel.from_pretrained):
        model = load(checkpoint)
        assert_on_mlx(model)
        assert isinstance(model, BertModel)
    assert_on_mlx(transformers.pipeline("feature-extraction", str(checkpoint)).model)
    assert_on_mlx(AutoModel.from_pretrained(checkpoint, config=transformers.AutoConfig.from_pretrained(checkpoint)))


def test_every_class_of_sentence_transformers_answers_the_same(checkpoint: Path, tmp_path: Path) -> None:
    texts = ["the cat sat", "a dog is on the news today"]
    make_checkpoint(tmp_path / "words", head="ForMaskedLM")

    def answers() -> list[Any]:
        torch.manual_seed(0)  # MultiVectorEncoder initializes its projection randomly
        models: list[Any] = [SentenceTransformer(str(checkpoint)), MultiVectorEncoder(str(checkpoint))]
        sparse = SparseEncoder(str(tmp_path / "words"))
        found = [models[0].encode(texts), *models[1].encode(texts), sparse.encode(texts).to_dense()]
        found.append(models[0].half().encode(texts, device="cpu"))
        return [[model[0].auto_model for model in (*models, sparse)], *found]

    plain = answers()
    mlx_hf_bridge.install(strict=True)
    try:
        bridged = answers()
    finally:
        mlx_hf_bridge.uninstall()
    assert all(isinstance(model, Facade) for model in bridged[0])
    for actual, wanted in zip(bridged[1:], plain[1:], strict=True):
        assert type(actual) is type(wanted)
        tolerance = 5e-3 if actual.dtype in (np.float16, torch.float16) else 1e-4
        np.testing.assert_allclose(np.asarray(actual), np.asarray(wanted), rtol=0, atol=tolerance)


@pytest.mark.parametrize("checkpoint", [("ForSequenceClassification", 1)], indirect=True)
def test_a_cross_encoder_scores_the_same(mode: None, checkpoint: Path) -> None:
    bridged = CrossEncoder(str(checkpoint))
    assert_on_mlx(bridged[0].auto_model)
    mlx_hf_bridge.uninstall()
    pairs = [("the cat", "a dog"), ("good film", "bad film")]
    np.testing.assert_allclose(bridged.predict(pairs), CrossEncoder(str(checkpoint)).predict(pairs), atol=1e-5)


# Unsupported arguments and the reported reason.
UNSUPPORTED_HEADS: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"num_hidden_layers": 1}, "its config was changed: num_hidden_layers=1"),
    "decoder": ({"is_decoder": True}, "its config was changed: is_decoder=True"),
    "double": ({"dtype": torch.float64}, "it was given dtype=torch.float64"),
    "sizes": ({"ignore_mismatched_sizes": True}, "it was given ignore_mismatched_sizes"),
    "info": ({"output_loading_info": True}, "it was given output_loading_info"),
    "mapping": ({"key_mapping": {"a": "b"}}, "it was given key_mapping"),
}


@pytest.mark.parametrize("name", UNSUPPORTED_HEADS)
def test_arguments_that_mlx_does_not_serve_go_to_torch(
    name: str, mode: None, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options, reason = UNSUPPORTED_HEADS[name]
    with caplog.at_level(logging.WARNING, "mlx_hf_bridge"):
        actual = AutoModel.from_pretrained(checkpoint, **options)
    [record] = zero_change.report().records
    assert record.reason == reason
    assert f"BertModel of '{checkpoint}' falls back to torch: {reason}" in caplog.text
    mlx_hf_bridge.uninstall()
    wanted = AutoModel.from_pretrained(checkpoint, **options)
    if name == "info":
        (actual, found), (wanted, expected) = actual, wanted
        assert found == expected
    assert type(actual) is BertModel
    torch.testing.assert_close(actual(IDS)[0], wanted(IDS)[0], rtol=0, atol=0)
    assert record.torch_calls == 1


def test_arguments_that_change_no_answer_stay_on_mlx(mode: None, checkpoint: Path) -> None:
    plain = BertModel.from_pretrained
    for options in (
        {"attn_implementation": "eager"},
        {"dtype": "auto", "low_cpu_mem_usage": True, "trust_remote_code": True},
        {"torch_dtype": torch.float16},
        {"output_hidden_states": True, "return_dict": False},
        {"device_map": "cpu"},
        {"add_pooling_layer": False},
        {"id2label": {0: "a", 1: "b", 2: "c", 3: "d"}},
    ):
        model = plain(checkpoint, **options)
        assert_on_mlx(model)
        if "device_map" in options:
            continue  # transformers itself requires accelerate for this
        mlx_hf_bridge.uninstall()
        torch_model = plain(checkpoint, **options)
        mlx_hf_bridge.install()
        with torch.no_grad():
            actual, wanted = model(IDS), torch_model(IDS)
        assert len(actual) == len(wanted)
        assert actual[0].dtype == wanted[0].dtype == model.dtype == model.config.dtype
        torch.testing.assert_close(
            actual[0], wanted[0], rtol=1e-2, atol=2e-2 if actual[0].dtype == torch.float16 else FLOAT32
        )
        assert model.config._attn_implementation == torch_model.config._attn_implementation
        assert model.config.to_dict() == torch_model.config.to_dict()


def test_models_that_mlx_does_not_have_go_to_torch(mode: None, tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")

    class Own(BertModel):
        """A user-defined subclass."""

    make_checkpoint(tmp_path / "bert")
    assert type(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2")) is transformers.GPT2LMHeadModel
    assert type(Own.from_pretrained(tmp_path / "bert")) is Own
    assert type(transformers.BertLMHeadModel.from_pretrained(tmp_path / "bert")) is transformers.BertLMHeadModel
    reasons = [record.reason or "" for record in zero_change.report().records]
    assert "config.json has model_type='gpt2'" in reasons[0]
    assert reasons[1] == "Own is not a class of transformers"
    assert reasons[2].startswith("MLX has no BertLMHeadModel, of its family BertForMaskedLM, ")


def test_a_checkpoint_of_another_family_is_computed_by_the_class(mode: None, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, next(row for row in FAMILIES if row.model_type == "roberta"))
    actual = BertModel.from_pretrained(tmp_path)
    assert zero_change.report().records[0].reason == "its checkpoint is of RobertaModel"
    mlx_hf_bridge.uninstall()
    torch.testing.assert_close(actual(IDS)[0], BertModel.from_pretrained(tmp_path)(IDS)[0], rtol=0, atol=0)


def test_a_head_that_the_checkpoint_lacks_is_drawn_by_torch(mode: None, checkpoint: Path) -> None:
    torch.manual_seed(5)
    actual = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    mlx_hf_bridge.uninstall()
    torch.manual_seed(5)
    wanted = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    torch.testing.assert_close(actual(IDS).logits, wanted(IDS).logits, rtol=0, atol=0)
    assert "lacks" in str(zero_change.report().records[0].reason)


def test_a_use_that_only_torch_has_is_reported_once_a_model(mode: None, checkpoint: Path) -> None:
    model = BertModel.from_pretrained(checkpoint)
    with torch.no_grad():
        on_mlx = model(IDS)[0]
        model.get_input_embeddings()
        model.register_forward_hook(lambda *call: None)
        torch.testing.assert_close(model(IDS)[0], on_mlx, rtol=1e-4, atol=FLOAT32)
    [record] = zero_change.report().records
    assert (record.mlx_calls, record.torch_calls) == (1, 1)
    assert record.reason == "get_input_embeddings() was called"
    lines = str(zero_change.report()).splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["MLX", "1"], ["torch", "1"]]
    assert lines[4].strip() == "because get_input_embeddings() was called"


def test_torch_models_are_left_alone_unless_they_are_to_be_watched(checkpoint: Path) -> None:
    mlx_hf_bridge.install()
    try:
        model = BertModel.from_pretrained(checkpoint)
        model.parameters()
    finally:
        mlx_hf_bridge.uninstall()
    assert "forward" not in vars(model)
    model(IDS)
    assert str(zero_change.report()).splitlines()[2].split()[:3] == ["torch", "-", "-"]


def test_a_pickled_model_still_knows_the_way_to_torch(mode: None, checkpoint: Path) -> None:
    model = pickle.loads(pickle.dumps(nn.Sequential(BertModel.from_pretrained(checkpoint))))[0]
    assert_on_mlx(model)
    assert model.embeddings.word_embeddings.weight.shape == (101, 24)
    assert type(model) is BertModel


class Classifier(nn.Module):
    """A typical user-defined model around an encoder."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.bert = AutoModel.from_pretrained(checkpoint)
        self.head = nn.Linear(self.bert.config.hidden_size, 2)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.bert(input_ids).last_hidden_state[:, 0])
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.filterwarnings("ignore")
def test_trainer_trains_the_encoder_inside_a_module(mode: None, checkpoint: Path, tmp_path: Path) -> None:
    def trained() -> list[torch.Tensor]:
        model = Classifier(checkpoint)
        arguments = transformers.TrainingArguments(
            str(tmp_path / "out"), max_steps=2, report_to=[], save_strategy="no", weight_decay=0.1, use_cpu=True
        )
        rows = [{"input_ids": IDS[0], "labels": torch.tensor(1)}] * 4
        transformers.Trainer(model=model, args=arguments, train_dataset=rows).train()
        return weights(model)

    actual = trained()
    assert zero_change.report().records[0].reason == "transformers.Trainer trains it"
    mlx_hf_bridge.uninstall()
    torch.testing.assert_close(actual, trained(), rtol=0, atol=0)


def test_calls_by_sentence_transformers_are_counted_on_both_sides(mode: None, checkpoint: Path) -> None:
    encoder = SentenceTransformer(str(checkpoint))
    on_mlx = encoder.encode("the cat")
    encoder[0].auto_model.state_dict()
    np.testing.assert_allclose(copy.deepcopy(encoder).encode("the cat"), on_mlx, atol=FLOAT32)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(encoder)).encode("the cat"), on_mlx, atol=FLOAT32)
    encoder.encode("the cat")
    [record] = zero_change.report().records
    assert (record.mlx_calls, record.torch_calls) == (1, 1)


def test_what_cannot_be_loaded_raises_as_in_transformers_and_is_no_record(mode: None, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no_such_model"):
        BertModel.from_pretrained(str(tmp_path / "no_such_model"))
    assert not zero_change.report().records


def test_strict_makes_a_fall_back_an_error_and_leaves_the_model_on_mlx(checkpoint: Path) -> None:
    mlx_hf_bridge.install(strict=True)
    try:
        model = BertModel.from_pretrained(checkpoint)
        with pytest.raises(
            FallBackError, match=r"BertModel of '.*' would fall back to torch: parameters\(\) was called\. Run"
        ):
            model.parameters()
        assert_on_mlx(model)
        with pytest.raises(FallBackError, match="num_hidden_layers"):
            BertModel.from_pretrained(checkpoint, num_hidden_layers=1)
    finally:
        mlx_hf_bridge.uninstall()


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("entries", ["parameters", "named_parameters"])
def test_an_optimizer_of_a_container_trains_the_torch_model(mode: None, checkpoint: Path, entries: str) -> None:
    def step() -> list[torch.Tensor]:
        torch.manual_seed(1)
        container = nn.Sequential(BertModel.from_pretrained(checkpoint))
        optimizer = torch.optim.SGD(getattr(container, entries)(), lr=0.1)
        container(IDS)[0].sum().backward()
        optimizer.step()
        return weights(container)

    actual = step()
    reason = zero_change.report().records[0].reason
    assert reason == "the values of its parameters were requested (is_leaf)"
    mlx_hf_bridge.uninstall()
    wanted = step()
    assert len(actual) == len(wanted)
    torch.testing.assert_close(actual, wanted, rtol=0, atol=0)


def test_groups_made_of_a_container_s_parameters_train_the_torch_model(mode: None, checkpoint: Path) -> None:
    def step() -> list[torch.Tensor]:
        torch.manual_seed(1)
        net = nn.Sequential(BertModel.from_pretrained(checkpoint))
        decayed = [one for name, one in net.named_parameters() if one.ndim > 1 and "LayerNorm" not in name]
        others = [one for name, one in net.named_parameters() if one.ndim == 1 or "LayerNorm" in name]
        optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.5}, {"params": others, "lr": 0.01}])
        net(IDS)[0].sum().backward()
        optimizer.step()
        return weights(net)

    actual = step()
    mlx_hf_bridge.uninstall()
    torch.testing.assert_close(actual, step(), rtol=0, atol=0)


def first_number(model: Any) -> float:
    with torch.no_grad():
        return float(model(IDS)[0][0, 0, 0])


# What becomes of the folder "model" in the working directory after it was loaded.
FATES: dict[str, Callable[[Path], Any]] = {
    "overwritten": lambda folder: make_checkpoint(folder, seed=5),
    "gone": shutil.rmtree,
    "renamed": lambda folder: folder.rename(folder.with_name("other")),
    "another working directory": lambda folder: (
        make_checkpoint(folder.parent / "elsewhere" / "model", seed=5),
        os.chdir(folder.parent / "elsewhere"),
    ),
}


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_a_model_stays_what_was_loaded(
    mode: None, fate: str, dtype: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    models = [BertModel.from_pretrained("model", dtype=dtype) for _ in range(3)]
    wanted = first_number(models[0])
    models[2] = pickle.loads(pickle.dumps(models[2]))
    FATES[fate](checkpoint)
    models[0].get_input_embeddings()
    nn.Sequential(models[1]).state_dict()
    models[2](IDS)[0].sum().backward()
    for model in models:
        assert type(model) is BertModel
        assert first_number(model) == pytest.approx(wanted, abs=FLOAT32)
    assert models[0].name_or_path == models[0].config.name_or_path == "model"


def test_a_quantized_model_whose_files_changed_says_so(checkpoint: Path) -> None:
    mlx_hf_bridge.install("mxfp4")
    try:
        model = BertModel.from_pretrained(checkpoint)
        make_checkpoint(checkpoint, seed=5)
        with pytest.raises(CheckpointError, match=r"have changed since it was loaded.* Load it again"):
            model.state_dict()
        assert_on_mlx(model)
    finally:
        mlx_hf_bridge.uninstall()


def test_a_branch_that_moved_gives_the_commit_that_was_loaded(mode: None, tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--org--name"
    for seed, commit in enumerate(("a" * 40, "b" * 40)):
        make_checkpoint(repo / "snapshots" / commit, seed=seed)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    one, two = (BertModel.from_pretrained("org/name", cache_dir=tmp_path / "hub") for _ in range(2))
    wanted = first_number(one)
    (repo / "refs" / "main").write_text("b" * 40)
    one.state_dict()
    assert first_number(one) == pytest.approx(wanted, abs=FLOAT32)
    shutil.rmtree(repo)
    two.state_dict()
    assert first_number(two) == pytest.approx(wanted, abs=FLOAT32)


def test_without_a_cache_models_run_on_torch(mode: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkpoint / "file").touch()
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(checkpoint / "file" / "cache"))
    assert type(BertModel.from_pretrained(checkpoint)) is BertModel
    assert "cannot be written" in str(zero_change.report().records[0].reason)


def test_what_is_changed_through_sentence_transformers_counts(mode: None, checkpoint: Path) -> None:
    def answer(part: Callable[[SentenceTransformer], nn.Module]) -> np.ndarray:
        model = SentenceTransformer(str(checkpoint), device="cpu")
        model.encode("the cat")
        with torch.no_grad():
            for parameter in part(model).parameters():
                parameter.mul_(0.5)
        vectors: np.ndarray = model.encode("the cat")
        return vectors

    parts: list[Callable[[SentenceTransformer], nn.Module]] = [lambda model: model, lambda model: model[0]]
    got = [answer(part) for part in parts]
    assert [record.mlx_calls for record in zero_change.report().records] == [1, 1]
    mlx_hf_bridge.uninstall()
    np.testing.assert_allclose(got, [answer(part) for part in parts], atol=FLOAT32)


def test_a_recipe_packs_every_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = FAMILIES[0]
    config = type(row.config).from_dict({**row.config.to_dict(), **row.wide})
    BertModel(config).save_pretrained(tmp_path)
    make_wordpiece(tmp_path)
    monkeypatch.setenv("MLX_HF_BRIDGE_QUANTIZATION", "q4-rtn")
    try:
        for given, bits in (("q8", 8), (None, 4)):
            mlx_hf_bridge.install(given)
            model: Any = AutoModel.from_pretrained(tmp_path)
            assert model.mlx_model.quantization_config.bits == bits
            assert model(IDS)[0].dtype == torch.float32
        with pytest.raises(QuantizationError, match="q99"):
            mlx_hf_bridge.install("q99")
    finally:
        mlx_hf_bridge.uninstall()


def registries() -> list[Any]:
    """Snapshot everything outside this package that zero-change mode changes or might change."""
    autos = [value for value in vars(modeling_auto).values() if hasattr(value, "_model_mapping")]
    extra = [dict(getattr(auto._model_mapping, "_extra_content", {})) for auto in autos]
    classes = [transformers.PreTrainedModel, BertModel, transformers.Trainer, torch.optim.Optimizer, nn.Module]
    return [extra, *(dict(vars(owner)) for owner in classes), list(sys.meta_path), sys.excepthook]


def test_uninstalling_leaves_no_trace(checkpoint: Path) -> None:
    before = registries()
    mlx_hf_bridge.install()
    mlx_hf_bridge.install()
    assert registries() != before
    model = AutoModel.from_pretrained(checkpoint)
    mlx_hf_bridge.uninstall()
    assert registries() == before
    mlx_hf_bridge.uninstall()
    assert registries() == before
    assert type(AutoModel.from_pretrained(checkpoint)) is BertModel
    assert_on_mlx(model)
    assert model.embeddings is not None
    assert type(model) is BertModel


def test_the_notebook_extension_installs_and_uninstalls(checkpoint: Path) -> None:
    mlx_hf_bridge.load_ipython_extension(None)
    assert_on_mlx(AutoModel.from_pretrained(checkpoint))
    mlx_hf_bridge.unload_ipython_extension(None)
    assert type(AutoModel.from_pretrained(checkpoint)) is BertModel


WATCHED = """
import sys
import mlx_hf_bridge
mlx_hf_bridge.install()
assert not {"torch", "transformers"} & set(sys.modules)
from importlib.util import find_spec
from transformers import AutoConfig, AutoModel
assert find_spec("transformers.modeling_utils").origin.endswith("modeling_utils.py")
assert "mlx_hf_bridge.facade" not in sys.modules
model = AutoModel.from_pretrained(sys.argv[1])
import transformers.modeling_utils as module
assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
print(type(model).__mro__[1].__name__)
"""


@pytest.mark.slow
def test_nothing_is_done_before_a_model_is_wanted(checkpoint: Path) -> None:
    code, printed, complaint = wait_for(start_python(WATCHED, checkpoint))
    assert code == 0, complaint
    assert printed == "Facade"


PROGRAM = """
from __future__ import annotations
import sys
print(__name__, __file__, __spec__ and __spec__.name, __package__, sorted(globals()), sys.argv, sys.path[0])
import __main__
print(vars(__main__) is globals())
if sys.argv[1:] == ["exit"]:
    sys.exit(7)
try:
    {}["missing"]
except KeyError as error:
    raise KeyboardInterrupt if sys.argv[1:] == ["stop"] else ValueError("wrong") from error
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["program.py", "x", "--strict"],
        ["./program.py", "exit"],
        ["program.py", "stop"],
        ["-m", "package", "y"],
        ["-m", "missing"],
        ["missing.py"],
        ["package", "z"],
    ],
    ids=" ".join,
)
def test_a_program_runs_as_plain_python_runs_it(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "__main__.py").write_text(PROGRAM)
    results = []
    for mode in ([], ["-m", "mlx_hf_bridge", "--strict"]):
        command = [sys.executable, *mode, *arguments]
        environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "MLX_HF_BRIDGE_BLAS": "none"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **environment})
        results.append((done.returncode, done.stdout, done.stderr))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report"], "error: no program was given"),
        (["--strict", "-m"], "error: no program was given"),
        (["--report", "--quick", "x.py"], "error: unknown option '--quick'"),
        (["--quantization"], "error: --quantization is incomplete"),
        (["--quantization=q99", "x.py"], "error: "),
    ],
)
def test_wrong_usage_says_what_is_right(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from mlx_hf_bridge.__main__ import main

    assert main(arguments) == 2
    complaint = capsys.readouterr().err
    assert "usage: python -m mlx_hf_bridge [options] script.py" in complaint
    assert message in complaint.splitlines()[-1]


def test_importing_transformers_imports_little_more(tmp_path: Path) -> None:
    """Count modules, since times depend on what else runs; `python -m benchmarks.startup` measures seconds."""
    script = tmp_path / "script.py"
    script.write_text("import sys, transformers\nprint(*sys.modules)", encoding="utf-8")
    code, printed, complaint = in_mode(script)
    assert code == 0, complaint
    plain, mode = set(run_python(script.read_text(encoding="utf-8")).split()), set(printed.split())
    further = {name for name in mode - plain if name.split(".")[0] != "mlx"}
    assert "mlx.core" in mode and not {"torch", "sentence_transformers"} & mode
    assert len(further) <= len(plain) / 20, sorted(further)


def test_a_missing_script_ends_as_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_script("no_such_script.py", [])
    assert ended.value.code == 2
    assert "can't open file" in capsys.readouterr().err
