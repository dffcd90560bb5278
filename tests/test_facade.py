"""Tests of the facade, an MLX model behind a transformers class: outputs, fallbacks to torch, and errors."""

import copy
import gc
import inspect
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import accelerate
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, Row, make_checkpoint, mlx_class, ragged_inputs, torch_class
from torch import nn

from mlx_hf_bridge.errors import TokenRangeError, UnservedUseError
from mlx_hf_bridge.facade import Facade, facade, fall_back_to_torch
from mlx_hf_bridge.pretrained.arrays import match_array_type
from mlx_hf_bridge.runtime import executor

# float32 rounding of different kernels, as in test_parity.py.
FLOAT32 = 2e-5
IDS = torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def row_of(model_type: str) -> Row:
    """Return the first row of a model type."""
    return next(row for row in FAMILIES if row.model_type == model_type)


class TorchFallback:
    """A `fall_back` callback that records the reasons it is called with."""

    def __init__(self, hf_class: Any, folder: Path) -> None:
        self.hf_class, self.folder = hf_class, folder
        self.reasons: list[str] = []

    def __call__(self, reason: str) -> Any:
        self.reasons.append(reason)
        return self.hf_class.from_pretrained(self.folder)


def pair(
    folder: Path, head: str = "Model", model_type: str = "bert", torch_behind: bool = True
) -> tuple[Any, Any, Any]:
    """Return a facade, the torch model of the same checkpoint, and the fallback of the facade."""
    row = row_of(model_type)
    make_checkpoint(folder, row, head, labels=2 if head == "ForQuestionAnswering" else 3)
    hf_class = torch_class(row, head)
    behind = TorchFallback(hf_class, folder)
    bridged = facade(mlx_class(head).from_pretrained(folder), fall_back=behind if torch_behind else None)
    return bridged, hf_class.from_pretrained(folder), behind


def assert_same(actual: Any, expected: Any) -> None:
    """Assert equal classes, fields and dtypes, and values within FLOAT32 at positions that are not padding."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        actual, expected = actual.to_tuple(), expected.to_tuple()
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for mlx_value, torch_value in zip(actual, expected, strict=True):
            assert_same(mlx_value, torch_value)
    else:
        seen = MASK.bool() if expected.shape[:2] == MASK.shape else slice(None)
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual[seen], expected[seen], rtol=1e-4, atol=FLOAT32)


def test_positions_that_a_caller_gives_are_used(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    backwards = torch.arange(IDS.shape[1]).flip(0)[None]
    with torch.no_grad():
        expected = torch_model(IDS, MASK, position_ids=backwards)
        assert_same(bridged(IDS, MASK, position_ids=backwards), expected)
        assert (torch_model(IDS, MASK)[0] - expected[0]).abs().max() > 0.01
    assert behind.reasons == []


@pytest.mark.parametrize(
    ("model_type", "head"),
    [
        ("bert", "Model"),
        ("bert", "ForPreTraining"),
        ("bert", "ForQuestionAnswering"),
        ("distilbert", "ForSequenceClassification"),
        ("roberta", "ForMaskedLM"),
        ("electra", "ForPreTraining"),
        ("modernbert", "ForTokenClassification"),
    ],
)
def test_answers_are_the_transformers_class_s_own(model_type: str, head: str, tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path, head, model_type)
    assert isinstance(bridged, type(torch_model))
    assert (type(bridged).__name__, type(bridged).__module__) == (
        type(torch_model).__name__,
        type(torch_model).__module__,
    )
    assert repr(bridged) == repr(torch_model)
    assert inspect.signature(bridged.forward) == inspect.signature(torch_model.forward)
    assert get_type_hints(bridged.forward) == get_type_hints(torch_model.forward)
    assert bridged.num_parameters() == torch_model.num_parameters()
    with torch.no_grad():
        assert_same(bridged(IDS, MASK), torch_model(IDS, MASK))
        assert_same(
            bridged(input_ids=IDS, attention_mask=MASK, return_dict=False), torch_model(IDS, MASK, return_dict=False)
        )
        assert_same(
            bridged(IDS, attention_mask=MASK, output_hidden_states=True),
            torch_model(IDS, attention_mask=MASK, output_hidden_states=True),
        )
    assert behind.reasons == []


def test_settings_in_the_config_count_as_in_transformers(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    for model in (bridged, torch_model):
        model.config.output_hidden_states = True
    with torch.no_grad():
        assert_same(bridged(IDS, MASK), torch_model(IDS, MASK))
    assert len(bridged(IDS, MASK).hidden_states) == 4
    assert behind.reasons == []


def test_attributes_are_the_torch_model_s(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path, "ForSequenceClassification")
    assert bridged.num_labels == torch_model.num_labels
    assert bridged.name_or_path == torch_model.name_or_path == str(tmp_path)
    assert bridged.base_model_prefix == "bert"
    assert not hasattr(bridged, "hf_device_map")
    assert hasattr(bridged, "resize_token_embeddings")
    with pytest.raises(AttributeError, match="'BertForSequenceClassification' object has no attribute 'clasifier'"):
        _ = bridged.clasifier
    assert behind.reasons == []


def test_making_one_leaves_torch_s_random_numbers_alone(tmp_path: Path) -> None:
    bridged, _, _ = pair(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    facade(bridged.mlx_model)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)


def test_a_change_of_dtype_changes_the_answers_alone(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    exact = torch_model(IDS)[0]
    for change, dtype in (
        (lambda model: model.half(), torch.float16),
        (lambda model: model.to(torch.bfloat16), torch.bfloat16),
        (lambda model: model.to("cpu", dtype=torch.float64), torch.float64),
        (lambda model: nn.Sequential(model).half()[0], torch.float16),
        (lambda model: model.float(), torch.float32),
    ):
        assert change(bridged) is bridged
        assert bridged.dtype == bridged(IDS)[0].dtype == dtype
        torch.testing.assert_close(bridged(IDS)[0].float(), exact, atol=2e-2, rtol=1e-2)
    torch.testing.assert_close(bridged(IDS)[0], exact, atol=FLOAT32, rtol=1e-4)
    assert behind.reasons == []


def test_every_device_is_accepted_and_none_changes_anything(tmp_path: Path) -> None:
    bridged, _, behind = pair(tmp_path)
    assert (
        bridged.to("mps")
        is bridged.to(torch.device("cuda:1"))
        is bridged.cuda()
        is bridged.cpu()
        is bridged.eval()
        is bridged
    )
    assert bridged.device == torch.device("cpu")
    assert behind.reasons == []


def test_a_container_describes_the_torch_model_s_parameters(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    container, wanted = nn.Sequential(bridged, nn.Linear(2, 2)), nn.Sequential(torch_model, nn.Linear(2, 2))

    def described(module: nn.Module) -> list[Any]:
        return [
            (name, one.shape, one.numel(), one.dtype, one.device, one.requires_grad, one.is_floating_point(), one.grad)
            for name, one in module.named_parameters()
        ]

    assert next(container.parameters()).device == torch.device("cpu")
    assert described(container) == described(wanted)
    bridged.requires_grad_(False)
    next(bridged._parameters.values().__iter__()).requires_grad = True
    copied = pickle.loads(pickle.dumps(copy.deepcopy(container.half())))
    assert described(copied) == described(container)
    torch_model.requires_grad_(False)
    next(torch_model.parameters()).requires_grad = True
    assert described(container) == described(wanted.half())
    assert not container.eval().training
    assert behind.reasons == []
    assert type(copied[0]).__mro__[1] is Facade


# What a program does to parameters or modules that a container lists; it changes the outputs.
CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "scaled in a loop": lambda net: [parameter.mul_(0.5) for parameter in net.parameters()],
    "scaled as a list": lambda net: [parameter.mul_(0.5) for parameter in list(net.parameters())],
    "scaled by name": lambda net: [one.mul_(0.5) for name, one in net.named_parameters() if "LayerNorm" in name],
    "new data": lambda net: [setattr(parameter, "data", parameter.data * 0.5) for parameter in net.parameters()],
    "the first alone": lambda net: next(net.parameters()).data.mul_(0.5),
    "copied from others": lambda net: [one.copy_(torch.full(one.shape, 0.1)) for one in net.parameters()],
    "as a vector": lambda net: nn.utils.vector_to_parameters(
        nn.utils.parameters_to_vector(net.parameters()) * 0.5, net.parameters()
    ),
    "initialized": lambda net: [nn.init.constant_(one, 0.1) for one in net.parameters() if one.dim() > 1],
    "foreach": lambda net: torch._foreach_mul_(list(net.parameters()), 0.5),
    "modules patched": lambda net: [
        module.register_forward_hook(lambda module, given, result: result * 2)
        for module in net.modules()
        if isinstance(module, nn.LayerNorm)
    ],
    "modules by name": lambda net: [
        module.weight.mul_(0.5) for name, module in net.named_modules() if name.endswith("LayerNorm")
    ],
    "a function applied": lambda net: net._apply(lambda tensor: tensor * 0.5 if tensor.is_floating_point() else tensor),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_program_changes_through_a_container_counts(change: str, tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    nets = nn.Sequential(bridged).eval(), nn.Sequential(torch_model).eval()
    with torch.no_grad():
        before = nets[0](IDS)[0]
        for net in nets:
            CHANGES[change](net)
        got, wanted = (net(IDS)[0] for net in nets)
    assert not torch.allclose(before, wanted, atol=1e-3)
    torch.testing.assert_close(got, wanted, rtol=0, atol=FLOAT32)
    assert len(behind.reasons) == 1


def test_functional_call_through_a_container(tmp_path: Path) -> None:
    bridged, torch_model, _ = pair(tmp_path)
    weights = {f"0.{name}": parameter.detach() * 0.5 for name, parameter in torch_model.named_parameters()}
    with torch.no_grad():
        got, wanted = (
            torch.func.functional_call(nn.Sequential(model).eval(), weights, (IDS,))[0]
            for model in (bridged, torch_model)
        )
    torch.testing.assert_close(got, wanted, rtol=0, atol=FLOAT32)


def test_a_container_lists_the_torch_model_s_modules_and_buffers(tmp_path: Path) -> None:
    bridged, torch_model, _ = pair(tmp_path / "one")
    nets = nn.Sequential(bridged), nn.Sequential(torch_model)
    assert next(iter(nets[0].modules())) is nets[0]
    assert isinstance(bridged, Facade)
    names = [[(name, type(module)) for name, module in net.named_modules()] for net in nets]
    assert [name for name, _ in names[0]] == [name for name, _ in names[1]]
    assert names[0][3:] == names[1][3:]
    bridged, torch_model, _ = pair(tmp_path / "two")
    buffers = [dict(nn.Sequential(model).named_buffers()) for model in (bridged, torch_model)]
    assert [*buffers[0]] == [*buffers[1]] != []
    bridged, torch_model, _ = pair(tmp_path / "three")
    both = [dict(nn.Sequential(model).named_parameters(remove_duplicate=False)) for model in (bridged, torch_model)]
    torch.testing.assert_close(*both, rtol=0, atol=0)


def test_a_parameter_that_was_listed_is_the_torch_model_s_afterwards(tmp_path: Path) -> None:
    bridged, torch_model, _ = pair(tmp_path)
    listed = dict(nn.Sequential(bridged).named_parameters(prefix="x"))
    bridged(IDS)[0].sum().backward()
    torch_model(IDS)[0].sum().backward()
    for name, parameter in torch_model.named_parameters():
        own = bridged.get_parameter(name)
        assert own is listed[f"x.0.{name}"]
        assert type(own) is nn.Parameter
        torch.testing.assert_close(own.grad, parameter.grad, rtol=1e-4, atol=1e-4)


def test_libraries_that_only_look_at_a_container_leave_it_on_mlx(tmp_path: Path) -> None:
    bridged, _, behind = pair(tmp_path)
    verify: Any = accelerate.Accelerator.verify_device_map
    net = nn.Sequential(bridged)
    assert verify(None, net) is False
    assert not accelerate.utils.other.has_compiled_regions(net)
    assert behind.reasons == []


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda listed: pickle.loads(pickle.dumps(listed))])
def test_copies_of_listed_parameters_have_the_values(copied: Callable[[Any], Any], tmp_path: Path) -> None:
    bridged, torch_model, _ = pair(tmp_path)
    first = next(nn.Sequential(bridged).parameters())
    torch.testing.assert_close(copied(first), next(torch_model.parameters()), rtol=0, atol=0)


def test_an_average_of_models_is_torch_s(tmp_path: Path) -> None:
    bridged, torch_model, _ = pair(tmp_path)
    averages = []
    for model in (bridged, torch_model):
        net = nn.Sequential(model).eval()
        averaged = torch.optim.swa_utils.AveragedModel(net)
        averaged.update_parameters(net)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(0.5)
        averaged.update_parameters(net)
        with torch.no_grad():
            averages.append(averaged.eval()(IDS)[0])
    torch.testing.assert_close(*averages, rtol=0, atol=FLOAT32)


def test_a_hook_of_every_module_is_called_in_the_torch_model(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *call: seen.append(type(module).__name__))
    try:
        with torch.no_grad():
            bridged(IDS)
            first, seen[:] = list(seen), []
            torch_model(IDS)
    finally:
        handle.remove()
    assert behind.reasons == ["hooks of all modules were registered"]
    # The hook was looked up before the model became the torch model.
    assert [name for name in first if name != "BertModel"] == [name for name in seen if name != "BertModel"]


def _under_autocast(model: Any) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model(IDS).pooler_output


def _under_vmap(model: Any) -> torch.Tensor:
    model.set_attn_implementation("eager")  # torch warns of a slow batching rule of its fused attention
    with torch.no_grad():
        return torch.func.vmap(lambda row: model(row[None])[0][0])(IDS)


def _jacobian(model: Any) -> torch.Tensor:
    model.set_attn_implementation("eager")
    vectors = torch.linspace(-1, 1, model.config.hidden_size).expand(1, 2, -1)
    return torch.func.jacrev(lambda embeds: model(inputs_embeds=embeds)[0][0, 0])(vectors)


def _forward_mode(model: Any) -> torch.Tensor:
    model.set_attn_implementation("eager")  # torch's fused attention has no forward mode
    vectors = torch.linspace(-1, 1, model.config.hidden_size).expand(1, 2, -1).clone()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(vectors, torch.ones_like(vectors))
        return torch.autograd.forward_ad.unpack_dual(model(inputs_embeds=dual)[0]).tangent


def _under_a_mode(model: Any) -> torch.Tensor:
    class Rounds(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            return result.round(decimals=2) if function is nn.functional.linear else result

    with torch.no_grad(), Rounds():
        return model(IDS)[0]


# torch builds the formulas of forward mode with torch.jit.script, which it has deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("compute", [_under_autocast, _under_vmap, _jacobian, _forward_mode, _under_a_mode])
def test_state_of_torch_that_changes_its_operations_is_followed(
    compute: Callable[[Any], torch.Tensor], tmp_path: Path
) -> None:
    """Autocast, function transforms and modes apply to the torch model's operations, so the torch model computes."""
    bridged, torch_model, _ = pair(tmp_path)
    expected = compute(torch_model)
    actual = compute(bridged)
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=FLOAT32)


def test_a_default_device_is_no_reason_to_leave_mlx(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    with torch.device("cpu"), torch.no_grad():
        assert_same(bridged(IDS, MASK), torch_model(IDS, MASK))
    assert behind.reasons == []


def test_a_model_that_falls_back_in_inference_mode_can_be_trained_later(tmp_path: Path) -> None:
    bridged, _, _ = pair(tmp_path)
    with torch.inference_mode():
        fall_back_to_torch(bridged, "the test needs it")
    bridged(IDS)[0].sum().backward()
    assert all(parameter.grad is not None for name, parameter in bridged.named_parameters() if "pooler" not in name)


def test_values_of_parameters_without_torch_behind_are_an_error(tmp_path: Path) -> None:
    bridged, torch_model, _ = pair(tmp_path, torch_behind=False)
    net = nn.Sequential(bridged)
    assert sum(one.numel() for one in net.parameters()) == torch_model.num_parameters()
    kept = list(net.parameters())
    uses: list[Callable[[Any], Any]] = [lambda net: kept[0].sum(), lambda net: list(net.modules())]
    for use in uses:
        with pytest.raises(UnservedUseError, match=r"for inference only, and .* Load the model with"):
            use(net)
    del net, bridged
    gc.collect()
    with pytest.raises(UnservedUseError, match="kept beyond its model"):
        kept[0].sum()


def test_compiling_changes_nothing(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    bridged.compile()
    compiled = torch.compile(nn.Sequential(bridged), backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(IDS)[0], torch_model(IDS)[0], atol=FLOAT32, rtol=1e-4)
    assert behind.reasons == []


def hook(*arguments: Any) -> None:
    """Do nothing, as a forward hook."""


# name -> (use that needs the torch model, reason that is logged).
USES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "parameters": (lambda model: list(model.parameters()), "parameters() was called"),
    "named_parameters": (lambda model: dict(model.named_parameters()), "named_parameters() was called"),
    "state_dict": (lambda model: model.state_dict(), "state_dict() was called"),
    "container's state_dict": (lambda model: nn.Sequential(model).state_dict(), "state_dict() was called"),
    "modules": (lambda model: list(model.modules()), "modules() was called"),
    "named_modules": (lambda model: list(model.named_modules()), "its submodules were requested"),
    "hook": (lambda model: model.register_forward_hook(hook), "register_forward_hook() was called"),
    "submodule": (lambda model: model.embeddings, "its attribute 'embeddings' was requested"),
    "input embeddings": (lambda model: model.get_input_embeddings(), "get_input_embeddings() was called"),
    "resizing": (lambda model: model.resize_token_embeddings(105), "resize_token_embeddings() was called"),
    "replacing": (lambda model: setattr(model, "pooler", nn.Identity()), "its attribute 'pooler' was set"),
    "an argument": (
        lambda model: model(IDS, encoder_hidden_states=torch.zeros(2, 4, 24)),
        "forward was given encoder_hidden_states",
    ),
    "a mask of no numbers": (
        lambda model: model(IDS, torch.full((2, 4), torch.nan)),
        "MLX does not support the call (attention_mask contains NaN",
    ),
    "a gradient of the inputs": (
        lambda model: model(inputs_embeds=torch.zeros(1, 2, 24, requires_grad=True)),
        "inputs_embeds requires a gradient",
    ),
}


@pytest.mark.parametrize("use", USES)
def test_what_only_torch_serves_goes_to_torch_once_and_for_good(use: str, tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    forward, served = bridged.forward, bridged.state_dict
    bridged.note = "kept"
    bridged.name_or_path = "renamed"
    act, reason = USES[use]
    act(bridged)
    assert len(behind.reasons) == 1
    assert behind.reasons[0].startswith(reason)
    assert type(bridged) is type(torch_model)
    assert (bridged.note, bridged.name_or_path) == ("kept", "renamed")
    if use not in ("resizing", "replacing"):
        with torch.no_grad():
            assert_same(bridged(IDS, MASK), torch_model(IDS, MASK))
            assert_same(forward(IDS, MASK), torch_model(IDS, MASK))
        assert {name: value.shape for name, value in served().items()} == {
            name: value.shape for name, value in torch_model.state_dict().items()
        }
    fall_back_to_torch(bridged, "nothing is left to leave")
    assert len(behind.reasons) == 1


@pytest.mark.parametrize("use", [use for use in USES if "mask" not in use])
def test_without_torch_behind_it_is_an_error_that_says_what_to_do(use: str, tmp_path: Path) -> None:
    bridged, torch_model, _ = pair(tmp_path, torch_behind=False)
    act, _ = USES[use]
    with pytest.raises(UnservedUseError, match=r"computed by MLX, for inference only, and .* Load the model with"):
        act(bridged)
    with torch.no_grad():
        assert_same(bridged(IDS, MASK), torch_model(IDS, MASK))


def test_a_forked_child_goes_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    bridged(IDS)
    monkeypatch.setattr(executor, "_process", -1)
    with torch.no_grad():
        assert_same(bridged(IDS, MASK), torch_model(IDS, MASK))
    assert behind.reasons[0].startswith("MLX does not support the call (MLX was used before this process was forked")


def test_a_container_takes_and_gives_weights(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    with torch.no_grad():
        torch_model.embeddings.word_embeddings.weight.mul_(2)
    nn.Sequential(bridged).load_state_dict(nn.Sequential(torch_model).state_dict())
    assert behind.reasons == ["load_state_dict() was called"]
    torch.testing.assert_close(bridged(IDS)[0], torch_model(IDS)[0], rtol=0, atol=0)


def test_training_goes_to_torch_or_says_what_to_do(tmp_path: Path) -> None:
    bridged, _, behind = pair(tmp_path / "with")
    assert bridged.train().training
    assert behind.reasons == ["train() was called"]
    alone, _, _ = pair(tmp_path / "without", torch_behind=False)
    with pytest.raises(UnservedUseError, match="and forward was called in training mode"):
        alone.train()(IDS)
    assert alone.eval()(IDS)[0].shape == (2, 4, 24)


def test_a_gradient_that_is_asked_for_later_is_torch_s(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path, "ForSequenceClassification")
    answers = [model(IDS, MASK).logits for model in (bridged, torch_model)]
    assert all(answer.requires_grad for answer in answers)
    assert behind.reasons == []
    for answer in answers:
        answer[:, 1].sum().backward()
    assert behind.reasons == ["a gradient was requested"]
    gradients = [model.bert.embeddings.word_embeddings.weight.grad for model in (bridged, torch_model)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_answers_ask_for_no_gradient_where_transformers_would_not(tmp_path: Path) -> None:
    bridged, _, _ = pair(tmp_path)
    assert not bridged.requires_grad_(False)(IDS)[0].requires_grad
    bridged.requires_grad_(True)
    with torch.inference_mode():
        assert not bridged(IDS)[0].requires_grad


def test_the_torch_model_takes_over_what_was_set(tmp_path: Path) -> None:
    bridged, _, _ = pair(tmp_path)
    bridged.half().requires_grad_(False)
    bridged.config.output_hidden_states = True
    config = bridged.config
    fall_back_to_torch(bridged, "of this test")
    assert {parameter.dtype for parameter in bridged.parameters()} == {torch.float16}
    assert not any(parameter.requires_grad for parameter in bridged.parameters())
    assert bridged.config is bridged.encoder.layer[0].attention.self.config is config
    assert len(bridged(IDS).hidden_states) == 4


def answer_of(model: Any) -> np.ndarray:
    """Return the first output of a model."""
    with torch.no_grad():
        return np.asarray(model(IDS, MASK)[0])


@pytest.mark.slow
def test_copies_pickles_and_spawned_workers_answer_the_same(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    bridged.half().requires_grad_(False)
    bridged.note = [1]
    expected = answer_of(bridged)
    again = copy.deepcopy(bridged)
    assert again.mlx_model is bridged.mlx_model
    assert again.config is not bridged.config
    for model in (again, pickle.loads(pickle.dumps(bridged)), copy.deepcopy(nn.Sequential(bridged))[0]):
        np.testing.assert_array_equal(answer_of(model), expected)
        assert isinstance(model, type(torch_model))
        assert model.note == [1]
        assert model.note is not bridged.note
        assert not model(IDS)[0].requires_grad
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(answer_of, (bridged,)), expected)
    assert behind.reasons == []


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_a_saved_one_loads_in_transformers(head: str, tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path / "made", head)
    bridged.save_pretrained(tmp_path / "saved", safe_serialization=True)
    again = type(torch_model).from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert_same(again(IDS, MASK), torch_model(IDS, MASK))
    assert again.config.architectures == [type(torch_model).__name__]
    assert behind.reasons == []


@pytest.mark.parametrize("options", [{"max_shard_size": "10kB"}, {"state_dict": None}, {}])
def test_saving_otherwise_is_torch_s(options: dict[str, Any], tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path / "made")
    if not options:
        bridged.half()
    bridged.save_pretrained(tmp_path / "saved", **options)
    assert len(behind.reasons) == 1
    assert behind.reasons[0].startswith("save_pretrained() was called")
    again = type(torch_model).from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(IDS)[0].float(), torch_model(IDS)[0], atol=2e-2, rtol=1e-2)


def test_a_packed_one_is_saved_in_mlx_s_storage(tmp_path: Path) -> None:
    row = row_of("bert")
    config = type(row.config).from_dict({**row.config.to_dict(), **row.wide})
    wide = Row(row.model_type, row.classes, config, token_types=3)
    make_checkpoint(tmp_path / "made", wide)
    packed = mlx_class("Model").from_pretrained(tmp_path / "made", quantization_config="q8")
    bridged = facade(packed)
    assert not hasattr(bridged.config, "quantization_config")
    bridged.save_pretrained(tmp_path / "saved")
    again = facade(mlx_class("Model").from_pretrained(tmp_path / "saved"))
    np.testing.assert_array_equal(answer_of(again), answer_of(bridged))
    behind = TorchFallback(transformers.BertModel, tmp_path / "made")
    facade(packed, fall_back=behind).save_pretrained(tmp_path / "float")
    assert behind.reasons == ["save_pretrained() was called"]
    assert_same(
        transformers.BertModel.from_pretrained(tmp_path / "float")(IDS, MASK),
        transformers.BertModel.from_pretrained(tmp_path / "made")(IDS, MASK),
    )


def test_ids_outside_the_tables_are_an_error_as_on_torch(tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path)
    outside = torch.tensor([[1, 500, 2]])
    with pytest.raises(IndexError):
        torch_model(outside)
    with pytest.raises(TokenRangeError, match="500"):
        bridged(outside)
    assert behind.reasons == []


@pytest.mark.parametrize(("model_type", "name"), [("distilbert", "token_type_ids"), ("fnet", "attention_mask")])
def test_what_a_family_ignores_is_ignored(model_type: str, name: str, tmp_path: Path) -> None:
    bridged, torch_model, behind = pair(tmp_path, "Model", model_type)
    with torch.no_grad():
        assert_same(bridged(input_ids=IDS, **{name: MASK}), torch_model(input_ids=IDS, **{name: MASK}))
    assert behind.reasons == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_answers_reach_torch_without_a_copy(dtype: str) -> None:
    import mlx.core as mx

    result = mx.arange(6).reshape(2, 3).astype(getattr(mx, dtype))
    mx.eval(result)
    tensor = match_array_type(result, IDS)
    assert tensor.dtype == getattr(torch, dtype)
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 5]]
    if dtype != "bfloat16":
        assert np.shares_memory(np.array(result, copy=False), tensor.numpy())


def test_calls_are_told_their_seconds(tmp_path: Path) -> None:
    bridged, _, _ = pair(tmp_path)
    told: list[float] = []
    timed = facade(bridged.mlx_model, on_call=told.append)
    timed(IDS)
    timed(IDS)
    assert len(told) == 2
    assert all(seconds > 0 for seconds in told)


def test_real_inputs_of_every_length_agree(tmp_path: Path) -> None:
    row = row_of("bert")
    bridged, torch_model, _ = pair(tmp_path)
    inputs = {name: torch.from_numpy(value) for name, value in ragged_inputs(row).items()}
    seen = inputs["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(bridged(**inputs)[0][seen], torch_model(**inputs)[0][seen], atol=FLOAT32, rtol=1e-4)
