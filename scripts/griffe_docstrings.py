"""Let mkdocstrings read docstrings as `help()` shows them: an extension of griffe that scripts/docs uses.

Methods that share the signature and docstring of another one are completed by decorators when they are imported, so
that reading their source is not enough.
"""

import importlib
import inspect
import re
from typing import Any

import griffe

_COMPLETED_BY = ("shares_docstring", "extends_constructor")
_KINDS = {kind: griffe.ParameterKind(kind.description) for kind in inspect._ParameterKind}


class CompleteDocstrings(griffe.Extension):
    """Replaces docstrings and parameters by those of the imported objects, where a decorator completes them."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Take over what the decorators of a class or method have added, and call examples what griffe calls them."""
        if isinstance(obj, griffe.Class | griffe.Function) and _is_completed(obj):
            _complete(obj)
        if obj.docstring:
            # Google's "Example:" is a note for griffe; "Examples:" is code.
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


def _is_completed(obj: griffe.Class | griffe.Function) -> bool:
    decorators = (str(decorator.value).partition("(")[0] for decorator in obj.decorators)
    return any(name in _COMPLETED_BY for name in decorators)


def _complete(obj: griffe.Class | griffe.Function) -> None:
    module = importlib.import_module(obj.module.path)
    found: Any = module
    for name in obj.path.removeprefix(f"{obj.module.path}.").split("."):
        found = getattr(found, name)
    if obj.docstring:
        obj.docstring.value = inspect.getdoc(found) or ""
    function = obj.members["__init__"] if isinstance(obj, griffe.Class) else obj
    function.parameters = _parameters(found.__init__ if isinstance(obj, griffe.Class) else found)


def _parameters(function: Any) -> griffe.Parameters:
    return griffe.Parameters(
        *(
            griffe.Parameter(
                parameter.name,
                annotation=_annotation(parameter),
                kind=_KINDS[parameter.kind],
                default=None if parameter.default is parameter.empty else repr(parameter.default),
            )
            for parameter in inspect.signature(function).parameters.values()
        )
    )


def _annotation(parameter: inspect.Parameter) -> str | None:
    if parameter.annotation is parameter.empty:
        return None
    # Names without their modules, as the source has them.
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", inspect.formatannotation(parameter.annotation))
