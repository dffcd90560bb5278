"""ColBERT's query expansion: a query is filled up with mask tokens that are scored like its own.

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
    """strategy "fixed": every query gets exactly `length` tokens; "min": at least.

    attend: whether the model sees the added tokens. token: what is added; None = the mask token, else the end one.
    """

    strategy: _Strategy
    length: int
    attend: bool = False
    token: str | None = None

    @classmethod
    def from_dict(cls, given: "Mapping[str, Any] | QueryExpansion | None") -> "QueryExpansion | None":
        """The dict of sentence_bert_config.json; InputError for keys or values that are not known."""
        if given is None or isinstance(given, QueryExpansion):
            return given
        strategies = get_args(_Strategy)
        unknown = set(given) - {"strategy", "length", "attend", "token"}
        length, attend = given.get("length"), given.get("attend", False)
        is_length = isinstance(length, int) and not isinstance(length, bool) and length > 0
        if unknown or given.get("strategy") not in strategies or not is_length or not isinstance(attend, bool):
            raise InputError(
                f"query_expansion={dict(given)!r}, expected strategy ({' or '.join(strategies)}), length (1 or more), "
                "and where wanted attend (a bool) and token (a text). Correct it, or pass None for none."
            )
        return cls(given["strategy"], given["length"], attend, given.get("token"))

    def to_dict(self) -> dict[str, Any]:
        """As sentence_bert_config.json has it."""
        return {"strategy": self.strategy, "attend": self.attend, "token": self.token, "length": self.length}

    def token_id(self, tokenizer: Tokenizer) -> int:
        """The id that is added; InputError where the tokenizer has no such token."""
        names = ("mask_token", "eos_token")
        if self.token is not None:
            found = tokenizer.backend.token_to_id(self.token)
        else:
            found = next((id_ for name in names if (id_ := tokenizer.special_id(name)) is not None), None)
        if found is None:
            what = f"the token {self.token!r}" if self.token else "a mask or end token"
            raise InputError(f"query_expansion needs {what}, which the tokenizer does not have. Set its token.")
        return found


@dataclass(frozen=True)
class ExpandedTokens(Tokens):
    """A query with `added` tokens at its end."""

    added: int = 0


def expand_query(tokens: Tokens, length: int, token_id: int) -> ExpandedTokens:
    """Filled up to `length`; a longer one stays as it is."""
    missing = max(0, length - len(tokens))
    segments = None if tokens.token_type_ids is None else np.pad(tokens.token_type_ids, (0, missing))
    ids = np.pad(tokens.ids, (0, missing), constant_values=token_id)
    return ExpandedTokens(ids, segments, tokens.truncated, missing)
