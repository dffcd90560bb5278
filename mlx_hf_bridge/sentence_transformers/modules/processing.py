"""processing_kwargs: how a call's texts are cut, for as much of a tokenizer's arguments as changes the answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_hf_bridge.errors import InputError

# Arguments that say how ids are padded and returned; the answer is the same for all of their values.
_WITHOUT_EFFECT = ("padding", "padding_side", "pad_to_multiple_of", "return_tensors", "return_attention_mask")
_STRATEGIES = ("longest_first", "only_first", "only_second")
_GROUPS = ("common", "text", "audio", "image", "video", "chat_template")


@dataclass(frozen=True)
class TextOptions:
    """The arguments of Tokenizer.encode."""

    max_length: int | None
    strategy: str = "longest_first"
    add_special_tokens: bool = True


def resolve_text_options(
    own: Mapping[str, Mapping[str, Any]], asked: Mapping[str, Mapping[str, Any]] | None, limit: int
) -> TextOptions:
    """The module's own processing_kwargs with those of the call over them -> TextOptions.

    limit: the length where neither has one. InputError for an argument that is not served.
    """
    merged: dict[str, Any] = {}
    for kwargs in (own, asked or {}):
        if unknown := [key for key in kwargs if key not in _GROUPS]:
            raise InputError(
                f"processing_kwargs has {unknown}, expected keys of {', '.join(_GROUPS)}. Nest them there."
            )
        merged |= {**kwargs.get("common", {}), **kwargs.get("text", {})}
    length, truncation = merged.pop("max_length", limit), merged.pop("truncation", True)
    special = merged.pop("add_special_tokens", True)
    if unknown := [key for key in merged if key not in _WITHOUT_EFFECT]:
        raise InputError(
            f"processing_kwargs has {unknown} for texts; served are max_length, truncation and add_special_tokens. "
            "Leave it out."
        )
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise InputError(f"processing_kwargs has max_length={length!r}, expected a whole number of 1 or more.")
    if truncation in (False, None, "do_not_truncate"):
        return TextOptions(None, add_special_tokens=bool(special))
    strategy = "longest_first" if truncation is True else str(truncation)
    if strategy not in _STRATEGIES:
        raise InputError(f"processing_kwargs has truncation={truncation!r}, expected a bool or {_STRATEGIES}.")
    return TextOptions(length, strategy, bool(special))
