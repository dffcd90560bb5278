"""`processing_kwargs`: the tokenizer arguments of a call, as far as they change its result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_hf_bridge.errors import InputError

# Arguments about how ids are padded and returned, none of which changes an embedding or score.
_WITHOUT_EFFECT = ("padding", "padding_side", "pad_to_multiple_of", "return_tensors", "return_attention_mask")
# How many positions of a causal language model get scores; only the last is read.
_LOGITS_TO_KEEP = "logits_to_keep"
# Arguments of a chat template's call that are about tokens, and those whose result is not read as a text's tokens.
_SIZES = ("padding", "truncation", "max_length", "return_tensors")
_NOT_OF_TEMPLATES = (
    *("continue_final_message", "sanitize_control_tokens", "return_assistant_tokens_mask"),
    *("tokenize", "return_dict", "tokenizer_kwargs", "conversation"),
)
_STRATEGIES = ("longest_first", "only_first", "only_second")
_GROUPS = ("common", "text", "audio", "image", "video", "chat_template")


@dataclass(frozen=True)
class TextOptions:
    """How texts are tokenized: the arguments of `Tokenizer.encode`.

    Args:
        max_length: The most tokens of a text, special ones included; None truncates nothing.
        strategy: Which text of a pair is truncated: "longest_first", "only_first" or "only_second".
        add_special_tokens: Whether [CLS], [SEP] and the like are added.
        chat: Variables of the chat template, with "chat_template" and "restore_suffix".
    """

    max_length: int | None
    strategy: str = "longest_first"
    add_special_tokens: bool = True
    chat: Mapping[str, Any] = field(default_factory=dict)


def resolve_text_options(
    defaults: Mapping[str, Mapping[str, Any]],
    overrides: Mapping[str, Mapping[str, Any]] | None,
    max_length: int,
    is_chat: bool = False,
) -> TextOptions:
    """Merge the module's `processing_kwargs` with those of a call, which take precedence.

    Args:
        defaults: The module's own, by group ("common", "text", "chat_template").
        overrides: Those of the call, by group; None for none.
        max_length: The length used where neither names one.
        is_chat: Whether texts are read through a chat template, which writes the special tokens. Default: False.

    Returns:
        The options to tokenize with.

    Raises:
        InputError: If a group or argument is not known, or `max_length` or `truncation` has no valid value.
    """
    merged: dict[str, Any] = {}
    chat: dict[str, Any] = {}
    for kwargs in (defaults, overrides or {}):
        if unknown := [key for key in kwargs if key not in _GROUPS]:
            raise InputError(
                f"processing_kwargs has {unknown}, expected keys of {', '.join(_GROUPS)}. Nest them there."
            )
        merged |= {**kwargs.get("common", {}), **kwargs.get("text", {})}
        chat |= kwargs.get("chat_template", {}) if is_chat else {}
    merged |= {key: chat.pop(key) for key in _SIZES if key in chat}
    length, truncation = merged.pop("max_length", max_length), merged.pop("truncation", True)
    special = merged.pop("add_special_tokens", True)
    _check_count(merged.pop(_LOGITS_TO_KEEP, 1))
    if refused := [key for key in _NOT_OF_TEMPLATES if key in chat]:
        raise InputError(
            f"processing_kwargs has {refused} for the chat template, which is not supported. Leave it out."
        )
    if unknown := [key for key in merged if key not in _WITHOUT_EFFECT]:
        raise InputError(
            f"processing_kwargs has {unknown} for texts; supported are max_length, truncation and add_special_tokens. "
            "Leave it out."
        )
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise InputError(f"processing_kwargs has max_length={length!r}, expected an integer of 1 or more.")
    if truncation in (False, None, "do_not_truncate"):
        return TextOptions(None, add_special_tokens=bool(special), chat=chat)
    strategy = "longest_first" if truncation is True else str(truncation)
    if strategy not in _STRATEGIES:
        raise InputError(f"processing_kwargs has truncation={truncation!r}, expected a bool or {_STRATEGIES}.")
    return TextOptions(length, strategy, bool(special), chat)


def _check_count(count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InputError(f"processing_kwargs has {_LOGITS_TO_KEEP}={count!r}, expected an integer of 0 or more.")
