"""Text encoders of transformers, saved and read back, are computed as transformers computes them."""

from pathlib import Path
from typing import Any

import pytest
from encoder_zoo import SAME, encoders, run_encoder

# A share of `python -m tests.encoder_zoo`.
SAMPLE = ("bert", "metaclip_2:text")


@pytest.mark.parametrize("variant", [one for one in encoders() if one.name in SAMPLE], ids=lambda one: one.name)
def test_an_encoder_gives_the_values_of_transformers(variant: Any, tmp_path: Path) -> None:
    found = run_encoder(variant, tmp_path)
    assert found.verdict == SAME, found.detail


def test_the_zoo_holds_one_variant_of_each_name() -> None:
    names = [one.name for one in encoders()]
    assert len(names) == len(set(names)) >= 74
