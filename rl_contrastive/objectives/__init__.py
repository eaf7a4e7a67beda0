"""Contrastive objectives, one family a file; `make(name)` builds a registered one from its config's values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_contrastive.config import from_dict
from rl_contrastive.registry import get

if TYPE_CHECKING:
    from rl_contrastive.objectives.base import Objective


def make(name: str, options: dict[str, Any] | None = None) -> Objective:
    """The objective `name` with `options` of its config, e.g. make("infonce", {"temperature": .5})."""
    entry, fixed = get("objective", name)
    objective: Objective = entry.factory(from_dict(entry.config, {**(options or {}), **fixed}, f"{name}."))
    return objective
