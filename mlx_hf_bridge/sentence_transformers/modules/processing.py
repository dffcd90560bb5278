"""`processing_kwargs`: the tokenizer arguments of a call, as far as they change its result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_hf_bridge.errors import InputError

# Arguments about how ids are padded and returned, none of which changes an embedding or score.
_WITHOUT_EFFECT = ("padding", "padding_side", "pad_to_multiple_of", "return_tensors", "return_attention_mask")
_STRATEGIES = ("longest_first", "only_first", "only_second")
_GROUPS = ("common", "text", "audio", "image", "video", "chat_template")


@dataclass(frozen=True)
class TextOptions:
    """How texts are tokenized: the arguments of `Tokenizer.encode`.

    Args:
        max_length: The most tokens of a text, special ones included; None truncates nothing.
        strategy: Which text of a pair is truncated: "longest_first", "only_first" or "only_second".
        add_special_tokens: Whether [CLS], [SEP] and the like are added.
    """

    max_length: int | None
    strategy: str = "longest_first"
    add_special_tokens: bool = True


def resolve_text_options(
    defaults: Mapping[str, Mapping[str, Any]], overrides: Mapping[str, Mapping[str, Any]] | None, max_length: int
) -> TextOptions:
    """Merge the module's `processing_kwargs` with those of a call, which take precedence.

    Args:
        defaults: The module's own, by group ("common", "text").
        overrides: Those of the call, by group; None for none.
        max_length: The length used where neither names one.

    Returns:
        The options to tokenize with.

    Raises:
        InputError: If a group or argument is not known, or `max_length` or `truncation` has no valid value.
    """
    merged: dict[str, Any] = {}
    for kwargs in (defaults, overrides or {}):
        if unknown := [key for key in kwargs if key not in _GROUPS]:
            raise InputError(
                f"processing_kwargs has {unknown}, expected keys of {', '.join(_GROUPS)}. Nest them there."
            )
        merged |= {**kwargs.get("common", {}), **kwargs.get("text", {})}
    length, truncation = merged.pop("max_length", max_length), merged.pop("truncation", True)
    special = merged.pop("add_special_tokens", True)
    if unknown := [key for key in merged if key not in _WITHOUT_EFFECT]:
        raise InputError(
            f"processing_kwargs has {unknown} for texts; supported are max_length, truncation and add_special_tokens. "
            "Leave it out."
        )
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise InputError(f"processing_kwargs has max_length={length!r}, expected an integer of 1 or more.")
    if truncation in (False, None, "do_not_truncate"):
        return TextOptions(None, add_special_tokens=bool(special))
    strategy = "longest_first" if truncation is True else str(truncation)
    if strategy not in _STRATEGIES:
        raise InputError(f"processing_kwargs has truncation={truncation!r}, expected a bool or {_STRATEGIES}.")
    return TextOptions(length, strategy, bool(special))
