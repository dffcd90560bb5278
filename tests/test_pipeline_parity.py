"""Every call in pipeline_calls.py gives equal results from our pipeline and transformers' on MLX and on torch."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_calls import CALLS, ERRORS, FILL
from subprocesses import run_python
from three_pipelines import HEADS, ThreePipelines, assert_same, build_three_pipelines

from mlx_hf_bridge import errors

# transformers warns about max_length combined with padding, and about aggregation without a subword prefix.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`max_length` is ignored"),
    pytest.mark.filterwarnings("ignore:Tokenizer does not support real words"),
]


@pytest.fixture(
    scope="module",
    params=[
        "bert",
        "roberta",
        *(pytest.param(family, marks=pytest.mark.slow) for family in ("distilbert", "xlm-roberta")),
    ],
)
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreePipelines]:
    yield from build_three_pipelines(request.param, tuple(HEADS), tmp_path_factory)


def test_the_suite_is_large_enough() -> None:
    assert len(CALLS) + len(ERRORS) >= 200


@pytest.mark.parametrize(("task", "name"), CALLS)
def test_the_three_pipelines_answer_the_same(three: ThreePipelines, task: str, name: str) -> None:
    expected = CALLS[task, name](three.torch[task])
    assert_same(CALLS[task, name](three.mlx[task]), expected)
    assert_same(CALLS[task, name](three.transformers_on_mlx[task]), expected)


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_of_transformers_type_and_say_what_to_do(three: ThreePipelines, name: str) -> None:
    task, call, kind, message = ERRORS[name]
    with pytest.raises(kind) as torch_error:
        call(three.torch[task])
    with pytest.raises(type(torch_error.value)):
        call(three.transformers_on_mlx[task])
    with pytest.raises(errors.BridgeError) as mlx_error:
        call(three.mlx[task])
    assert isinstance(mlx_error.value, type(torch_error.value))
    assert message in str(mlx_error.value)
    assert not str(mlx_error.value).startswith(("'", '"'))


WITHOUT_TORCH = """
import pickle, sys, warnings
from importlib.machinery import ModuleSpec

class Blocked:
    # Found, as where it is installed, but never loaded.
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "torch" else None

    def create_module(self, spec):
        raise ImportError(f"{spec.name} is blocked")

    def exec_module(self, module):
        pass

if sys.argv[1] == "blocked":
    sys.meta_path.insert(0, Blocked())
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[4])
import mlx_hf_bridge, mlx_hf_bridge.errors
from pipeline_calls import CALLS, ERRORS

def outcome(call, pipe):
    try:
        return call(pipe)
    except mlx_hf_bridge.errors.BridgeError as error:
        return type(error).__name__

with open(sys.argv[2], "rb") as file:
    folders = pickle.load(file)
pipes = {task: mlx_hf_bridge.pipeline(task, folder) for task, folder in folders.items()}
answers = {key: call(pipes[key[0]]) for key, call in CALLS.items()}
answers |= {name: outcome(call, pipes[task]) for name, (task, call, _, _) in ERRORS.items()}
assert "torch" not in sys.modules
with open(sys.argv[3], "wb") as file:
    pickle.dump(answers, file)
"""


@pytest.mark.slow
@pytest.mark.parametrize("three", ["bert", "roberta"], indirect=True)
def test_the_same_calls_without_torch_give_the_same_answers(three: ThreePipelines, tmp_path: Path) -> None:
    """With `installed`, torch is available but never imported; with `blocked`, importing it raises."""
    torch = "installed" if three.family == "bert" else "blocked"
    folders, answers = tmp_path / "folders", tmp_path / "answers"
    folders.write_bytes(pickle.dumps({task: str(folder) for task, folder in three.folders.items()}))
    run_python(WITHOUT_TORCH, torch, folders, answers, Path(__file__).parent)
    found = pickle.loads(answers.read_bytes())
    for (task, name), call in CALLS.items():
        assert_same(found[task, name], call(three.mlx[task]))
    for name, (task, call, _, _) in ERRORS.items():
        with pytest.raises(errors.BridgeError) as mlx_error:
            call(three.mlx[task])
        assert found[name] == type(mlx_error.value).__name__


def test_fill_mask_raises_transformers_own_exception(three: ThreePipelines) -> None:
    from transformers.pipelines import PipelineException

    with pytest.raises(PipelineException, match="No mask_token") as mlx_error:
        three.mlx[FILL]("the cat")
    assert isinstance(mlx_error.value, errors.MaskError)
