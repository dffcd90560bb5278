"""Transformer: the encoder itself with its tokenizer, maximum lengths and prompts.

Reference: sentence_transformers/base/modules/transformer.py. Shapes: B texts, L tokens, D hidden size, C labels,
V vocabulary size.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.config import NO_POSITIONS
from mlx_hf_bridge.errors import InputError, UnsupportedModelError
from mlx_hf_bridge.inference.batching import pad_tokens, report_truncation
from mlx_hf_bridge.inference.model import EncoderOutput
from mlx_hf_bridge.inference.plain_values import plain_scalar
from mlx_hf_bridge.inference.tokenizer import LOST_TOKEN_TYPES, Text, Tokenizer, Tokens
from mlx_hf_bridge.layers.heads import last_token_positions
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.loading.load import LoadedModel, load
from mlx_hf_bridge.loading.stored import check_still_there, content_of
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel, create_model
from mlx_hf_bridge.sentence_transformers.modules.base import Features
from mlx_hf_bridge.sentence_transformers.modules.input import EncodeOptions, InputModule, add_prompt
from mlx_hf_bridge.sentence_transformers.modules.messages import AUTO, ChatReader
from mlx_hf_bridge.sentence_transformers.modules.processing import TextOptions, resolve_text_options
from mlx_hf_bridge.sentence_transformers.modules.query_expansion import ExpandedTokens, QueryExpansion, expand_query
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import (
    INFER,
    TransformerSettings,
    save_transformer,
)

logger = logging.getLogger(__name__)


class Transformer(InputModule):
    """Run the encoder on the tokens of a batch.

    Called with features, it adds what its settings name: "token_embeddings" (B, L, D), "scores" (B, C) or
    "causal_logits" (B, 1, V).

    Args:
        loaded: The encoder with its config and weights.
        tokenizer: The tokenizer of the model.
        settings: The content of sentence_bert_config.json.
        overlong: What happens to texts that are too long: "truncate", with a warning once, or "error".
    """

    reference: ClassVar[str] = "sentence_transformers.base.modules.transformer.Transformer"

    def __init__(
        self, loaded: LoadedModel, tokenizer: Tokenizer, settings: TransformerSettings, overlong: str = "truncate"
    ) -> None:
        self.loaded, self.tokenizer = loaded, tokenizer
        self.transformer_task = settings.transformer_task
        self.module_output_name = settings.module_output_name
        self.processing_kwargs = dict(settings.processing_kwargs)
        self.do_lower_case = settings.do_lower_case
        self.query_length, self.document_length = settings.query_length, settings.document_length
        self._chat = _chat_reader(settings.message_format, tokenizer, loaded.config.model_type)
        self.modality_config = settings.modality_config(self._chat.message_format if self._chat else None)
        self.query_expansion = settings.query_expansion
        self.independent_length = loaded.independent_length
        self._output = settings.output
        self._overlong = overlong
        self._warned_truncation = False
        self._warned_token_types = loaded.config.type_vocab_size < 2 or not loaded.family.uses_token_type_ids
        config = loaded.config
        # As in sentence-transformers, the trained length bounds the tokenizer's limit but not one that was set.
        length = settings.max_seq_length or min(
            tokenizer.model_max_length or NO_POSITIONS, config.max_position_embeddings
        )
        # MLX would read past the position table.
        length = min(length, config.max_length)
        # The tokenizer has the length, as in sentence-transformers, so that it is saved and copied with it.
        tokenizer.model_max_length = length if length < NO_POSITIONS else None

    @property
    def auto_model(self) -> MLXPreTrainedModel:
        """The encoder without pooling, as `MLXAutoModel` returns it."""
        return create_model(self.loaded)

    model = auto_model

    @property
    def config(self) -> Any:
        """The content of config.json as attributes."""
        return self.auto_model.config

    @property
    def processor(self) -> Tokenizer:
        """The tokenizer; there is no other processor."""
        return self.tokenizer

    @property
    def query_expansion(self) -> dict[str, Any] | None:
        """ColBERT's query expansion as sentence-transformers writes it, or None; it may be set to such a dict."""
        return self._expansion.to_dict() if self._expansion else None

    @query_expansion.setter
    def query_expansion(self, given: Mapping[str, Any] | QueryExpansion | None) -> None:
        self._expansion = QueryExpansion.from_dict(given)
        if self._expansion is None:
            return
        # For its error: a missing token should fail when it is set, not at the first query.
        self._expansion.token_id(self.tokenizer)
        if self.query_length is not None and self.query_length < self._expansion.length:
            raise InputError(
                f"query_length={self.query_length} is less than the {self._expansion.length} tokens that "
                "query_expansion fills queries up to. Raise the first, or lower the second."
            )

    @property
    def max_seq_length(self) -> int:
        """The most tokens of a text that are used, special ones included; it may be set up to the model's positions."""
        return min(self.tokenizer.model_max_length or NO_POSITIONS, self.loaded.config.max_length)

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        most, length = self.loaded.config.max_length, plain_scalar(length)
        if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= most:
            raise InputError(f"max_seq_length={length!r}, expected an integer from 1 to {most}, the model's positions.")
        self.tokenizer.model_max_length = length

    def tokens(self, texts: Sequence[Text], options: EncodeOptions) -> list[Tokens]:
        """Tokenize texts with the prompt before each, truncated to the length of the task, and expand queries.

        Args:
            texts: Texts, or pairs of texts.
            options: The options of the call; prompt, task, processing_kwargs and overlong are read.

        Returns:
            The tokens of each text, in order, without padding.
        """
        limit = {"query": self.query_length, "document": self.document_length}.get(options.task or "")
        expansion = self._expansion if options.task == "query" else None
        if expansion:
            limit = expansion.length if expansion.strategy == "fixed" else limit and max(limit, expansion.length)
        tokenizing = resolve_text_options(
            self.processing_kwargs, options.processing_kwargs, limit or self.max_seq_length, self._chat is not None
        )
        if expansion and expansion.strategy == "fixed":
            tokenizing = replace(tokenizing, max_length=expansion.length)
        tokens = self._encode(texts, options, tokenizing)
        if not self._warned_token_types and any(not isinstance(text, str) for text in texts):
            self._warn_of_lost_token_types()
        most = tokenizing.max_length or self.max_seq_length
        # Warned once for each model, since every batch could have long texts.
        self._warned_truncation = report_truncation(
            tokens, most, options.overlong or self._overlong, self._warned_truncation
        )
        if expansion is None:
            return tokens
        token_id = expansion.token_id(self.tokenizer)
        return [expand_query(one, expansion.length, token_id) for one in tokens]

    def _encode(self, texts: Sequence[Text], options: EncodeOptions, tokenizing: TextOptions) -> list[Tokens]:
        if self._chat is None:
            prompted = add_prompt(texts, options.prompt)
            return self.tokenizer.encode(
                prompted, tokenizing.max_length, tokenizing.strategy, tokenizing.add_special_tokens
            )
        if self._expansion and options.task == "query":
            raise InputError(
                "query_expansion fills queries up to a length, which would cut what the chat template writes around "
                "them. Set query_expansion to None."
            )
        return self._chat.tokens(self.tokenizer, texts, options.prompt, options.task, tokenizing)

    def _warn_of_lost_token_types(self) -> None:
        self._warned_token_types = True
        if self.tokenizer.loses_token_type_ids:
            remedy = "set model.tokenizer.returns_token_type_ids = True"
            logger.warning(LOST_TOKEN_TYPES, self.loaded.source.name, remedy)

    def features(self, tokens: list[Tokens], options: EncodeOptions) -> Features:
        """Pad the tokens of one batch and pack them into features.

        Args:
            tokens: The tokens of B texts, as `tokens` returns them.
            options: The options of the same call.

        Returns:
            Features whose ids, mask and token type ids have the shape (B, L).
        """
        batch = pad_tokens(self.loaded.config, tokens, self._padding())
        added = _expansion_mask(tokens, batch.ids.shape[1])
        if added is not None and self._expansion and not self._expansion.attend:
            seen = np.arange(batch.ids.shape[1])[None] < np.array([[len(one)] for one in tokens])
            batch = replace(batch, mask=mx.array(seen & ~added))
        return Features(
            batch,
            # A system message is no part of the text, from whose tokens it cannot be separated.
            prompt_length=self._prompt_length(options.prompt) if options.prompt and not self._chat else 0,
            task=options.task,
            expansion_mask=None if added is None else mx.array(added),
            max_active_dims=options.max_active_dims,
            has_token_type_ids=self.tokenizer.returns_token_type_ids,
        )

    def _padding(self) -> int:
        # Heads that read the last token look for the config's padding, so that another one would be a token to them.
        own = self.loaded.config.pad_token_id
        return own if own is not None and 0 <= own < self.loaded.config.vocab_size else self.tokenizer.pad_token_id

    def _prompt_length(self, prompt: str) -> int:
        # Without the lengths of the task and the options of the call, as in the reference.
        text = resolve_text_options(self.processing_kwargs, None, self.max_seq_length)
        return self.tokenizer.count_prompt_tokens(prompt, text.max_length, text.strategy, text.add_special_tokens)

    def __call__(self, features: Features) -> Features:
        wants_states = bool(self.loaded.raw_config.get("output_hidden_states")) or self._output[0] == "hidden_states"
        encoded = self._model_of(features.task)(
            features.batch,
            wants_states,
            outputs_only=self._output[0] == "logits",
            # Other outputs may read every position.
            first_token=features.first_token and self._output[0] == "last_hidden_state",
        )
        features = features.with_array(self.module_output_name, self._select_output(encoded, features.batch))
        return replace(features, hidden_states=encoded.hidden_states) if wants_states else features

    def _model_of(self, task: str | None) -> Any:
        """Return the model that computes a call's task."""
        return self.loaded.model

    def _select_output(self, encoded: EncoderOutput, batch: TokenBatch) -> mx.array:
        if self._output[0] == "hidden_states" and encoded.hidden_states:
            return encoded.hidden_states[int(self._output[1])]
        outputs = {"last_hidden_state": encoded.hidden, "pooler_output": encoded.pooled, **encoded.outputs}
        found = outputs.get(str(self._output[0]))
        if found is None:
            raise UnsupportedModelError(
                f"{self.loaded.source.name} reads the output {'.'.join(map(str, self._output))} of its model, which "
                f"has {', '.join(name for name, array in outputs.items() if array is not None)}. "
                "Use sentence-transformers on torch for this model."
            )
        if self.transformer_task == "text-generation" and found.shape[1] > 1:
            # A traced model scores every position; LogitScore reads the last.
            return batch.take(found, last_token_positions(batch.token_mask(mx.int32)[:, :, 0]))[:, None]
        return found

    def get_embedding_dimension(self) -> int | None:
        """Return the hidden size D.

        Returns:
            `hidden_size` of the config.
        """
        return int(self.loaded.config.hidden_size)

    def get_word_embedding_dimension(self) -> int | None:
        """Return the hidden size D; an older name of `get_embedding_dimension`.

        Returns:
            `hidden_size` of the config.
        """
        return self.get_embedding_dimension()

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of sentence_bert_config.json.

        Returns:
            sentence-transformers' keys; those that are unset are left out.
        """
        config = {
            "transformer_task": self.transformer_task,
            "modality_config": self.modality_config,
            "module_output_name": self.module_output_name,
        }
        added = {
            "do_lower_case": self.do_lower_case,
            "processing_kwargs": self.processing_kwargs,
            "query_length": self.query_length,
            "document_length": self.document_length,
            "query_expansion": self.query_expansion,
        }
        return config | {key: value for key, value in added.items() if value}

    def __getstate__(self) -> dict[str, Any]:
        # Copies and other processes load the converted folder again, since weights are not pickled.
        loaded = self.loaded
        reload_arguments = (str(loaded.folder), loaded.task, "pooler" in loaded.model, loaded.raw_config, loaded.source)
        return {**self.__dict__, "loaded": reload_arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder, task, pooler, config, source = state["loaded"]
        check_still_there(Path(folder), content_of(source, Path(folder)))
        loaded = load(folder, task, pooler=pooler, show_progress=False)
        self.__dict__.update({**state, "loaded": replace(loaded, raw_config=config, source=source)})

    def save(self, folder: Path) -> None:
        """Write the converted model, its tokenizer and sentence_bert_config.json into a folder.

        Args:
            folder: An existing folder.
        """
        check_still_there(self.loaded.folder, self.loaded.content)
        save_transformer(self.loaded, self.tokenizer, folder, self.get_config_dict())


def _chat_reader(message_format: str | None, tokenizer: Tokenizer, model_type: str) -> ChatReader | None:
    if message_format is None or (message_format == INFER and tokenizer.chat_template is None):
        return None
    return ChatReader(AUTO if message_format == INFER else message_format, tokenizer.chat_template, model_type)


def _expansion_mask(tokens: list[Tokens], width: int) -> np.ndarray | None:
    """Return bool (B, L), True for tokens that query expansion appended; None if no query was expanded."""
    if not any(isinstance(one, ExpandedTokens) for one in tokens):
        return None
    added = np.zeros((len(tokens), width), bool)
    for row, one in enumerate(tokens):
        count = one.added if isinstance(one, ExpandedTokens) else 0
        added[row, len(one) - count : len(one)] = True
    return added
