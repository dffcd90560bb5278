"""The four encoder classes have sentence-transformers' signatures, except for the listed differences."""

import inspect
import re
from typing import Any

import pytest
import sentence_transformers
from subprocesses import run_python

import mlx_hf_bridge
from mlx_hf_bridge.errors import InputError

CLASSES = ("SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder")

# Added arguments: quantization, dtype, and the handling of texts that are too long.
ADDED = {"__init__": {"quantization_config", "dtype", "overlong"}, "encode": {"overlong"}}
# Arguments with a different default: MLX is the only backend.
OTHER_DEFAULT = {("__init__", "backend")}
# Methods and properties that are not implemented, grouped by reason.
LEFT_OUT = {
    "training": {
        "fit", "old_fit", "smart_batching_collate", "smart_batching_collate_text_only",
        "gradient_checkpointing_enable", "get_sentence_features",
    },
    "PEFT adapters": {
        "active_adapter", "active_adapters", "add_adapter", "check_peft_compatible_model", "delete_adapter",
        "disable_adapters", "enable_adapters", "get_adapter_state_dict", "has_peft_compatible_model", "load_adapter",
        "set_adapter",
    },
    "torch's own": {
        "clear_placement_cache", "module_kwargs",
    },
    "weights of several models": {"merge"},
    "constants of the class": {"model_card_data_class", "SUPPORTED_SIMILARITY_FN_NAMES"},
}  # fmt: skip


def own_names(torch_model: Any) -> set[str]:
    """Return the public names that sentence-transformers defines, without those inherited from torch."""
    bases = [base for base in torch_model.__mro__ if base.__module__.startswith("sentence_transformers")]
    return {name for base in bases for name in vars(base) if not name.startswith("_")}


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_name_is_there_or_listed(name: str) -> None:
    torch_model, mlx_model = getattr(sentence_transformers, name), getattr(mlx_hf_bridge, f"MLX{name}")
    missing = {public for public in own_names(torch_model) if not hasattr(mlx_model, public)}
    assert missing <= set().union(*LEFT_OUT.values())


@pytest.mark.skipif(
    tuple(map(int, sentence_transformers.__version__.split(".")[:2])) < (6, 2),
    reason="the signatures are those of sentence-transformers 6.2",
)
@pytest.mark.parametrize("name", CLASSES)
def test_arguments_their_order_kinds_and_defaults_are_the_same(name: str) -> None:
    torch_model, mlx_model = getattr(sentence_transformers, name), getattr(mlx_hf_bridge, f"MLX{name}")
    methods = [
        public
        for public in own_names(torch_model) | {"__init__"}
        if inspect.isroutine(getattr(mlx_model, public, None))
    ]
    assert len(methods) > 15
    for method in methods:
        expected = inspect.signature(inspect.unwrap(getattr(torch_model, method))).parameters
        actual = inspect.signature(getattr(mlx_model, method)).parameters
        kept = {key: one for key, one in actual.items() if key in expected or key not in ADDED.get(method, ())}
        assert list(kept) == list(expected), method
        for key, parameter in expected.items():
            assert kept[key].kind == parameter.kind, (method, key)
            if (method, key) not in OTHER_DEFAULT:
                assert kept[key].default == parameter.default, (method, key)


@pytest.mark.parametrize("name", CLASSES)
def test_properties_are_properties_and_can_be_set_where_theirs_can(name: str) -> None:
    torch_model, mlx_model = getattr(sentence_transformers, name), getattr(mlx_hf_bridge, f"MLX{name}")
    for public in own_names(torch_model):
        expected = inspect.getattr_static(torch_model, public)
        if not isinstance(expected, property) or not hasattr(mlx_model, public):
            continue
        actual = inspect.getattr_static(mlx_model, public)
        assert isinstance(actual, property), public
        # The config describes the loaded weights, so replacing it would not match them.
        assert (actual.fset is None) == (expected.fset is None) or public == "config", public


@pytest.mark.parametrize("name", CLASSES)
def test_class_checks_by_name_take_our_classes_for_sentence_transformers(name: str) -> None:
    """BERTopic and KeyBERT look for this string in the class before they call isinstance."""
    assert "sentence_transformers" in str(getattr(mlx_hf_bridge, f"MLX{name}"))


@pytest.mark.parametrize("name", CLASSES)
def test_shared_docstrings_describe_every_argument_of_the_complete_signature(name: str) -> None:
    cls = getattr(mlx_hf_bridge, f"MLX{name}")
    methods = [getattr(cls, method, None) for method in ("encode_query", "encode_document", "save_pretrained")]
    for described in (cls, *filter(None, methods)):
        names = [parameter for parameter in inspect.signature(described).parameters if parameter != "self"]
        found = re.findall(r"^    \*{0,2}(\w+): ", described.__doc__.partition("\nArgs:\n")[2], re.MULTILINE)
        assert [one for one in found if one in names] == names, described


def test_arguments_of_a_shared_signature_are_passed_on() -> None:
    calls: list[Any] = []

    class Recorder(mlx_hf_bridge.MLXSentenceTransformer):
        def __init__(self) -> None:
            self.prompts = {"query": "q: ", "passage": "p: "}

        def encode(self, *args: Any, **kwargs: Any) -> None:
            calls.append((args, kwargs))

    Recorder().encode_query("a", None, None, 8, normalize_embeddings=True)
    Recorder().encode_document(["a"], prompt="other")
    Recorder().encode_document(inputs="a")
    assert calls == [
        (("a", "query", None, 8), {"task": "query", "normalize_embeddings": True}),
        ((["a"], None, "other"), {"task": "document"}),
        (("a", "passage", None), {"task": "document"}),
    ]


def test_there_is_one_backend() -> None:
    with pytest.raises(InputError, match="backend='onnx' is not supported: this class computes with MLX"):
        mlx_hf_bridge.MLXSentenceTransformer("any", backend="onnx")


def test_the_classes_import_neither_torch_nor_sentence_transformers() -> None:
    names = ", ".join(f"MLX{name}" for name in CLASSES)
    heavy = ("torch", "sentence_transformers")
    script = f"import sys; from mlx_hf_bridge import {names}; print(set({heavy}) & set(sys.modules))"
    assert run_python(script) == "set()"
