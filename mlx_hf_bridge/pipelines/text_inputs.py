"""Texts and pairs read by one call of the tokenizer, for tasks in which each is one row of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.pipelines.base import Chunk
from mlx_hf_bridge.pipelines.host_array import as_host_array
from mlx_hf_bridge.pipelines.tokenizer import HostTokenizer

Text = str | tuple[str, str]

# What a tokenizer takes in a call, of what changes its answer for one text.
TOKENIZER_OPTIONS = ("add_special_tokens", "max_length", "padding", "truncation")
_STRATEGIES = ("longest_first", "only_first", "only_second", "do_not_truncate")
_PADDINGS = (True, False, "longest", "max_length", "do_not_pad")
_TO_THE_LONGEST = (True, "longest")


def check_tokenizer_options(options: Mapping[str, Any]) -> None:
    """InputError or ArgumentTypeError for values that a tokenizer does not take."""
    truncation, padding, length = (options.get(name) for name in ("truncation", "padding", "max_length"))
    if truncation not in (True, False, None, *_STRATEGIES):
        raise InputError(f"truncation={truncation!r}, expected True, False or one of {', '.join(_STRATEGIES)}.")
    if padding not in (None, *_PADDINGS):
        raise InputError(f"padding={padding!r}, expected one of {_PADDINGS}.")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int)):
        raise ArgumentTypeError(f"max_length={length!r}, expected a whole number of tokens.")
    if length is not None and length < 1:
        raise InputError(f"max_length={length}, expected 1 token or more. Leave it out for the model's own limit.")


def text_or_pair(given: Any) -> Text:
    """One text or pair in any of the forms that transformers takes; InputError for the others."""
    match given:
        case str():
            return given
        case {"text": str() as text, **rest} if set(rest) <= {"text_pair"}:
            pair = rest.get("text_pair")
            if pair is None or pair == "":
                return text
            if isinstance(pair, str):
                return text, pair
        case [[str() as text, str() as pair]] if isinstance(given, list) and isinstance(given[0], list):
            return text, pair
    raise InputError(
        f'one text is {given!r}, expected a string, or {{"text": ..., "text_pair": ...}} for a pair of strings.'
    )


def tokenize_texts(tokenizer: HostTokenizer, texts: Sequence[Text], options: Mapping[str, Any]) -> list[Chunk]:
    """Texts and pairs -> what the tokenizer says of each, arrays (1, L), each padded as if it were alone."""
    options = dict(options)
    if options.get("padding") in _TO_THE_LONGEST:
        options["padding"] = "do_not_pad"
    _check_room(tokenizer, texts, options)
    chunks: list[Chunk] = [{}] * len(texts)
    for kind in (str, tuple):
        places = [place for place, text in enumerate(texts) if isinstance(text, kind)]
        if not places:
            continue
        answer = _asked(tokenizer, [texts[place] for place in places], options)
        for row, place in enumerate(places):
            chunks[place] = {name: as_host_array([sequences[row]]) for name, sequences in answer.items()}
    return chunks


def _asked(tokenizer: HostTokenizer, texts: list[Text], options: Mapping[str, Any]) -> Any:
    try:
        return tokenizer(texts, **options)
    except Exception as error:  # the bare class is what tokenizers raises
        if "Truncation error" not in str(error):
            raise
        raise InputError(
            f"truncation={options.get('truncation')!r} cannot be done: {error}. Pass truncation=True, which cuts the "
            "longer of text and pair."
        ) from error


def _check_room(tokenizer: HostTokenizer, texts: Sequence[Text], options: Mapping[str, Any]) -> None:
    """tokenizers does not cut at all where the special tokens alone are more than the limit."""
    length = options.get("max_length")
    if length is None or options.get("truncation") in (False, "do_not_truncate"):
        return
    special = tokenizer.num_special_tokens_to_add(any(isinstance(text, tuple) for text in texts))
    if options.get("add_special_tokens", True) and length < special:
        raise InputError(f"max_length={length} is less than the {special} special tokens of a text. Allow for more.")
