"""Imports go in one direction, each model type has one file, and importing the package is cheap."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from checkpoints import FAMILIES, make_checkpoint
from subprocesses import run_python, start_python, wait_for

import mlx_hf_bridge
from mlx_hf_bridge import errors
from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.models import family_for, model_types
from mlx_hf_bridge.runtime import device
from mlx_hf_bridge.runtime.environment import check_environment

ROOT = Path(mlx_hf_bridge.__file__).parent
# docs/architecture.md: a package imports from itself and earlier ones; within one line, in one direction only.
ORDER = [
    {"errors", "version"},
    {"runtime"},
    {"layers"},
    {"architecture"},
    {"models"},
    {"inference"},
    {"quantization", "tracing"},
    {"checkpoints"},
    {"weights"},
    {"conversion"},
    {"loading"},
    {"pretrained"},
    {"facade", "gliner"},
    {"sentence_transformers", "pipelines"},
    {"corpora"},
    {"verification", "zero_change", "integrations", "cache", "inspection", "selfcheck", "serving", "folder_index"},
    {"cli"},
    {"__main__"},
]
RANKS = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
IMPORT_SECONDS = 0.3
HEAVY = ("torch", "transformers", "sentence_transformers", "huggingface_hub", "tokenizers", "numpy", "tqdm", "yaml")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Without the file that the build writes.
MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py")) if path.name != "_version.py"}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every AST node, including function bodies, except those under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if not is_type_checking(child):
            yield child
            yield from statements(child)


@cache
def imports(module: str) -> frozenset[str]:
    """Return the modules of this package that a module imports anywhere, including inside functions."""
    found = set()
    for node in statements(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in inner}
    return frozenset(name for name in found if name in MODULES) - {module}


def part(module: str) -> str:
    return module.split(".")[1]


INSIDE = [module for module in MODULES if "." in module]


def test_imports_point_one_way() -> None:
    assert {part(module) for module in INSIDE} <= set(RANKS), "a package without a place in ORDER"
    offenders = [
        f"{module} imports {imported}"
        for module in INSIDE
        for imported in sorted(imports(module))
        if imported == "mlx_hf_bridge"
        or (part(imported) != part(module) and RANKS[part(imported)] > RANKS[part(module)])
    ]
    assert offenders == []


def test_no_two_files_import_each_other() -> None:
    TopologicalSorter({module: imports(module) for module in INSIDE}).prepare()
    parts = {part(module): {part(other) for other in imports(module) if "." in other} for module in INSIDE}
    for module in INSIDE:
        parts[part(module)] |= {part(other) for other in imports(module) if "." in other} - {part(module)}
    TopologicalSorter({name: others - {name} for name, others in parts.items()}).prepare()


def test_the_package_itself_imports_only_the_device() -> None:
    assert imports("mlx_hf_bridge") == {
        f"mlx_hf_bridge.{name}" for name in ("errors", "runtime.device", "runtime.interrupts", "version")
    }


def test_layers_know_no_config_no_checkpoint_and_no_network() -> None:
    for module in INSIDE:
        if part(module) == "layers":
            assert {part(imported) for imported in imports(module)} <= {"layers", "runtime", "errors"}


def test_only_device_asks_what_the_machine_is() -> None:
    asking = ("mx.metal", "mx.cuda", "is_available", "default_device", "platform.machine")
    found = {name for name in INSIDE for word in asking if word in MODULES[name].read_text(encoding="utf-8")}
    assert found <= {"mlx_hf_bridge.runtime.device", "mlx_hf_bridge.cli.demo"}, found


def test_every_model_file_is_in_the_table_of_families_and_the_other_way_round() -> None:
    files = {path.stem for path in (ROOT / "models").glob("*.py")} - {"__init__"}
    compared = {model_type for model_type in model_types() if family_for({"model_type": model_type}).in_transformers}
    assert files == {model_type.replace("-", "_") for model_type in model_types()}
    # DPR has an output of its own: test_dpr.py.
    assert {row.model_type for row in FAMILIES} | {"dpr"} == compared
    for model_type in model_types():
        assert family_for({"model_type": model_type}).model_type == model_type


def test_every_public_name_imports_and_is_named_once() -> None:
    assert list(mlx_hf_bridge.__all__) == sorted(set(mlx_hf_bridge.__all__))
    assert set(mlx_hf_bridge.__all__) == {*mlx_hf_bridge._HOMES, *errors.__all__} <= set(dir(mlx_hf_bridge))
    for name in mlx_hf_bridge.__all__:
        value = getattr(mlx_hf_bridge, name)
        assert getattr(value, "__name__", name) == name
        assert value.__doc__
    with pytest.raises(AttributeError, match=r"module 'mlx_hf_bridge' has no attribute 'MLXAutoModle'"):
        _ = mlx_hf_bridge.MLXAutoModle


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    [block] = [node for node in tree.body if is_type_checking(node)]
    homes = {
        alias.name: str(node.module).removeprefix("mlx_hf_bridge.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == mlx_hf_bridge._HOMES


def test_every_module_imports_and_says_what_it_is_for() -> None:
    silent = []
    for module in INSIDE:
        # Modules of integrations/ import a third-party library that the default test environment lacks.
        if part(module) == "integrations":
            text = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))
        elif not module.endswith("__main__"):
            text = importlib.import_module(module).__doc__
        else:
            continue
        if not (text or "").strip():
            silent.append(module)
    assert silent == []


def test_every_error_is_public() -> None:
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert kinds == set(errors.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = f"import sys, mlx_hf_bridge; print([name for name in {HEAVY} if name in sys.modules])"
    assert run_python(script) == "[]"


COST = """
import resource
def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
before = spent()
import mlx_hf_bridge
print(spent() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_importing_the_package_costs_little() -> None:
    assert min(float(run_python(COST)) for _ in range(3)) < IMPORT_SECONDS


def test_importing_the_package_changes_nothing_outside(tmp_path: Path) -> None:
    script = """
import os, warnings, logging
before = dict(os.environ), list(warnings.filters), list(logging.getLogger().handlers)
import mlx_hf_bridge
assert before == (dict(os.environ), list(warnings.filters), list(logging.getLogger().handlers))
"""
    run_python(script, options=("-W", "error"))


BLOCK_MLX = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mlx":
            raise ImportError("libmlx.so: cannot open shared object file")
sys.meta_path.insert(0, Blocker())
try:
    import mlx_hf_bridge
except ImportError as error:
    print(type(error).__name__, error)
"""


def test_a_missing_backend_is_one_error_that_names_the_extra() -> None:
    """Plain `mlx` without its [cpu] extra fails to import on Linux."""
    message = run_python(BLOCK_MLX)
    assert message.startswith("BackendError mlx.core cannot be imported (libmlx.so: cannot open shared object file). ")
    assert "pip install 'mlx-hf-bridge[cpu]' (Linux CPU)" in message
    assert "\n" not in message


on_linux_cpu = pytest.mark.skipif(
    sys.platform != "linux" or device.BACKEND != "cpu", reason="MLX has a BLAS of its own here"
)


@on_linux_cpu
def test_mlx_imported_first_warns_that_products_are_slow() -> None:
    """A BLAS that is loaded after mlx.core has no effect."""
    _, _, stderr = wait_for(start_python("import mlx.core; import mlx_hf_bridge"))
    assert "RuntimeWarning: mlx.core was imported before mlx_hf_bridge" in stderr
    assert "Import mlx_hf_bridge first." in stderr
    assert wait_for(start_python("import mlx_hf_bridge; import mlx.core"))[2] == ""


@on_linux_cpu
@pytest.mark.parametrize("path", ["/no/such/library.so", __file__])
def test_a_blas_that_is_none_is_a_clear_error(path: str) -> None:
    code, _, stderr = wait_for(start_python("import mlx_hf_bridge", MLX_HF_BRIDGE_BLAS=path))
    assert code == 1
    assert f"BackendError: MLX_HF_BRIDGE_BLAS={path!r} is not a library with cblas_sgemm. Give the path" in stderr


@on_linux_cpu
def test_the_blas_variable_chooses_the_library() -> None:
    script = "from mlx_hf_bridge import device; print(device.BLAS)"
    assert device.BLAS is not None, "no OpenBLAS was found"
    assert run_python(script, MLX_HF_BRIDGE_BLAS=device.BLAS) == device.BLAS
    assert run_python(script, options=("-W", "error"), MLX_HF_BRIDGE_BLAS="none") == "None"


CHOICES = "from mlx_hf_bridge import device as d; print(d.STREAMS, d.DEQUANTIZATION_ROWS, d.KEEPS_DEQUANTIZED)"


@on_linux_cpu
@pytest.mark.parametrize(
    ("variables", "printed"),
    [
        ({"MLX_HF_BRIDGE_STREAMS": "3"}, "3 4.0 False"),
        ({"MLX_HF_BRIDGE_STREAMS": "1", "MLX_HF_BRIDGE_UNPACK": "16"}, "1 16.0 False"),
        ({"MLX_HF_BRIDGE_STREAMS": "1", "MLX_HF_BRIDGE_UNPACK": "never"}, "1 inf False"),
        ({"MLX_HF_BRIDGE_STREAMS": "1", "MLX_HF_BRIDGE_UNPACK": "keep"}, "1 0.0 True"),
    ],
)
def test_variables_override_what_was_measured(variables: dict[str, str], printed: str) -> None:
    assert run_python(CHOICES, **variables) == printed


@pytest.mark.parametrize("variable", ["MLX_HF_BRIDGE_STREAMS", "MLX_HF_BRIDGE_UNPACK", "MLX_HF_BRIDGE_FEW_ROWS"])
@pytest.mark.parametrize("value", ["many", "-1", "1.5", "\u0664"])
def test_a_variable_of_another_kind_is_refused(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BackendError, match=re.escape(f"{variable}={value!r}, expected a number")):
        check_environment()
    monkeypatch.setenv(variable, "")
    check_environment()


def test_a_wrong_variable_is_refused_at_import() -> None:
    code, _, stderr = wait_for(start_python(CHOICES, MLX_HF_BRIDGE_FEW_ROWS="x", MLX_HF_BRIDGE_BLAS="none"))
    assert code == 1
    assert "BackendError: MLX_HF_BRIDGE_FEW_ROWS='x', expected a number" in stderr


@on_linux_cpu
def test_float32_products_are_fast() -> None:
    """MLX's own reference BLAS takes some 50 times as long as NumPy's OpenBLAS; the two are timed in turn."""
    script = """
import time
from mlx_hf_bridge.runtime import device
import mlx.core as mx
import numpy as np
x, w = mx.random.normal((512, 768)), mx.random.normal((768, 768))
a, b = np.array(x), np.array(w)
mx.eval(x @ w.T)
times = [], []
for _ in range(7):
    for kept, multiply in zip(times, (lambda: mx.eval(x @ w.T), lambda: a @ b.T)):
        start = time.perf_counter()
        multiply()
        kept.append(time.perf_counter() - start)
print(min(times[0]) / min(times[1]))
"""
    assert float(run_python(script)) < 10


WITHOUT_TORCH = """
import sys
if sys.argv[2] == "blocked":
    sys.modules["torch"] = None
import numpy as np
from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.inference.tokenizer import Tokenizer
model = MLXAutoModel.from_pretrained(sys.argv[1], quantization_config="q8")
tokenizer = Tokenizer.from_folder(model.folder, {})
output = model(np.array([tokenizer.encode(["the cat sat"])[0].ids]), output_hidden_states=True)
assert np.isfinite(output.last_hidden_state).all()
model.save_pretrained(sys.argv[1] + "/saved")
assert MLXAutoModel.from_pretrained(sys.argv[1] + "/saved")([[5, 6]]).last_hidden_state.shape == (1, 2, 24)
print(sys.modules.get("torch"))
"""


@pytest.mark.parametrize(("torch", "weights"), [("installed", "safetensors"), ("blocked", "bin")])
def test_converting_and_running_needs_and_imports_no_torch(torch: str, weights: str, tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path)
    if weights == "bin":
        importlib.import_module("torch").save(torch_model.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    assert run_python(WITHOUT_TORCH, tmp_path, torch) == "None"
