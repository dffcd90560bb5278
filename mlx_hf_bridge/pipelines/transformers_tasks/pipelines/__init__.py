"""A package extended into the transformers/pipelines folder: `base` is this project's, the rest transformers' own."""

from importlib.util import find_spec
from pathlib import Path

_spec = find_spec("transformers")  # finds the folder without importing transformers
if _spec is not None:
    __path__ += [str(Path(folder, "pipelines")) for folder in _spec.submodule_search_locations or ()]
