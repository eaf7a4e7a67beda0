"""The user's agent of `tests/tiny_agent.py`, imported at run time only."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_contrastive import registry

TINY = str(Path(__file__).parent.parent / "tiny_agent.py")


@pytest.fixture
def tiny() -> str:
    registry.import_file(Path(TINY))
    return TINY
