"""Tests of checkpoints whose tensor names or config keys differ from those of transformers 5."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, Row, heads_of, make_model, mlx_class, ragged_inputs, save_model
from weight_files import edit_config, max_difference, output_array, rewrite, write_tensors

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.errors import ConfigError, WeightsError
from mlx_hf_bridge.inference.tokenizer import Tokenizer

# float32 rounding of different kernels, as in test_parity.py.
ABSOLUTE = 2e-5
BY_TYPE = {row.model_type: row for row in reversed(FAMILIES)}
Tensors = dict[str, torch.Tensor]

# Names in transformers -> names on the Hub, from transformers/conversion_mapping.py; not checked against Hub files.
_NOMIC = {
    "nomic_bert.": "",
    "embeddings.LayerNorm": "emb_ln",
    "self_attn.o_proj": "attn.out_proj",
    "post_attention_layernorm": "norm1",
    "post_mlp_layernorm": "norm2",
    "mlp.up_proj": "mlp.fc11",
    "mlp.gate_proj": "mlp.fc12",
    "mlp.down_proj": "mlp.fc2",
    "layers.": "encoder.layers.",
}
_GTE = {
    "gte.": "new.",
    "self_attn.o_proj": "attention.o_proj",
    "post_attention_layernorm": "attn_ln",
    "post_mlp_layernorm": "mlp_ln",
    "lm_head.layer_norm": "lm_head.norm",
    "layers.": "encoder.layer.",
}
_JINA = {
    "embeddings.LayerNorm": "emb_ln",
    "self_attn.o_proj": "mixer.out_proj",
    "post_attention_layernorm": "norm1",
    "post_mlp_layernorm": "norm2",
    "layers.": "encoder.layers.",
}
_QKV = tuple(f"self_attn.{letter}_proj" for letter in "qkv")
_JOINED = {
    "nomic_bert": {"attn.Wqkv": _QKV},
    "gte": {"attention.qkv_proj": _QKV, "mlp.up_gate_proj": ("mlp.up_proj", "mlp.gate_proj")},
    "jina_embeddings_v3": {"mixer.Wqkv": _QKV},
}
_RENAMED = {"nomic_bert": _NOMIC, "gte": _GTE, "jina_embeddings_v3": _JINA}


def as_on_the_hub(model_type: str, tensors: Tensors) -> Tensors:
    """Return a state dict of transformers with the names and fused tensors of the authors' files on the Hub."""
    renamed = dict(tensors)
    for joined, parts in _JOINED[model_type].items():
        for name in [name for name in renamed if parts[0] in name]:
            renamed[name.replace(parts[0], joined)] = torch.cat(
                [renamed.pop(name.replace(parts[0], part)) for part in parts]
            )
    for torch_model, hub in _RENAMED[model_type].items():
        renamed = {name.replace(torch_model, hub): tensor for name, tensor in renamed.items()}
    return renamed


FORMS: dict[str, Callable[[str, Tensors], Tensors]] = {
    "as classes name them": lambda model_type, tensors: tensors,
    "as on the Hub": as_on_the_hub,
    "as on the Hub, with BERT's prefix": lambda model_type, tensors: {
        (name if name.startswith(("cls.", "classifier.")) else f"bert.{name}"): tensor
        for name, tensor in as_on_the_hub(model_type, tensors).items()
    },
}
CASES = [
    pytest.param(model_type, head, form, id=f"{model_type}-{head}-{form}")
    for model_type in _RENAMED
    for head in heads_of(BY_TYPE[model_type])
    for form in FORMS
    if model_type == "nomic_bert" or "prefix" not in form
]


def field(head: str) -> str:
    """Return the name of the output that is compared for a head."""
    return {"Model": "last_hidden_state", "ForQuestionAnswering": "start_logits"}.get(head, "logits")


@pytest.mark.parametrize("recipe", [None, "q8"])
@pytest.mark.parametrize(("model_type", "head", "form"), CASES)
def test_both_forms_of_a_file_load(model_type: str, head: str, form: str, recipe: str | None, tmp_path: Path) -> None:
    row = BY_TYPE[model_type]
    torch_model = make_model(row, head, 2 if head == "ForQuestionAnswering" else 3)
    torch_model.config.save_pretrained(tmp_path)
    write_tensors(tmp_path, FORMS[form](model_type, torch_model.state_dict()))
    mlx_model = mlx_class(head).from_pretrained(tmp_path, quantization_config=recipe)
    inputs = ragged_inputs(row)
    allowed = ABSOLUTE if recipe is None else 0.3
    assert (
        max_difference(*(output_array(model, inputs, field(head)) for model in (mlx_model, torch_model)), inputs)
        < allowed
    )


def test_a_joined_tensor_beside_its_parts_is_refused(tmp_path: Path) -> None:
    torch_model = make_model(BY_TYPE["gte"])
    torch_model.config.save_pretrained(tmp_path)
    both = {**torch_model.state_dict(), **as_on_the_hub("gte", torch_model.state_dict())}
    write_tensors(tmp_path, both)
    with pytest.raises(WeightsError, match="two names of one tensor"):
        MLXAutoModel.from_pretrained(tmp_path)


def hidden_differ(row: Row, torch_model: Any, folder: Path) -> float:
    """Return the largest difference between hidden states of the converted folder and the torch model."""
    inputs = ragged_inputs(row)
    mlx_model = MLXAutoModel.from_pretrained(folder)
    return max_difference(
        *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)), inputs
    )


def test_modernberts_old_keys_are_read(tmp_path: Path) -> None:
    """configuration_modernbert.py still reads configs without layer_types and rope_parameters."""
    row = FAMILIES[[row.model_type for row in FAMILIES].index("modernbert") + 1]
    config = type(row.config).from_dict({**row.config.to_dict(), "rope_parameters": None})
    config.rope_parameters = {
        "full_attention": {"rope_type": "default", "rope_theta": 60.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5.0},
    }
    torch_model = make_model(Row(row.model_type, row.classes, config))
    torch_model.save_pretrained(tmp_path)
    old = {"global_attn_every_n_layers": 2, "global_rope_theta": 60.0, "local_rope_theta": 5.0}
    edit_config(tmp_path, layer_types=..., rope_parameters=..., **old)
    assert hidden_differ(row, torch_model, tmp_path) < ABSOLUTE


def test_nomics_old_keys_are_read(tmp_path: Path) -> None:
    """The authors' code uses the keys of GPT-2; they are written from memory, not checked against a file on the Hub."""
    row = BY_TYPE["nomic_bert"]
    config = type(row.config).from_dict({**row.config.to_dict(), "hidden_act": "silu"})
    torch_model = make_model(Row(row.model_type, row.classes, config))
    torch_model.save_pretrained(tmp_path)
    new = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"]
    new += ["layer_norm_eps", "hidden_act", "rope_parameters", "head_dim"]
    old = {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_inner": 40, "n_positions": 44, "layer_norm_epsilon": 1e-5}
    old |= {"activation_function": "swiglu", "rotary_emb_base": 50.0, "rotary_emb_fraction": 1.0, "prenorm": False}
    edit_config(tmp_path, **dict.fromkeys(new, ...), **old)
    assert hidden_differ(row, torch_model, tmp_path) < ABSOLUTE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_frequencies_of_old_esm_files_are_taken_from_the_first_layer(dtype: torch.dtype, tmp_path: Path) -> None:
    row = BY_TYPE["esm"]
    torch_model = make_model(row)
    torch_model.config.save_pretrained(tmp_path)
    with torch.no_grad():
        torch_model.rotary_embeddings.inv_freq.copy_(torch_model.rotary_embeddings.inv_freq.to(dtype))
    tensors = dict(torch_model.state_dict())
    frequencies = tensors.pop("rotary_embeddings.inv_freq")
    for layer in range(3):
        tensors[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = frequencies
    tensors["esm.embeddings.position_embeddings.weight"] = torch.ones(44, 24)
    write_tensors(tmp_path, {name if name.startswith("esm.") else f"esm.{name}": t for name, t in tensors.items()})
    assert hidden_differ(row, torch_model, tmp_path) < ABSOLUTE


def test_esm_frequencies_stay_exact_beside_bfloat16_weights(tmp_path: Path) -> None:
    row = BY_TYPE["esm"]
    torch_model = save_model(tmp_path, row)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, dtype="bfloat16")
    held = np.array(mlx_model.loaded.model.encoder.rotary.inv_freq)
    np.testing.assert_array_equal(held, torch_model.rotary_embeddings.inv_freq.numpy())


def test_scaled_rotary_positions_of_two_kinds_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, BY_TYPE["modernbert"])
    edit_config(tmp_path, rope_scaling={"type": "linear", "factor": 2.0})
    with pytest.raises(ConfigError, match=r"rope_type='linear' .* supported are 'default' and 1\. Use transformers"):
        MLXAutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("model_type", ["nomic_bert", "gte", "jina_embeddings_v3", "eurobert"])
@pytest.mark.parametrize(
    "keys",
    [
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}},
    ],
    ids=["a key of its own", "in rope_parameters"],
)
def test_a_partial_rotation_is_refused(keys: dict[str, Any], model_type: str, tmp_path: Path) -> None:
    """Rotating all dimensions of each head would silently give different embeddings."""
    save_model(tmp_path, BY_TYPE[model_type])
    edit_config(tmp_path, **keys)
    with pytest.raises(ConfigError, match=r"partial_rotary_factor=0\.5; supported are .* and 1\."):
        MLXAutoModel.from_pretrained(tmp_path)


def test_lora_weights_of_tasks_are_never_dropped_silently(tmp_path: Path) -> None:
    """The authors' files of Jina Embeddings v3 name them as torch.nn.utils.parametrize does."""
    save_model(tmp_path, BY_TYPE["jina_embeddings_v3"])
    name = "roberta.encoder.layers.0.mlp.fc1.parametrizations.weight"
    lora = {f"{name}.0.lora_A": torch.zeros(5, 4, 24), f"{name}.0.lora_B": torch.zeros(5, 40, 4)}
    rewrite(tmp_path, lambda tensors: {**tensors, **lora})
    with pytest.raises(WeightsError, match=r"2 tensors that the model has no parameter for: .*0\.lora_A, .*0\.lora_B"):
        MLXAutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [3, 17])
def test_masked_tokens_of_esm_scale_the_others(attention: str, masked: int, tmp_path: Path) -> None:
    row = BY_TYPE["esm"]
    torch_model = make_model(row)
    torch_model.set_attn_implementation(attention)
    torch_model.save_pretrained(tmp_path)
    mlx_model, inputs = MLXAutoModel.from_pretrained(tmp_path), ragged_inputs(row)
    inputs["input_ids"][:, 1:masked] = row.config.mask_token_id
    kept = {name: array[:1] for name, array in inputs.items()} if masked == 17 else inputs
    assert (
        max_difference(*(output_array(model, kept, "last_hidden_state") for model in (mlx_model, torch_model)), kept)
        < ABSOLUTE
    )


PROTEINS = ["MKTV", "MKT<mask>VLA", "M K JJ TV", "mktv", "", "MJJK-.", "<cls>MK", "M<null_1>K", "Jx<mask>", "MK " * 9]


def test_esms_python_tokenizer_is_written_as_tokenizer_json_with_the_same_answers(tmp_path: Path) -> None:
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    torch_model = transformers.EsmTokenizer.from_pretrained(str(tmp_path), model_max_length=30)
    save_model(tmp_path, BY_TYPE["esm"])
    torch_model.save_pretrained(str(tmp_path))
    folder = MLXAutoModel.from_pretrained(tmp_path).folder
    for mlx_model in (Tokenizer.from_folder(folder, {}), transformers.AutoTokenizer.from_pretrained(folder)):
        for text in PROTEINS:
            actual = mlx_model.encode([text])[0].ids if isinstance(mlx_model, Tokenizer) else mlx_model(text).input_ids
            assert list(actual) == torch_model(text).input_ids, text
    pair = transformers.AutoTokenizer.from_pretrained(folder)("MK", "TV")
    assert dict(pair) == dict(torch_model("MK", "TV"))
