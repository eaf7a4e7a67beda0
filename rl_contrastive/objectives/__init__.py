"""Contrastive objectives, one family a file; `make(name)` builds a registered one from its config's values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_contrastive.registry import build

if TYPE_CHECKING:
    from rl_contrastive.objectives.base import Objective


def make(name: str, options: Any = None) -> Objective:
    """The objective `name` with its config or values of it, e.g. make("infonce", {"temperature": .5})."""
    objective: Objective = build("objective", name, options)
    return objective
