"""Check the precompiled character maps of a tokenizer.json, which the tokenizers library trusts.

Such a map is the base64 text of: the size of a trie in bytes, the trie, and the replacement strings (SentencePiece,
src/normalizer.cc). tokenizers reserves twice the size that is claimed there before it looks at the data, so that a file
of a kilobyte may ask for 8 GiB, and where there is no such memory the process is aborted.
"""

import json
import re
from base64 import b64decode
from binascii import Error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_KEY = "precompiled_charsmap"
_MAP = re.compile(rb'"precompiled_charsmap"\s*:\s*"([^"\\]*)"')
# JSON may write any character of a key as an escape; tokenizers saves no printable ASCII characters so.
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
# As many base64 characters hold the size: 6 bytes, of which 4 are needed.
_SIZE_CHARACTERS = 8


def check_character_maps(path: Path) -> None:
    """Check that no character map of a tokenizer.json claims to be larger than it is.

    Args:
        path: The file.

    Raises:
        ValueError: If one does, or the file is not JSON.
    """
    for characters in _character_maps(path.read_bytes()):
        try:
            claimed = int.from_bytes(b64decode(characters[:_SIZE_CHARACTERS])[:4], "little")
        except (Error, ValueError):
            continue  # not base64, which tokenizers notices
        if claimed > len(characters) * 3 // 4:
            raise ValueError(f"a {_KEY} claims a trie of {claimed} bytes, and has {len(characters)} characters")


def _character_maps(content: bytes) -> Iterator[bytes]:
    """Yield the character maps of a file. It is parsed only if they cannot be found by their key: that takes long."""
    found = [match[1] for match in _MAP.finditer(content)]
    if len(found) == content.count(_KEY.encode()) and not _ESCAPED_ASCII.search(content):
        yield from found
    else:
        yield from _values(json.loads(content).get("normalizer"))


def _values(normalizer: Any) -> Iterator[bytes]:
    if isinstance(normalizer, list):
        for item in normalizer:
            yield from _values(item)
    elif isinstance(normalizer, dict):
        for key, value in normalizer.items():
            if key == _KEY and isinstance(value, str):
                yield value.encode("utf-8", "surrogatepass")
            yield from _values(value)
