"""Tests of PEFT LoRA adapters merged at conversion, compared with merging them into the base model in torch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint, ragged_inputs
from safetensors.torch import save_file
from weight_files import edit_config, max_difference, output_array

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification, MLXSentenceTransformer, errors
from mlx_hf_bridge.conversion.api import convert

BERT = FAMILIES[0]
ABSOLUTE = 2e-5  # as in test_parity.py
VALUE = "encoder.layer.1.attention.self.value"
WORDS = "embeddings.word_embeddings"
Tensors = dict[str, torch.Tensor]


def write_adapter(folder: Path, base: Path, tensors: Tensors, **config: Any) -> Path:
    """Write an adapter in the format of PEFT and return its folder."""
    folder.mkdir(exist_ok=True)
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 4, "lora_alpha": 6, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def random_tensor(*shape: int, seed: int = 3) -> torch.Tensor:
    """Return a standard normal tensor."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


A, B = random_tensor(4, 24), random_tensor(24, 4, seed=4)
LORA = {f"{VALUE}.lora_A.weight": A, f"{VALUE}.lora_B.weight": B}


def summed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    """Return a function that replaces tensor `name` of a state dict with the result of `change`."""

    def apply(state: Tensors) -> None:
        state[name] = change(state[name])

    return apply


def as_dora(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight with the adapter merged as DoRA does: rows of the sum rescaled to random magnitudes."""
    both = weight + 6 / 4 * B @ A
    return random_tensor(24, seed=5)[:, None] * both / both.norm(dim=1, keepdim=True)


# name -> (tensors of the adapter, its config, the change that it makes to the state dict of the base model).
KINDS: dict[str, tuple[Tensors, dict[str, Any], Callable[[Tensors], None]]] = {
    "plain": (LORA, {}, summed(f"{VALUE}.weight", lambda w: w + 6 / 4 * B @ A)),
    "prefixed, with the adapter's name": (
        {f"bert.{VALUE}.lora_A.default.weight": A, f"bert.{VALUE}.lora_B.default.weight": B},
        {},
        summed(f"{VALUE}.weight", lambda w: w + 6 / 4 * B @ A),
    ),
    "stabilised": (LORA, {"use_rslora": True}, summed(f"{VALUE}.weight", lambda w: w + 6 / 2 * B @ A)),
    "alpha by module": (
        LORA,
        {"alpha_pattern": {"layer.1.attention.self.value": 2}},
        summed(f"{VALUE}.weight", lambda w: w + 2 / 4 * B @ A),
    ),
    "rank by module": (
        {f"{VALUE}.lora_A.weight": A[:2], f"{VALUE}.lora_B.weight": B[:, :2]},
        {"rank_pattern": {"value": 2}},
        summed(f"{VALUE}.weight", lambda w: w + 6 / 2 * B[:, :2] @ A[:2]),
    ),
    "weight-decomposed": (
        {**LORA, f"{VALUE}.lora_magnitude_vector": random_tensor(24, seed=5)},
        {"use_dora": True},
        summed(f"{VALUE}.weight", as_dora),
    ),
    "word table": (
        {f"{WORDS}.lora_embedding_A": random_tensor(4, 101), f"{WORDS}.lora_embedding_B": B},
        {},
        summed(f"{WORDS}.weight", lambda w: w + 6 / 4 * (B @ random_tensor(4, 101)).T),
    ),
    "bias of the product": (
        {**LORA, f"{VALUE}.lora_B.bias": random_tensor(24, seed=6)},
        {"lora_bias": True},
        lambda state: state.update(
            {
                f"{VALUE}.weight": state[f"{VALUE}.weight"] + 6 / 4 * B @ A,
                f"{VALUE}.bias": state[f"{VALUE}.bias"] + 6 / 4 * random_tensor(24, seed=6),
            }
        ),
    ),
    "trained biases": (
        {
            **LORA,
            f"{VALUE}.base_layer.bias": random_tensor(24, seed=7),
            "embeddings.LayerNorm.bias": random_tensor(24, seed=8),
        },
        {"bias": "all"},
        lambda state: state.update(
            {
                f"{VALUE}.weight": state[f"{VALUE}.weight"] + 6 / 4 * B @ A,
                f"{VALUE}.bias": random_tensor(24, seed=7),
                "embeddings.LayerNorm.bias": random_tensor(24, seed=8),
            }
        ),
    ),
    "whole modules": (
        {"pooler.dense.weight": random_tensor(24, 24), "pooler.modules_to_save.dense.bias": random_tensor(24)},
        {"modules_to_save": ["pooler"]},
        lambda state: state.update(
            {"pooler.dense.weight": random_tensor(24, 24), "pooler.dense.bias": random_tensor(24)}
        ),
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the base model and return its folder."""
    folder = tmp_path_factory.mktemp("base")
    make_checkpoint(folder)
    return folder


def torch_model(base: Path, change: Callable[[Tensors], None]) -> Any:
    """Return the base model in torch with `change` applied to its state dict."""
    model = transformers.BertModel.from_pretrained(base).eval()
    state = model.state_dict()
    change(state)
    model.load_state_dict(state)
    return model


def differs_by(mlx_model: Any, model: Any, name: str = "pooler_output") -> float:
    """Return the largest difference between the outputs of the two models."""
    inputs = ragged_inputs(BERT)
    return max_difference(output_array(mlx_model, inputs, name), output_array(model, inputs, name), inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_merged_as_torch_sums_it(kind: str, base: Path, tmp_path: Path) -> None:
    tensors, config, change = KINDS[kind]
    mlx_model = MLXAutoModel.from_pretrained(write_adapter(tmp_path, base, tensors, **config))
    names = ("last_hidden_state", "pooler_output")
    assert all(differs_by(mlx_model, torch_model(base, change), name) < ABSOLUTE for name in names)
    plain = transformers.BertModel.from_pretrained(base)
    assert any(differs_by(mlx_model, plain, name) > 1e-3 for name in names)


def test_a_classifier_beside_the_sums_is_the_models(base: Path, tmp_path: Path) -> None:
    head = {"classifier.weight": random_tensor(3, 24), "classifier.bias": random_tensor(3)}
    tensors = {f"bert.{name}": tensor for name, tensor in LORA.items()} | head
    write_adapter(tmp_path, base, tensors, modules_to_save=["classifier"], task_type="SEQ_CLS")
    whole = transformers.BertForSequenceClassification.from_pretrained(base).eval()
    state = whole.state_dict()
    state |= head | {f"bert.{VALUE}.weight": state[f"bert.{VALUE}.weight"] + 6 / 4 * B @ A}
    whole.load_state_dict(state)
    mlx_model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert differs_by(mlx_model, whole, "logits") < ABSOLUTE
    mlx_model.save_pretrained(tmp_path / "saved")
    saved = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert differs_by(saved, whole, "logits") < ABSOLUTE


def test_an_adapter_in_a_bin_file_is_merged(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path, base, LORA)
    torch.save({f"base_model.model.{name}": tensor for name, tensor in LORA.items()}, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    assert differs_by(MLXAutoModel.from_pretrained(tmp_path), torch_model(base, KINDS["plain"][2])) < ABSOLUTE


def write_hub_lora(folder: Path, base: Path, **settings: Any) -> Path:
    """Write a LoRA adapter in the files of the adapters library (AdapterHub)."""
    folder.mkdir(exist_ok=True)
    own = {"architecture": "lora", "alpha": 6, "r": 4, "composition_mode": "add", "use_gating": False, **settings}
    found = {"config": own, "model_name": str(base), "model_type": "bert", "name": "[PRX]", "version": "1.3.0"}
    (folder / "adapter_config.json").write_text(json.dumps(found))
    torch.save({f"bert.{VALUE}.loras.[PRX].lora_{name}": one for name, one in zip("AB", (A, B), strict=True)},
               folder / "pytorch_adapter.bin")  # fmt: skip
    return folder


def test_a_lora_of_the_adapters_library_is_merged(base: Path, tmp_path: Path) -> None:
    """With its scale, alpha / r, and its names."""
    mlx_model = MLXAutoModel.from_pretrained(write_hub_lora(tmp_path, base))
    assert differs_by(mlx_model, torch_model(base, KINDS["plain"][2])) < ABSOLUTE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": None, "reduction_factor": 16}, "bottleneck adapter.*adds layers between those of the model"),
        ({"architecture": "prefix_tuning"}, "prefix_tuning adapter.*adds layers"),
        ({"composition_mode": "scale"}, "lora adapter of the adapters library.* Merge it with that library"),
        ({"use_dora": True}, "Merge it with that library"),
    ],
)
def test_other_adapters_of_that_library_are_refused(
    settings: dict[str, Any], message: str, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(errors.UnsupportedModelError, match=message):
        MLXAutoModel.from_pretrained(write_hub_lora(tmp_path, base, **settings))


def test_an_adapter_beside_its_base_is_merged_into_that(base: Path, tmp_path: Path) -> None:
    """Like transformers, load the base model from the adapter folder when it has a config.json."""
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    write_adapter(tmp_path, Path("org/elsewhere"), LORA)
    assert differs_by(MLXAutoModel.from_pretrained(tmp_path), torch_model(base, KINDS["plain"][2])) < ABSOLUTE


def test_an_adapter_that_transformers_has_found_is_merged(base: Path, tmp_path: Path) -> None:
    """AutoModel passes the folder of the base model, and that of the adapter in adapter_kwargs."""
    adapter = write_adapter(tmp_path, base, LORA)
    mlx_model = MLXAutoModel.from_pretrained(
        base, adapter_kwargs={"_adapter_model_path": str(adapter), "revision": None}
    )
    assert differs_by(mlx_model, torch_model(base, KINDS["plain"][2])) < ABSOLUTE
    with pytest.raises(errors.ArgumentTypeError, match=r"adapter_kwargs has weight; known are revision, token"):
        MLXAutoModel.from_pretrained(base, adapter_kwargs={"weight": 2})


def test_base_and_adapter_are_conversions_of_their_own(base: Path, tmp_path: Path, bridge_cache: Path) -> None:
    plain = MLXAutoModel.from_pretrained(base)
    folders = [MLXAutoModel.from_pretrained(write_adapter(tmp_path, base, LORA)).folder for _ in range(2)]
    other = MLXAutoModel.from_pretrained(write_adapter(tmp_path, base, LORA, use_rslora=True))
    assert len({plain.folder, *folders, other.folder}) == 4  # a rewritten adapter is a new source
    assert MLXAutoModel.from_pretrained(tmp_path).folder == other.folder
    assert differs_by(plain, transformers.BertModel.from_pretrained(base)) < ABSOLUTE


def test_the_sum_is_packed_by_a_recipe(tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    config = type(BERT.config).from_dict({**BERT.config.to_dict(), "hidden_size": 64})
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    model.save_pretrained(wide)
    first, second = random_tensor(4, 64), random_tensor(64, 4, seed=4)
    adapter = write_adapter(
        tmp_path / "adapter", wide, {f"{VALUE}.lora_A.weight": first, f"{VALUE}.lora_B.weight": second}
    )
    model.get_submodule(VALUE).weight.data += 6 / 4 * second @ first
    model.save_pretrained(tmp_path / "merged")
    mlx_model, merged = (
        MLXAutoModel.from_pretrained(folder, quantization_config="q8") for folder in (adapter, tmp_path / "merged")
    )
    assert differs_by(mlx_model, merged) < ABSOLUTE


def test_the_command_line_converts_an_adapter_too(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base, LORA)
    convert(adapter, tmp_path / "out", quantization_config=None, show_progress=False)
    assert differs_by(MLXAutoModel.from_pretrained(tmp_path / "out"), torch_model(base, KINDS["plain"][2])) < ABSOLUTE


def test_an_adapters_own_pooling_and_tokenizer_count(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base, LORA)
    merged = tmp_path / "merged"
    torch_model(base, KINDS["plain"][2]).save_pretrained(merged)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    for folder in (adapter, merged):
        shutil.copyfile(base / "tokenizer.json", folder / "tokenizer.json")
        shutil.copyfile(base / "tokenizer_config.json", folder / "tokenizer_config.json")
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": 24, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    mlx_model, plain = (
        MLXSentenceTransformer(str(folder)).encode(["the cat sat", "a dog"]) for folder in (adapter, merged)
    )
    assert abs(mlx_model - plain).max() < ABSOLUTE
    saved = MLXAutoModel.from_pretrained(adapter)
    saved.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "1_Pooling" / "config.json").read_text())["pooling_mode_cls_token"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"peft_type": "IA3"}, r"peft_type='IA3'; only LORA is merged"),
    "beginning": ({"init_lora_weights": "pissa_niter_4"}, r"init_lora_weights='pissa_niter_4', which changes the base"),
    "tokens": ({"trainable_token_indices": [1]}, r"trainable_token_indices=\[1\], which is not merged here"),
    "replication": ({"layer_replication": [[0, 2]]}, r"layer_replication="),
    "no base": ({"base_model_name_or_path": None}, r"base_model_name_or_path=None, .* expected a name"),
    "no alpha": ({"lora_alpha": "6"}, r"lora_alpha='6'"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_is_not_merged_is_a_value_error(option: str, base: Path, tmp_path: Path, bridge_cache: Path) -> None:
    config, message = REFUSED[option]
    with pytest.raises(ValueError, match=message):
        MLXAutoModel.from_pretrained(write_adapter(tmp_path, base, LORA, **config))
    assert not list(bridge_cache.glob("converted/*/"))


LOST: dict[str, tuple[Tensors, str]] = {
    "a module that is not there": ({"encoder.layer.9.x.lora_A.weight": A}, r"that the base has no parameter for"),
    "half a sum": ({f"{VALUE}.lora_A.weight": A}, rf"no plain LoRA: {VALUE}\.lora_A"),
    "another width": (
        {f"{VALUE}.lora_A.weight": random_tensor(4, 9), f"{VALUE}.lora_B.weight": B},
        r"adds \(24, 9\) to .*value\.weight, which has \(24, 24\) in its base",
    ),
    "a tensor of its own": ({**LORA, "gate.weight": A + 1}, r"no parameter for.*gate\.weight"),
}


@pytest.mark.parametrize("fault", LOST)
def test_tensors_that_have_nowhere_to_go_are_named(fault: str, base: Path, tmp_path: Path) -> None:
    tensors, message = LOST[fault]
    with pytest.raises(errors.WeightsError, match=message):
        MLXAutoModel.from_pretrained(write_adapter(tmp_path, base, tensors))


def test_an_adapter_without_weights_or_base_is_an_os_error(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path, base, LORA)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(OSError, match=r"has adapter_config\.json and none of adapter_model\.safetensors, "):
        MLXAutoModel.from_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"is neither a folder on this machine nor a Hub id"):
        MLXAutoModel.from_pretrained(write_adapter(tmp_path, Path("/gone"), LORA))


def test_an_adapter_to_packed_weights_is_refused(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    edit_config(tmp_path / "base", quantization={"group_size": 64, "bits": 8})
    with pytest.raises(errors.QuantizationError, match=r"is already converted; .* with the adapter"):
        MLXAutoModel.from_pretrained(write_adapter(tmp_path / "adapter", tmp_path / "base", LORA))


@pytest.mark.parametrize("weights_decomposed", [False, True], ids=["plain", "weight-decomposed"])
@pytest.mark.parametrize("model_type", ["jina_embeddings_v3", "nomic_bert", "gte", "modernbert"])
def test_queries_keys_and_values_that_the_file_joins_take_their_own_sums(
    model_type: str, weights_decomposed: bool, tmp_path: Path
) -> None:
    """Adapt every linear layer, as the task adapters of Jina Embeddings do."""
    row = next(row for row in FAMILIES if row.model_type == model_type)
    torch_model, tensors = make_checkpoint(tmp_path / "base", row), {}
    products = {
        name: module
        for name, module in torch_model.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers." in name
    }
    assert len(products) >= 4 * row.config.num_hidden_layers
    for seed, (name, module) in enumerate(products.items()):
        first, second = (
            random_tensor(2, module.in_features, seed=seed),
            random_tensor(module.out_features, 2, seed=1000 + seed),
        )
        tensors |= {f"{name}.lora_A.weight": first * 0.3, f"{name}.lora_B.weight": second * 0.3}
        changed = module.weight.data + 6 / 2 * 0.09 * second @ first
        if weights_decomposed:
            tensors[f"{name}.lora_magnitude_vector"] = random_tensor(module.out_features, seed=2000 + seed)
            sizes = tensors[f"{name}.lora_magnitude_vector"][:, None]
            changed = sizes * changed / changed.norm(dim=1, keepdim=True)
        module.weight.data = changed
    mlx_model = MLXAutoModel.from_pretrained(write_adapter(tmp_path / "adapter", tmp_path / "base", tensors, r=2))
    inputs = ragged_inputs(row)
    with torch.no_grad():
        expected = torch_model(
            **{name: torch.tensor(array) for name, array in inputs.items()}
        ).last_hidden_state.numpy()
    assert max_difference(output_array(mlx_model, inputs, "last_hidden_state"), expected, inputs) < ABSOLUTE


def test_a_sum_of_other_rows_than_a_third_of_a_joined_tensor_is_refused(tmp_path: Path) -> None:
    row = next(row for row in FAMILIES if row.model_type == "nomic_bert")
    make_checkpoint(tmp_path / "base", row)
    name = "layers.0.self_attn.q_proj"
    wrong = {
        f"{name}.lora_A.weight": random_tensor(4, row.config.hidden_size),
        f"{name}.lora_B.weight": random_tensor(10, 4),
    }
    with pytest.raises(errors.WeightsError, match=r"adds \(10, \d+\) to .*(?i:qkv).*the model that it was trained on"):
        MLXAutoModel.from_pretrained(write_adapter(tmp_path / "adapter", tmp_path / "base", wrong))
