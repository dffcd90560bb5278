"""Chat templates: conversations rendered as one text by the Jinja template of a repo, in a sandbox with limits.

Reference: transformers/utils/chat_template_utils.py, whose environment has the same options, filters and globals. A
template is a program from the Hub: here it can neither run for long nor fill the memory.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from mlx_hf_bridge.errors import BackendError, ConfigError
from mlx_hf_bridge.inference.template_limits import Budget

Message = Mapping[str, Any]

_budget: ContextVar[Budget] = ContextVar("budget")
# Before this version the sandbox is known to be escapable; transformers asks for it too.
_JINJA = (3, 1, 6)


def render_chat(template: str, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> str:
    """Return a conversation as the text that a chat template makes of it.

    Args:
        template: The Jinja source.
        messages: The conversation, dicts with "role" and "content", of plain Python types.
        variables: Further variables of the template. Default: None.

    Returns:
        The text.

    Raises:
        BackendError: If jinja2 is not installed, or too old to be safe.
        ConfigError: If the template is not valid, raises an error, or takes too long or too much memory.
    """
    names = {"tools": None, "documents": None, "add_generation_prompt": False, **(variables or {})}
    # Bounded by the inputs, of which a template makes several copies.
    token = _budget.set(Budget(time.monotonic(), _size([*messages, names])))
    try:
        compiled = _compile(template)
        return "".join(_counted(compiled.generate(messages=[dict(one) for one in messages], **names)))
    except BackendError:
        raise
    # What a program may raise, RecursionError and MemoryError among it.
    except Exception as error:
        raise ConfigError(
            f"the chat template cannot be rendered ({type(error).__name__}: {error!s:.300}). Take the original file, "
            "or set another template (chat_template)."
        ) from error
    finally:
        _budget.reset(token)


@lru_cache(maxsize=64)
def template_variables(template: str) -> frozenset[str]:
    """Return the names of the variables that a chat template reads.

    Args:
        template: The Jinja source.

    Returns:
        The names that it does not set itself; none for a template that is not valid.
    """
    from jinja2 import meta

    try:
        return frozenset(meta.find_undeclared_variables(_compile(template).environment.parse(template)))
    except BackendError:
        raise
    except Exception:  # as above; rendering reports it
        return frozenset()


@lru_cache(maxsize=64)
def _compile(template: str) -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise BackendError(
            "this model reads texts through a chat template, which needs jinja2. Run `pip install 'jinja2>=3.1.6'`."
        ) from error
    if tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdigit()) < _JINJA:
        raise BackendError(
            f"chat templates need jinja2 3.1.6 or newer, whose sandbox is safe, and {jinja2.__version__} is installed. "
            "Run `pip install -U jinja2`."
        )
    return _environment().from_string(template)


@lru_cache(maxsize=1)
def _environment() -> Any:
    """Return the environment of all templates; each rendering has a budget of its own in `_budget`."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what an assistant wrote; only training reads it."""

        tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    class Environment(ImmutableSandboxedEnvironment):
        """The sandbox, in which loops, calls, filters and operators draw on the budget."""

        intercepted_binops = frozenset(("+", "*", "**", "%"))

        def _parse(self, source: str, name: Any, filename: Any) -> Any:
            tree = super()._parse(source, name, filename)
            for loop in list(tree.find_all(nodes.For)):
                # Both the body and the condition of a loop, which may leave out every item.
                loop.body.insert(0, nodes.ExprStmt(_call("step"), lineno=loop.lineno))
                if loop.test is not None:
                    loop.test = nodes.And(_call("step"), loop.test)
            _count_values(tree)
            return tree.set_environment(self)

        def step(self) -> bool:
            return True  # counted as every call is

        def joined(self, *parts: Any) -> str:
            return "".join(_counted(str(part) for part in parts))

        def collected(self, container: Any) -> Any:
            return container  # counted as the arguments of every call are

        @staticmethod
        def concat(parts: Any) -> str:
            return "".join(_counted(parts))

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
            sandboxed = partial(super().call, __context, __obj)
            return _budget.get().run(sandboxed, __obj, args, kwargs)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _budget.get().check_operator(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def wrap_str_format(self, value: Any) -> Any:
            wrapped = super().wrap_str_format(value)
            return None if wrapped is None else _budget.get().limit_format(value.__self__, wrapped)

    def _call(name: str, arguments: Sequence[Any] = ()) -> Any:
        return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)

    def _count_values(node: Any) -> None:
        """Make a call of what no method of an environment computes: a ~ b, and lists, tuples and dicts of values."""
        for name, value in list(node.iter_fields()):
            children = value if isinstance(value, list) else [value]
            for index, child in enumerate(children):
                if not isinstance(child, nodes.Node):
                    continue
                _count_values(child)
                if isinstance(child, nodes.Concat):
                    new = _call("joined", child.nodes)
                # A tuple may be a target of assignments too.
                elif (
                    isinstance(child, (nodes.List, nodes.Dict, nodes.Tuple)) and getattr(child, "ctx", "load") == "load"
                ):
                    new = _call("collected", [child])
                else:
                    continue
                new.set_lineno(child.lineno)
                if isinstance(value, list):
                    value[index] = new
                else:
                    setattr(node, name, new)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters.update({name: _limited(name, one) for name, one in environment.filters.items()})
    environment.filters["tojson"] = _limited("tojson", _tojson)
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_Dict(), namespace=_namespace(jinja2)
    )
    # Random text, of any length.
    del environment.globals["lipsum"]
    return environment


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that draws on the budget; jinja2's marks of what it is passed stay."""
    passed = int(hasattr(function, "jinja_pass_arg"))

    def limited(*args: Any, **kwargs: Any) -> Any:
        return _budget.get().filter(name, function, args[:passed], args[passed:], kwargs)

    if passed:
        limited.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return limited


def _counted(parts: Any) -> Any:
    """Yield texts, each of which counts."""
    for part in parts:
        _budget.get().spend(len(part))
        yield part


def _size(value: Any) -> int:
    """Return the number of characters and items of plain data."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(item) for pair in value.items() for item in pair)
    return 1 + sum(map(_size, value)) if isinstance(value, (list, tuple)) else 1


# transformers' own additions to Jinja, by its names.


def _raise_exception(message: Any) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


class _Dict:
    """`dict` of templates: neither its attributes nor its type lead further."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def _namespace(jinja2: Any) -> type:
    class Namespace(jinja2.utils.Namespace):  # type: ignore[misc]
        """`namespace` of templates, which takes no names with an underscore in front."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, *rest = args  # as jinja2's own, so that namespace(self=...) works
            values = dict(*rest, **kwargs)
            for name in values:
                _check_name(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

        def __repr__(self) -> str:
            return "<Namespace>"  # namespaces may hold each other

    def _check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"chat templates cannot set {name!r} on a namespace.")

    return Namespace
