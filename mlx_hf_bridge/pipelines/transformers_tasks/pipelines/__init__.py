"""A package that goes on in transformers/pipelines: `base` is ours, the tasks' files are transformers'."""

from importlib.util import find_spec
from pathlib import Path

_spec = find_spec("transformers")  # where it is, without importing it
if _spec is not None:
    __path__ += [str(Path(folder, "pipelines")) for folder in _spec.submodule_search_locations or ()]
