"""The targets by name, in the order in which they run; each is imported when it is used."""

import importlib
from pathlib import Path
from random import Random

from fuzz.targets.base import Run, Target

# The file of each target, with how many executions it gets in proportion to others: more where one takes less time.
_ROOMS: dict[str, dict[str, int]] = {
    "weight_files": {
        "safetensors": 150, "shard-index": 150, "torch-pickle": 60, "torch-file": 100, "static-embedding": 50
    },
    "graphs": {"graph": 20, "graph-run": 10},
    "configs": {"config": 30, "config-build": 3, "adapter": 150, "card": 20, "models-yaml": 15, "gliner-config": 5},
    "modules": {"modules": 15, "module-config": 20, "transformer-settings": 100, "prompts": 120},
    "tokenizers": {"tokenizer": 15, "tokenizer-build": 2},
    "templates": {"chat-template": 15, "chat-template-forms": 30},
    "models": {"sentence-model": 4, "converted-model": 3},
}  # fmt: skip
SHARES = {name: share for shares in _ROOMS.values() for name, share in shares.items()}
NAMES = tuple(SHARES)
TOGETHER = "together"


def find_target(name: str) -> Target:
    """Return the target of a name, of `NAMES` or `TOGETHER`."""
    if name == TOGETHER:
        return _together()
    room = next(room for room, names in _ROOMS.items() if name in names)
    module = importlib.import_module(f"fuzz.targets.{room}")
    return next(target for target in module.TARGETS if target.name == name)


def _together() -> Target:
    """Return all targets as one: the first byte of an input is the number of its target."""
    targets = [find_target(name) for name in NAMES]

    def prepare(folder: Path) -> Run:
        runs = []
        for target in targets:
            (folder / target.name).mkdir()
            runs.append(target.prepare(folder / target.name))
        return lambda data: runs[data[0] % len(runs)](data[1:]) if data else None

    def mutate(data: bytes, random: Random) -> bytes | None:
        changed = targets[data[0] % len(targets)].mutate(data[1:], random) if data else None
        return None if changed is None else data[:1] + changed

    seeds = [bytes([number]) + seed for number, target in enumerate(targets) for seed in target.seeds[:20]]
    return Target(TOGETHER, "every reader, in one process", prepare, seeds, mutate)
