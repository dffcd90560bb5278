"""ColBERT's query expansion: a query is filled up with mask tokens that are scored like its own tokens.

Reference: sentence_transformers/base/modules/transformer.py (QueryExpansionConfig).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.tokenizer import Tokenizer, Tokens

_Strategy = Literal["fixed", "min"]


@dataclass(frozen=True)
class QueryExpansion:
    """The settings of query expansion.

    Args:
        strategy: "fixed": every query has exactly `length` tokens; "min": at least `length`.
        length: The number of tokens, special ones included.
        attend: Whether the encoder attends to the appended tokens.
        token: The token that is appended; None for the mask token, or the end token of tokenizers without one.
    """

    strategy: _Strategy
    length: int
    attend: bool = False
    token: str | None = None

    @classmethod
    def from_dict(cls, config: "Mapping[str, Any] | QueryExpansion | None") -> "QueryExpansion | None":
        """Read the settings from the dict of sentence_bert_config.json.

        Args:
            config: The dict, settings that are returned as they are, or None.

        Returns:
            The settings, or None for no query expansion.

        Raises:
            InputError: If the dict has keys or values that are not known.
        """
        if config is None or isinstance(config, QueryExpansion):
            return config
        strategies = get_args(_Strategy)
        unknown = set(config) - {"strategy", "length", "attend", "token"}
        length, attend = config.get("length"), config.get("attend", False)
        is_length = isinstance(length, int) and not isinstance(length, bool) and length > 0
        if unknown or config.get("strategy") not in strategies or not is_length or not isinstance(attend, bool):
            raise InputError(
                f"query_expansion={dict(config)!r}, expected strategy ({' or '.join(strategies)}), length (1 or more), "
                "and optionally attend (a bool) and token (a string). Correct it, or pass None for no expansion."
            )
        return cls(config["strategy"], config["length"], attend, config.get("token"))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as sentence_bert_config.json has them.

        Returns:
            strategy, attend, token and length.
        """
        return {"strategy": self.strategy, "attend": self.attend, "token": self.token, "length": self.length}

    def token_id(self, tokenizer: Tokenizer) -> int:
        """Return the id of the token that is appended.

        Args:
            tokenizer: The tokenizer of the model.

        Returns:
            The id of `token`, or of the mask token, or of the end token.

        Raises:
            InputError: If the tokenizer has no such token.
        """
        names = ("mask_token", "eos_token")
        if self.token is not None:
            found: int | None = tokenizer.backend.token_to_id(self.token)
        else:
            found = next((id_ for name in names if (id_ := tokenizer.special_id(name)) is not None), None)
        if found is None:
            what = f"the token {self.token!r}" if self.token else "a mask or end token"
            raise InputError(
                f"query_expansion needs {what}, which the tokenizer does not have. "
                "Set query_expansion's token to one that it has."
            )
        return found


@dataclass(frozen=True)
class ExpandedTokens(Tokens):
    """The tokens of a query, of which the last `added` come from query expansion."""

    added: int = 0


def expand_query(tokens: Tokens, length: int, token_id: int) -> ExpandedTokens:
    """Append a token to a query until it has `length` tokens; a longer query does not change.

    Args:
        tokens: The query.
        length: The number of tokens to reach.
        token_id: The id to append.

    Returns:
        The tokens, with the number of those that were appended.
    """
    missing = max(0, length - len(tokens))
    token_type_ids = None if tokens.token_type_ids is None else np.pad(tokens.token_type_ids, (0, missing))
    ids = np.pad(tokens.ids, (0, missing), constant_values=token_id)
    return ExpandedTokens(ids, token_type_ids, tokens.truncated, missing)
