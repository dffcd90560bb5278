"""Which class reads a model's tokenizer, and in which form it is used here."""

from dataclasses import dataclass

from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint
from mlx_hf_bridge.conversion.tokenizer_class import TOKENIZER_FILE
from mlx_hf_bridge.conversion.tokenizer_files import build_tokenizer, has_tokenizer
from mlx_hf_bridge.errors import BridgeError

PYTHON = "Python"


@dataclass(frozen=True)
class TokenizerFacts:
    """What is known of a tokenizer.

    Attributes:
        name: Its class; None if there is no tokenizer, or it cannot be read.
        form: "tokenizer.json", "Python", or why it cannot be used; "" if there is none.
        max_length: Its own limit of tokens; None for none.
        can_be_used: Whether texts can be tokenized.
        has_chat_template: Whether it has a chat template.
    """

    name: str | None = None
    form: str = ""
    max_length: int | None = None
    can_be_used: bool = False
    has_chat_template: bool = False


# transformers writes this where a tokenizer has no limit.
_NO_LIMIT = 10**12


def read_tokenizer(checkpoint: Checkpoint, family: Family) -> TokenizerFacts:
    """Build the tokenizer and return what it is.

    Args:
        checkpoint: The model.
        family: Its family, whose tokenizer class is the default.

    Returns:
        What is known; the reason instead of an error.
    """
    if not has_tokenizer(checkpoint.model_folder):
        return TokenizerFacts()
    try:
        built = build_tokenizer(checkpoint, family)
    except BridgeError as error:
        return TokenizerFacts(form=str(error))
    limit = built.model_max_length
    return TokenizerFacts(
        type(built).__name__,
        TOKENIZER_FILE if built.is_fast else PYTHON,
        limit if limit < _NO_LIMIT else None,
        True,
        bool(getattr(built, "chat_template", None)),
    )
