"""Embeddings: of whole texts, of their tokens, and sparse ones; as `encode` of the model's class returns them."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from mlx_hf_bridge.errors import EmptyInputError, InputError, OverlongTextError
from mlx_hf_bridge.inference.batching import BatchPipeline
from mlx_hf_bridge.inference.tokenizer import Text, Tokens
from mlx_hf_bridge.sentence_transformers import MLXMultiVectorEncoder, MLXSentenceTransformer, MLXSparseEncoder
from mlx_hf_bridge.sentence_transformers.base import MLXBaseModel
from mlx_hf_bridge.sentence_transformers.encoding.engine import TextPipeline
from mlx_hf_bridge.sentence_transformers.encoding.results import stack_rows
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.serving.limits import Limits
from mlx_hf_bridge.serving.tasks.base import ERROR, Prepared, Task, check_overlong

EMBEDDING, MULTI_VECTOR, SPARSE = "embedding", "multi-vector", "sparse"
TokenIds = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class EncodeTask(Task):
    """A request for embeddings.

    Args:
        texts: Texts, or token ids of the model's tokenizer with its special tokens.
        prompt_name: The name of the prompt to put before every text; None for the model's default.
        prompt: A text to put before every text, instead of a named prompt.
        task: "query", "document" or another task of the model.
        overlong: "error" or "truncate".
        max_length: The most tokens of a text; None for the model's.
    """

    texts: Sequence[str | TokenIds]
    prompt_name: str | None = None
    prompt: str | None = None
    task: str | None = None
    overlong: str = ERROR
    max_length: int | None = None

    def prepare(self, model: MLXBaseModel, limits: Limits) -> Prepared:
        """Tokenize the texts, or check the token ids."""
        prompt = resolve_prompt(model, self.prompt, self.prompt_name, self.task)
        arguments = {"prompt": prompt, "task": self.task, "overlong": self.overlong, **self.arguments(model)}
        arguments |= length_arguments(self.max_length)
        texts = check_given(self.texts, limits)
        if texts is None:
            if self.prompt or self.prompt_name:
                raise InputError("a prompt cannot be put before token ids. Send texts, or ids that begin with it.")
            _, pipeline = model._text_pipeline([], **(arguments | {"prompt": ""}))
            tokens = as_tokens(model, pipeline, self.texts)
        else:
            read, pipeline = model._text_pipeline(texts, **arguments)
            tokens = tokenize(pipeline, read)
        limits.check_tokens(sum(map(len, tokens)))
        truncated = check_overlong(tokens, self.overlong)
        return Prepared(
            tokens,
            (type(self).__name__, *lane_of(pipeline), *self.lane(model)),
            list_rows(pipeline),
            lambda rows: self.finish(model, rows),
            truncated,
        )

    def arguments(self, model: MLXBaseModel) -> dict[str, Any]:
        """Return further arguments of the model's `encode`."""
        return {}

    def lane(self, model: MLXBaseModel) -> tuple[Hashable, ...]:
        """Return further options that requests which share a batch have in common."""
        return ()

    def finish(self, model: MLXBaseModel, rows: list[Any]) -> Any:
        """Return the result of the request from one row for each text."""
        return rows


@dataclass(frozen=True, kw_only=True)
class EmbedTexts(EncodeTask):
    """One embedding for each text, as MLXSentenceTransformer.encode returns it: float32 (N, V).

    Args:
        truncate_dim: How many dimensions are kept; None for the model's own number.
        normalize: Whether embeddings are scaled to length 1, after truncating them.
    """

    kinds: ClassVar[tuple[str, ...]] = (EMBEDDING,)
    truncate_dim: int | None = None
    normalize: bool = False

    def arguments(self, model: MLXBaseModel) -> dict[str, Any]:
        """Return the width and whether to normalize."""
        assert isinstance(model, MLXSentenceTransformer)
        return {"truncate_dim": self._width(model), "normalize_embeddings": self.normalize}

    def lane(self, model: MLXBaseModel) -> tuple[Hashable, ...]:
        """Return the width and whether to normalize."""
        return tuple(self.arguments(model).values())

    def finish(self, model: MLXBaseModel, rows: list[Any]) -> Any:
        """Return the embeddings as one array."""
        return stack_rows(rows)

    def _width(self, model: MLXSentenceTransformer) -> int | None:
        if self.truncate_dim is None:
            return model.truncate_dim
        width = model.get_embedding_dimension()
        if self.truncate_dim < 1 or (width is not None and self.truncate_dim > width):
            raise InputError(f"dimensions={self.truncate_dim}, expected 1 to {width}, the width of the embeddings.")
        return self.truncate_dim


@dataclass(frozen=True, kw_only=True)
class EmbedTokens(EncodeTask):
    """An embedding for each token of each text: arrays (tokens, D) float32.

    Of a multi-vector model these are the tokens that are scored, as MLXMultiVectorEncoder.encode returns them; of an
    embedding model all of them, as MLXSentenceTransformer.encode does with output_value="token_embeddings".
    """

    kinds: ClassVar[tuple[str, ...]] = (MULTI_VECTOR, EMBEDDING)

    def arguments(self, model: MLXBaseModel) -> dict[str, Any]:
        """Return which outputs of the model are wanted."""
        return {} if isinstance(model, MLXMultiVectorEncoder) else {"output_value": "token_embeddings"}


@dataclass(frozen=True, kw_only=True)
class EmbedSparse(EncodeTask):
    """A sparse embedding for each text: its nonzero dimensions and their values, as arrays."""

    kinds: ClassVar[tuple[str, ...]] = (SPARSE,)

    def arguments(self, model: MLXBaseModel) -> dict[str, Any]:
        """Return how many dimensions may be nonzero."""
        assert isinstance(model, MLXSparseEncoder)
        return {"max_active_dims": model.max_active_dims}

    def finish(self, model: MLXBaseModel, rows: list[Any]) -> Any:
        """Return (dimensions, values) of each text."""
        return [(columns, values) for columns, values, _ in rows]


def resolve_prompt(model: MLXBaseModel, prompt: str | None, name: str | None, task: str | None) -> str:
    """Return the prompt of a request: the one that is given or named, else the one of the task, else the default.

    Args:
        model: The model.
        prompt: A text, or None.
        name: The name of a prompt of the model, or None.
        task: "query", "document" or None; as encode_query and encode_document choose a prompt.

    Returns:
        The text to put before every text; "" for none.

    Raises:
        InputError: If the model has no prompt of that name.
    """
    if prompt is None and name is None and task is not None:
        names = ("query",) if task == "query" else ("document", "passage", "corpus") if task == "document" else ()
        name = next((one for one in names if one in model.prompts), None)
    return model._resolve_prompt(prompt, None if prompt is not None else name)


def length_arguments(max_length: int | None) -> dict[str, Any]:
    """Return the arguments of `encode` that limit the tokens of a text."""
    return {} if max_length is None else {"processing_kwargs": {"text": {"max_length": max_length}}}


def check_given(given: Sequence[str | TokenIds], limits: Limits) -> list[str] | None:
    """Check the texts or token ids of a request.

    Args:
        given: Texts, or token ids.
        limits: What the server takes.

    Returns:
        The texts; None if token ids were given.

    Raises:
        EmptyInputError: If there is nothing.
        InputError: If texts and token ids are mixed.
        RequestLimitError: If there are too many texts, or one is too long.
    """
    if not given:
        raise EmptyInputError("the request has no texts, expected at least one.")
    texts = [one for one in given if isinstance(one, str)]
    if texts and len(texts) < len(given):
        raise InputError("the request has both texts and token ids, expected one of the two.")
    limits.check_count(len(given))
    limits.check_texts(texts)
    return texts or None


def lane_of(pipeline: TextPipeline) -> tuple[Hashable, ...]:
    """Return the options that texts have in common which may share a batch."""
    options = pipeline.options
    return options.prompt, options.task, options.max_active_dims


def tokenize(pipeline: TextPipeline, texts: Sequence[Text]) -> list[Tokens]:
    """Tokenize texts, and say how clients of a server have those truncated that are too long.

    Args:
        pipeline: How texts are tokenized.
        texts: Texts and pairs of texts.

    Returns:
        The tokens of each text.

    Raises:
        OverlongTextError: If texts are too long and are not to be truncated.
    """
    try:
        return pipeline.tokens(texts)
    except OverlongTextError as error:
        what, _, _ = str(error).partition(". ")
        raise OverlongTextError(
            f'{what}. Split them, or have them truncated: "truncate": true in a request, overlong="truncate" in Python.'
        ) from error


def list_rows(pipeline: TextPipeline) -> BatchPipeline:
    """Return what is computed of a batch, with rows in a list, so that they are given to several requests."""
    return replace(pipeline.batches, same_shape=False)


def as_tokens(model: MLXBaseModel, pipeline: TextPipeline, given: Sequence[Any]) -> list[Tokens]:
    """Check token ids of a request, and return them as the tokenizer gives them.

    Ids of another tokenizer, which some clients of OpenAI send, would give the embedding of another text. So they must
    begin and end with the special tokens that the model's tokenizer adds.

    Args:
        model: The model.
        pipeline: How texts of the request would be read.
        given: Lists of ids.

    Returns:
        The tokens of each list.

    Raises:
        InputError: If ids are not of the model's vocabulary, or lack its special tokens.
        OverlongTextError: If there are more ids than the model takes.
    """
    if not isinstance(pipeline.first, Transformer):
        raise InputError(f"a {type(pipeline.first).__name__} reads the texts, which takes no token ids. Send texts.")
    tokenizer = pipeline.first.tokenizer
    first, last = special_ids(tokenizer)
    most, size = model.max_seq_length, tokenizer.backend.get_vocab_size()
    found = []
    for index, one in enumerate(given):
        ids = list(one)
        if not ids or min(ids) < 0 or max(ids) >= size:
            raise InputError(f"token ids {index} have {len(ids)} values, expected one or more from 0 to {size - 1}.")
        if ids[: len(first)] != first or (last and ids[-len(last) :] != last):
            raise InputError(
                f"token ids {index} do not begin with {first} and end with {last}, the special tokens of this model's "
                "tokenizer, so they may be of another one, such as OpenAI's tiktoken. Send texts (for LangChain's "
                "OpenAIEmbeddings: check_embedding_ctx_length=False), or the ids that this model's tokenizer gives."
            )
        if most is not None and len(ids) > most:
            raise OverlongTextError(f"token ids {index} have {len(ids)} tokens, and the model takes at most {most}.")
        values = np.array(ids, np.int32)
        types = np.zeros_like(values) if tokenizer.returns_token_type_ids else None
        found.append(Tokens(values, types))
    return found


def special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special token ids that a tokenizer puts before and after a text."""
    [with_special] = tokenizer.encode(["a"])
    [without] = tokenizer.encode(["a"], add_special_tokens=False)
    ids, inner = with_special.ids.tolist(), without.ids.tolist()
    starts = (start for start in range(len(ids) - len(inner) + 1) if ids[start : start + len(inner)] == inner)
    start = next(starts, 0)
    return ids[:start], ids[start + len(inner) :]
