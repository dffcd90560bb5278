"""`mlx-hf-bridge cache`: list, verify, prune and remove the converted models in the cache."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from mlx_hf_bridge.cache import CachedModel, CacheInfo, Leftover, Removal, remove, scan_cache, verify
from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.cli.console import print_error, show, show_json
from mlx_hf_bridge.errors import InputError, RepositoryError

_FAILED = 1
_UNITS = (("year", 31536000), ("month", 2592000), ("day", 86400), ("hour", 3600), ("minute", 60))
_Item = CachedModel | Leftover


def run(args: argparse.Namespace) -> int:
    """Run the action that the arguments name and return the exit code."""
    actions: dict[str, Callable[[argparse.Namespace, CacheInfo], int]] = {
        "list": _list, "ls": _list, "verify": _verify, "prune": _prune, "remove": _remove, "rm": _remove,
    }  # fmt: skip
    return actions[args.action](args, scan_cache())


def _list(args: argparse.Namespace, found: CacheInfo) -> int:
    keys: dict[str, Callable[[CachedModel], Any]] = {
        "name": lambda model: (model.source or "", model.recipe or ""),
        "size": lambda model: -model.size,
        "created": lambda model: -model.created,
        "used": lambda model: model.unused_days(),
    }
    models = sorted(found.models, key=keys[args.sort])
    if args.json:
        show_json(
            {
                "cache": str(found.folder),
                "size": found.size,
                "models": [_facts(model) for model in models],
                "leftovers": [_facts(item) for item in found.leftovers],
            }
        )
        return 0
    _print(str(found.folder), "", *(line for model in models for line in _lines(model)))
    show(f"{len(models)} {_plural('model', len(models))}, {_size(sum(model.size for model in models))}")
    if notes := [f"{model.id}: {reason}" for model in models for reason in model.reasons]:
        _print("", *notes)
    if prunable := found.prunable():
        show("", f"`mlx-hf-bridge cache prune` would free {_size(sum(item.size for item in prunable))}.")
    return 0


def _lines(model: CachedModel) -> list[str]:
    """Return what a listing shows of a model: lines that can be copied, whatever the width of the terminal."""
    used = "in use now" if model.in_use else f"used {_age(model.last_used)}"
    facts = (model.recipe or "?", _size(model.size), f"created {_age(model.created)}", used, model.state)
    return [_source(model), f"  {', '.join(facts)}", f"  {model.id}", ""]


def _verify(args: argparse.Namespace, found: CacheInfo) -> int:
    models, missing = _chosen(found, args.target, args.recipe) if args.target else (_all(found, args.recipe), [])
    damaged = {model: damage for model in models if (damage := verify(model))}
    fixed = remove(damaged) if args.fix else Removal((), ())
    if args.json:
        document = [
            {
                **_facts(model),
                "damage": [{"file": item.file, "what": item.what} for item in damaged.get(model, ())],
                "removed": model in fixed.removed,
            }
            for model in models
        ]
        show_json({"models": document, "missing": missing})
    else:
        for model in models:
            what = [f"  {item}" for item in damaged.get(model, ())]
            _print(f"{_source(model)} ({model.recipe or '?'}, {model.id}): {'DAMAGED' if what else 'ok'}", *what)
        _report(fixed)
        if damaged and not args.fix:
            show(f"{len(damaged)} of {len(models)} damaged. --fix removes them; the next load converts again.")
    return _FAILED if missing or len(damaged) > len(fixed.removed) else 0


def _prune(args: argparse.Namespace, found: CacheInfo) -> int:
    return _delete(args, found.prunable(args.unused_for), [])


def _remove(args: argparse.Namespace, found: CacheInfo) -> int:
    if not args.target:
        return _delete(args, _all(found, args.recipe), [])
    return _delete(args, *_chosen(found, args.target, args.recipe))


def _all(found: CacheInfo, recipe: str | None) -> list[CachedModel]:
    return [model for model in found.models if recipe in (None, model.recipe)]


def _chosen(found: CacheInfo, targets: Iterable[str], recipe: str | None) -> tuple[list[CachedModel], list[str]]:
    """Return the models that the targets name, each once, and the targets that name none."""
    chosen: dict[str, CachedModel] = {}
    missing = []
    for target in targets:
        models = found.find(target, recipe)
        chosen |= {model.id: model for model in models}
        if not models:
            missing.append(target)
            absent = f"not in the cache: {target}{f' in {recipe}' if recipe else ''}"
            print_error(RepositoryError(absent), with_traceback=False)
    return list(chosen.values()), missing


def _delete(args: argparse.Namespace, items: Sequence[_Item], missing: list[str]) -> int:
    """Remove items, after a question if nobody said --yes; nothing with --dry-run."""
    asked, done = sum(item.size for item in items), Removal((), ())
    if not args.json:
        _print(*(f"  {_title(item)}" for item in items), f"{len(items)} to remove, {_size(asked)}")
    if items and not args.dry_run:
        if not (args.yes or _confirm(args.json)):
            return _FAILED
        done = remove(items)
    if args.json:
        show_json(
            {
                "dry_run": args.dry_run,
                "size": asked,
                "items": [_facts(item) for item in items],
                "removed": [_facts(item) for item in done.removed],
                "kept": [{**_facts(item), "reason": reason} for item, reason in done.kept],
                "freed": done.freed,
                "missing": missing,
            }
        )
    elif args.dry_run:
        show("Nothing was removed (--dry-run).")
    else:
        _report(done)
    return _FAILED if done.kept or missing else 0


def _confirm(is_json: bool) -> bool:
    if is_json or sys.stdin is None or not sys.stdin.isatty():
        raise InputError("this removes files, and there is nobody to ask. Pass --yes, or --dry-run to look only.")
    sys.stdout.write("Remove them? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _report(done: Removal) -> None:
    for item, reason in done.kept:
        _print(f"kept {_title(item)}: it {reason}")
    if done.removed:
        show(f"Removed {len(done.removed)}; freed {_size(done.freed)}.")


def _title(item: _Item) -> str:
    if isinstance(item, Leftover):
        return f"{item.path.name} ({item.kind}, {_size(item.size)})"
    return f"{_source(item)} ({item.recipe or '?'}, {_size(item.size)}, {item.state}), {item.id}"


def _source(model: CachedModel) -> str:
    return _plain(f"{model.source or '?'}{f' with {model.adapter}' if model.adapter else ''}")


def _print(*lines: str) -> None:
    show(*(_plain(line) for line in lines))


def _plain(text: str) -> str:
    """Return a text with what a terminal would obey, or cannot show, written out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _facts(item: _Item) -> dict[str, Any]:
    """Return an item for JSON; times in ISO 8601."""
    if isinstance(item, Leftover):
        return {"path": str(item.path), "kind": item.kind, "size": item.size}
    return {
        "id": item.id,
        "folder": str(item.folder),
        "source": item.source,
        "adapter": item.adapter,
        "revision": item.revision,
        "recipe": item.recipe,
        "size": item.size,
        "created": _iso(item.created),
        "last_used": _iso(item.last_used),
        "in_use": item.in_use,
        "state": item.state,
        "reasons": list(item.reasons),
    }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    elapsed = time.time() - seconds
    for unit, length in _UNITS:
        if (count := int(elapsed // length)) >= 1:
            return f"{count} {_plural(unit, count)} ago"
    return "just now"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _size(size: int) -> str:
    return f"{size / MB:.1f} MB"
