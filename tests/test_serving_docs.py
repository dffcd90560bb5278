"""The code of docs/serving.md that needs no client runs as it stands, with tiny models in place of those of the Hub."""

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import make_checkpoint
from serving_models import make_embedder

PAGE = Path(__file__).parent.parent / "docs" / "serving.md"


def test_the_engine_of_the_page_embeds(tmp_path: Path) -> None:
    model = make_embedder(tmp_path)
    make_checkpoint(tmp_path / "words", head="ForMaskedLM")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [code] = [block for block in blocks if "AsyncEngine(" in block]
    # Tiny layers are narrower than a group of quantized weights.
    replaced = {"BAAI/bge-small-en-v1.5": tmp_path / "embedder", "naver/splade-v3": tmp_path / "words", '"q8"': None}
    for name, value in replaced.items():
        assert name in code
        code = code.replace(name, str(value))
    names: dict[str, Any] = {}
    found = eval(compile(code, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    assert inspect.iscoroutine(found)
    asyncio.run(found)
    expected = model.encode(["The cat sleeps.", "A dog barks."])
    np.testing.assert_allclose(names["vectors"], expected, rtol=0, atol=1e-6)
    assert [spec.kind for spec in names["engine"].models.specs] == [None, "sparse"]
