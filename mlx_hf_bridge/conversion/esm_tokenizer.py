"""ESM's tokenizer, which transformers has in Python only, converted to the form of tokenizer.json.

Reference: transformers/models/esm/tokenization_esm.py. Each letter of the vocabulary is a token, and so is everything
else between spaces and letters.
"""

import importlib
import re
from typing import Any

PYTHON_CLASS = "EsmTokenizer"
# What Python's str.split() splits at: Unicode's white space, and four control characters.
_WHITESPACE = r"[\s\x1c-\x1f]+"


def as_fast(slow: Any) -> Any:
    """Return a PreTrainedTokenizerFast that tokenizes as transformers' EsmTokenizer does."""
    tokenizers, transformers = (importlib.import_module(name) for name in ("tokenizers", "transformers"))
    vocabulary, first, last = slow.get_vocab(), slow.cls_token, slow.eos_token
    # Residues are single letters that are not separated by spaces.
    letters = re.escape("".join(word for word in vocabulary if len(word) == 1))
    splits = tokenizers.pre_tokenizers
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=slow.unk_token))
    fast.pre_tokenizer = splits.Sequence(
        [
            splits.Split(tokenizers.Regex(_WHITESPACE), "removed"),
            splits.Split(tokenizers.Regex(f"[{letters}]"), "isolated"),
        ]
    )
    fast.post_processor = tokenizers.processors.TemplateProcessing(
        f"{first} $A {last}",
        pair=f"{first} $A {last} $B {last}",
        special_tokens=[(token, vocabulary[token]) for token in (first, last)],
    )
    special = {key: str(token) for key, token in slow.special_tokens_map.items() if isinstance(token, str)}
    names, longest = ["input_ids", "attention_mask"], slow.model_max_length
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, model_input_names=names, model_max_length=longest, **special
    )
