"""MLXSentenceTransformer: texts become vectors as in sentence-transformers, computed by MLX.

Reference: sentence_transformers/sentence_transformer/model.py (encode), base/model.py.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.family import BASE_TASK
from mlx_hf_bridge.inference.batching import in_batches, padded, report_cut
from mlx_hf_bridge.inference.pooling import normalized
from mlx_hf_bridge.inference.run import run
from mlx_hf_bridge.inference.tokenizer import Text, Tokenizer, Tokens
from mlx_hf_bridge.loading.checkpoint import read_modules
from mlx_hf_bridge.loading.load import load
from mlx_hf_bridge.loading.source import SENTENCE_TRANSFORMERS, HubOptions
from mlx_hf_bridge.loading.tokenizer_files import tokenizer_config
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig, QuantizationLike
from mlx_hf_bridge.sentence_transformers.modules import read_after_transformer
from mlx_hf_bridge.sentence_transformers.saving import save
from mlx_hf_bridge.sentence_transformers.settings import read_settings
from mlx_hf_bridge.sentence_transformers.similarity import similarity_named

logger = logging.getLogger(__name__)

_OVERLONG = ("truncate", "error")


class MLXSentenceTransformer:
    """sentence_transformers.SentenceTransformer's encode, on any repo with modules.json or a plain encoder."""

    def __init__(
        self,
        model_name_or_path: str | Path,
        *,
        quantization_config: QuantizationLike = None,
        dtype: Any = "auto",
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        truncate_dim: int | None = None,
        overlong: str = "truncate",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_folder: str | Path | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load a folder, a Hub id, or a name of the organisation sentence-transformers.

        overlong: "truncate" cuts texts to the model's limit and warns once; "error" refuses them. The other
        arguments are those of sentence-transformers and of MLXAutoModel.from_pretrained, and so are the errors.
        """
        self._overlong = _checked_overlong(overlong)
        name = _with_organisation(model_name_or_path)
        cache_dir = None if cache_folder is None else str(cache_folder)
        options = HubOptions(revision, token, cache_dir, local_files_only)
        self._loaded = load(
            name, BASE_TASK, quantization_config=quantization_config, dtype=dtype, options=options, pooler=False
        )
        folder = self._loaded.folder
        self._entries = read_modules(folder)
        self._modules = run(lambda: read_after_transformer(folder, self._entries))
        settings = read_settings(folder)
        self.tokenizer = Tokenizer.from_folder(folder, tokenizer_config(folder))
        if settings.do_lower_case:
            _lowercase_first(self.tokenizer)
        self.prompts = dict(settings.prompts if prompts is None else prompts)
        self.default_prompt_name = settings.default_prompt_name if default_prompt_name is None else default_prompt_name
        if self.default_prompt_name is not None:
            self._prompt(None, self.default_prompt_name)
        self.truncate_dim = settings.truncate_dim if truncate_dim is None else truncate_dim
        self.similarity_fn_name = settings.similarity_fn_name or "cosine"
        self._length = _limit(settings.max_seq_length, self.tokenizer.model_max_length, self._loaded.config.max_length)
        self._told_of_cut = False

    @property
    def max_seq_length(self) -> int:
        """The most tokens of a text that are used, special ones included; may be set up to the model's positions."""
        return self._length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        most = self._loaded.config.max_length
        if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= most:
            raise InputError(f"max_seq_length={length!r}, expected 1 to {most}, the model's positions.")
        self._length = length

    @property
    def folder(self) -> Path:
        """The converted folder that the weights were read from."""
        return self._loaded.folder

    @property
    def quantization_config(self) -> MLXQuantizationConfig | None:
        """The recipe that packed the weights; None for float ones."""
        return self._loaded.recipe

    def encode(
        self,
        inputs: str | Sequence[Text] | np.ndarray,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        overlong: str | None = None,
    ) -> Any:
        """A text -> its vector (V,) float32; texts or pairs of texts -> (N, V), in their order.

        convert_to_tensor gives a torch tensor; neither of the two a list of MLX arrays. Batches are made by length:
        each holds at most batch_size x device.SLOTS_A_TEXT token slots, so short texts go many at a time. truncate_dim
        keeps the first dimensions, before normalising. Raises InputError for what is not text, OverlongTextError for
        a text over max_seq_length when overlong="error".
        """
        overlong = self._overlong if overlong is None else _checked_overlong(overlong)
        texts, single = _texts(inputs)
        prefix = self._prompt(prompt, prompt_name)
        tokens = self._tokens(texts, prefix, overlong)
        width = self.truncate_dim if truncate_dim is None else truncate_dim
        if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
            raise InputError(f"truncate_dim={width!r}, expected a whole number of 1 or more, or None.")
        skipped = self._prompt_length(prefix)

        def vectors(batch: TokenBatch) -> mx.array:
            hidden = self._loaded.model(batch).hidden
            pooled = self._modules(hidden, batch, skipped)
            cut = pooled if width is None else pooled[:, :width]
            return normalized(cut) if normalize_embeddings else cut

        show = logger.getEffectiveLevel() <= logging.INFO if show_progress_bar is None else show_progress_bar
        rows = in_batches(tokens, self._batch, vectors, batch_size, show, self._loaded.family.padding_shows)
        return _converted(rows, single, convert_to_numpy, convert_to_tensor)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """(M, V), (N, V) -> scores (M, N) by the model's similarity_fn_name; larger = more alike."""
        first, second = (np.atleast_2d(np.asarray(given, np.float32)) for given in (embeddings1, embeddings2))
        return similarity_named(self.similarity_fn_name)(first, second)

    def save_pretrained(self, path: str | Path) -> None:
        """Write a folder that loads back here and, unquantised, in sentence-transformers."""
        save(self.folder, Path(path), self._entries)

    def __repr__(self) -> str:
        recipe = self._loaded.recipe
        packing = f"{recipe.bits} bits, {recipe.mode}" if recipe else "not quantised"
        after = [type(module).__name__ for module in (self._modules.pooling, *self._modules.after)]
        return f"MLXSentenceTransformer({self._loaded.source.name!r}, {packing}, Transformer, {', '.join(after)})"

    def _tokens(self, texts: Sequence[Text], prefix: str, overlong: str) -> list[Tokens]:
        prefixed = [prefix + text if isinstance(text, str) else (prefix + text[0], text[1]) for text in texts]
        tokens = self.tokenizer.encode(prefixed, self._length)
        self._told_of_cut = report_cut(tokens, self._length, overlong, self._told_of_cut)
        return tokens

    def _batch(self, tokens: list[Tokens]) -> TokenBatch:
        return padded(self._loaded.config, tokens, self.tokenizer.pad_token_id)

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise InputError(f"prompt={prompt!r}, expected a text to put before every text, or None.")
            if name is not None:
                logger.warning("both prompt and prompt_name were given; prompt_name=%r is not used", name)
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            raise InputError(f"prompt_name={name!r} is not one of the model's prompts, {sorted(self.prompts)}.")
        return self.prompts[name]

    def _prompt_length(self, prefix: str) -> int:
        """Tokens of a prompt that pooling leaves out, the leading special one included."""
        if not prefix or self._modules.pooling.include_prompt:
            return 0
        return self.tokenizer.count_without_last_special(prefix)


def _checked_overlong(overlong: str) -> str:
    if overlong not in _OVERLONG:
        raise InputError(f"overlong={overlong!r}, expected 'truncate' or 'error'.")
    return overlong


def _with_organisation(name: str | Path) -> str:
    """sentence-transformers' rule: a bare name that is no folder belongs to its own organisation."""
    if not isinstance(name, (str, Path)):
        raise ArgumentTypeError(f"got a {type(name).__name__} for a model, expected a folder or a Hub id as text.")
    text = str(name)
    is_bare = "/" not in text and "\\" not in text and not Path(text).expanduser().exists()
    return f"{SENTENCE_TRANSFORMERS}/{text}" if is_bare else text


def _limit(own: int | None, tokenizer: int | None, positions: int) -> int:
    """sentence-transformers' max_seq_length, else the tokenizer's, never more than there are positions."""
    asked = own if own is not None else tokenizer
    return positions if asked is None else min(asked, positions)


def _lowercase_first(tokenizer: Tokenizer) -> None:
    present = tokenizer.backend.normalizer
    tokenizer.backend.normalizer = NormalizerSequence([Lowercase()] + ([present] if present else []))


def _texts(inputs: Any) -> tuple[list[Text], bool]:
    """What encode takes -> texts, and whether it was a single one."""
    if isinstance(inputs, str):
        return [inputs], True
    if isinstance(inputs, np.ndarray) and inputs.ndim == 1 and inputs.dtype.kind in "UO":
        inputs = inputs.tolist()
    if not isinstance(inputs, (list, tuple)):
        raise InputError(f"got a {type(inputs).__name__} to encode, expected a text or a list of texts.")
    texts: list[Text] = []
    for index, item in enumerate(inputs):
        is_pair = isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(part, str) for part in item)
        if not isinstance(item, str) and not is_pair:
            raise InputError(
                f"item {index} to encode is a {type(item).__name__} ({item!r:.80}), expected a text or a pair of texts."
            )
        texts.append(str(item) if isinstance(item, str) else (item[0], item[1]))
    return texts, False


def _converted(rows: list[np.ndarray], single: bool, to_numpy: bool, to_tensor: bool) -> Any:
    if to_tensor:
        try:
            import torch
        except ImportError as error:
            raise ArgumentTypeError(
                "convert_to_tensor=True gives torch tensors, and torch is not installed. pip install torch, or leave "
                "it out for numpy arrays."
            ) from error
        return torch.from_numpy(rows[0] if single else np.stack(rows)) if rows else torch.tensor([])
    if to_numpy:
        return rows[0] if single else (np.stack(rows) if rows else np.array([]))
    arrays = [mx.array(row) for row in rows]
    return arrays[0] if single else arrays
