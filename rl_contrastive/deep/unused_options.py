"""Which options of the deep agent do nothing without another one; given all the same, they are refused.

Options that runs with and without a bonus share are left alone, so that a control differs in one option: those of `rnd`
beside another bonus, and all beside beta 0.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from rl_contrastive.config import require
from rl_contrastive.deep.bonus_config import KINDS, BonusConfig

if TYPE_CHECKING:
    from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig


class Need(NamedTuple):
    """Options of one table, and what they need."""

    table: str
    """bonus, search, or nothing for the agent's own options."""
    options: tuple[str, ...]
    needs: str
    """For the sentence."""
    met: Callable[[ContrastiveUCBDeepConfig], bool]


def _lifelong(bonus: BonusConfig) -> str:
    return "none" if bonus.parts is None else bonus.parts.lifelong


def _gate(bonus: BonusConfig) -> str:
    return bonus.parts.gate or "none" if bonus.parts is not None else "none"


def _uses_features(bonus: BonusConfig) -> bool:
    return bonus.parts is not None and bonus.parts.uses_features


NEEDS = (
    Need(
        "bonus",
        ("lam", "power"),
        "lifelong cells, ellipse or counts",
        lambda c: _lifelong(c.bonus) in ("cells", "ellipse", "counts"),
    ),
    Need("bonus", ("gate_lam",), "gate e3b or ellipse", lambda c: _gate(c.bonus) in ("e3b", "ellipse")),
    Need(
        "bonus",
        ("tilings", "directions", "width", "rho"),
        "lifelong cells or gate cells",
        lambda c: "cells" in (_lifelong(c.bonus), _gate(c.bonus)),
    ),
    Need("bonus", ("features", "past"), "a part that is computed from features", lambda c: _uses_features(c.bonus)),
    Need("bonus", ("unit",), "a kind other than none", lambda c: c.bonus.parts is not None),
    Need("search", ("k", "temperature", "memory"), "search.alpha > 0", lambda c: c.search.alpha > 0),
    Need("", ("priority_beta", "priority_steps"), "priorities, alpha > 0", lambda c: c.alpha > 0),
)


def check_used(config: ContrastiveUCBDeepConfig) -> None:
    """RlcError that names the options which are not at their defaults and would do nothing."""
    for table, options, needs, met in NEEDS:
        if met(config):
            continue
        owner = attrgetter(table)(config) if table else config
        given = [name for name in options if getattr(owner, name) != getattr(type(owner), name)]
        if table == "bonus" and "width" in given and _usual_width(config.bonus):
            given.remove("width")
        names = " and ".join(f"{table}.{name}" if table else name for name in given)
        verb = "do" if len(given) > 1 else "does"
        now = f"; bonus.kind is {config.bonus.kind}" if table == "bonus" and "kind" not in needs else ""
        require(not given, f"deep: leave out {names}, which {verb} nothing without {needs}{now}.")


def _usual_width(bonus: BonusConfig) -> bool:
    """Whether the width is that of the kind, which older run folders name anyway; none has any."""
    return bonus.kind == "none" or bonus.width == KINDS[bonus.kind].width
