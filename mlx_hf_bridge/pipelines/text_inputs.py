"""Tokenize texts and pairs of texts with one call of the tokenizer, for tasks in which each is one token sequence."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.pipelines.base import Chunk
from mlx_hf_bridge.pipelines.host_array import as_host_array
from mlx_hf_bridge.pipelines.tokenizer import HostTokenizer

Text = str | tuple[str, str]

# The options of a tokenizer call that change its output for a single text.
TOKENIZER_OPTIONS = ("add_special_tokens", "max_length", "padding", "truncation")
_STRATEGIES = ("longest_first", "only_first", "only_second", "do_not_truncate")
_PADDINGS = (True, False, "longest", "max_length", "do_not_pad")
_TO_THE_LONGEST = (True, "longest")


def check_tokenizer_options(options: Mapping[str, Any]) -> None:
    """Check the values of tokenizer options.

    Args:
        options: Options of a tokenizer call; truncation, padding and max_length are checked.

    Raises:
        InputError: If a value is not one that tokenizers know.
        ArgumentTypeError: If max_length is not an integer.
    """
    truncation, padding, length = (options.get(name) for name in ("truncation", "padding", "max_length"))
    if truncation not in (True, False, None, *_STRATEGIES):
        raise InputError(f"truncation={truncation!r}, expected True, False or one of {', '.join(_STRATEGIES)}.")
    if padding not in (None, *_PADDINGS):
        raise InputError(f"padding={padding!r}, expected one of {_PADDINGS}.")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int)):
        raise ArgumentTypeError(f"max_length={length!r}, expected an integer number of tokens.")
    if length is not None and length < 1:
        raise InputError(f"max_length={length}, expected 1 token or more. Leave it out for the model's own limit.")


def text_or_pair(given: Any) -> Text:
    """Return one text or pair of texts, given in any of the forms that transformers takes.

    Args:
        given: A string, {"text": ..., "text_pair": ...}, or [[text, pair]].

    Returns:
        The text, or the pair as a tuple.

    Raises:
        InputError: If it has another form.
    """
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
    """Tokenize texts and pairs.

    Args:
        tokenizer: The pipeline's tokenizer.
        texts: Texts and pairs, in any mixture.
        options: Options of the tokenizer call. Padding to the longest has no effect, as for a text without others.

    Returns:
        The tokenizer's output for each text, arrays of shape (1, L).
    """
    options = dict(options)
    # Batches are padded later, each to its own longest sequence.
    if options.get("padding") in _TO_THE_LONGEST:
        options["padding"] = "do_not_pad"
    _check_max_length(tokenizer, texts, options)
    chunks: list[Chunk] = [{}] * len(texts)
    # Single texts and pairs need two calls: a tokenizer call takes only one of the two kinds.
    for kind in (str, tuple):
        indices = [index for index, text in enumerate(texts) if isinstance(text, kind)]
        if not indices:
            continue
        encoding = _tokenize(tokenizer, [texts[index] for index in indices], options)
        for row, index in enumerate(indices):
            chunks[index] = {name: as_host_array([rows[row]]) for name, rows in encoding.items()}
    return chunks


def _tokenize(tokenizer: HostTokenizer, texts: list[Text], options: Mapping[str, Any]) -> Any:
    try:
        return tokenizer(texts, **options)
    except Exception as error:  # tokenizers raises the bare class
        if "Truncation error" not in str(error):
            raise
        raise InputError(
            f"truncation={options.get('truncation')!r} cannot be done: {error}. Pass truncation=True, which truncates "
            "the longer of text and pair."
        ) from error


def _check_max_length(tokenizer: HostTokenizer, texts: Sequence[Text], options: Mapping[str, Any]) -> None:
    """Raise InputError if not even the special tokens fit; tokenizers would then not truncate at all."""
    length = options.get("max_length")
    if length is None or options.get("truncation") in (False, "do_not_truncate"):
        return
    special = tokenizer.num_special_tokens_to_add(any(isinstance(text, tuple) for text in texts))
    if options.get("add_special_tokens", True) and length < special:
        raise InputError(f"max_length={length} is less than the {special} special tokens of a text. Allow for more.")
