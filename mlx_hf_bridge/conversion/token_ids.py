"""Token ids of a repo's vocabulary files, checked before a tokenizer is built from them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.conversion.tokenizer_class import TOKENIZER_FILE, tokenizer_config
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.inference.charsmap import check_character_maps
from mlx_hf_bridge.runtime.file_errors import config_errors

# Saving a tokenizer fills the ids between, so that one absurd id takes all memory. The largest vocabularies have about
# a million tokens (XLM-V).
MAX_TOKEN_ID = 2**22


def check_token_ids(folder: Path) -> None:
    """Check what tokenizers does not, before it builds a tokenizer: the size of character maps, and token ids.

    Every token id of a folder's JSON vocabularies must be an integer from 0 to `MAX_TOKEN_ID`.

    Args:
        folder: A folder with tokenizer files.

    Raises:
        ConfigError: If one is not, a character map claims to be larger than it is, or a file is not JSON.
    """
    with config_errors(folder / TOKENIZER_FILE):
        if (folder / TOKENIZER_FILE).is_file():
            check_character_maps(folder / TOKENIZER_FILE)
        found = list(_token_ids(folder))
    for name, ids in found:
        for token_id in ids:
            if not isinstance(token_id, int) or not 0 <= token_id <= MAX_TOKEN_ID:
                raise ConfigError(
                    f"{folder / name} has the token id {token_id!r:.40}, expected an integer from 0 to {MAX_TOKEN_ID}. "
                    "Take the file of the original checkpoint."
                )


def _token_ids(folder: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield the name of each vocabulary file with the ids in it; what has another form is left to tokenizers."""
    content = _read_dict(folder / TOKENIZER_FILE)
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    # Unigram models have a list, whose ids are its positions.
    yield TOKENIZER_FILE, list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    added = content.get("added_tokens")
    listed = added if isinstance(added, list) else []
    yield TOKENIZER_FILE, [entry["id"] for entry in listed if isinstance(entry, dict) and "id" in entry]
    for name in ("vocab.json", "added_tokens.json"):
        # XLM's and FlauBERT's vocabularies are such dicts too.
        yield name, list(_read_dict(folder / name).values())
    decoder = tokenizer_config(folder).get("added_tokens_decoder")
    keys = decoder if isinstance(decoder, dict) else {}
    yield "tokenizer_config.json", [int(key) if key.isdecimal() and len(key) < 20 else key for key in keys]


def _read_dict(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
