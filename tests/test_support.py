"""The support list: read from the code, whole, and the same as the page in docs."""

import json
from pathlib import Path

import pytest

from mlx_hf_bridge.cli import main
from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.models import family_for, model_types
from mlx_hf_bridge.refused import REFUSED
from mlx_hf_bridge.support import as_markdown, supported

PAGE = Path(__file__).parent.parent / "docs" / "models.md"


def test_the_page_in_docs_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_markdown(), "mlx-hf-bridge models --markdown > docs/models.md"


def test_no_type_is_both_native_and_refused() -> None:
    assert not set(model_types()) & {name.replace("_", "-") for name in REFUSED}


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_a_refused_type_is_an_error_with_its_reason(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        family_for({"model_type": model_type})
    assert REFUSED[model_type] in str(caught.value)
    assert "Use transformers on torch" in str(caught.value)


def test_the_command_prints_the_list_in_three_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(row.model_type in printed for row in supported())
    assert main(["models", "--json"]) == 0
    assert [row["model_type"] for row in json.loads(capsys.readouterr().out)] == [row.model_type for row in supported()]
    assert main(["models", "--markdown"]) == 0
    assert capsys.readouterr().out == as_markdown()
