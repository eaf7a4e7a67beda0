"""Options of the deep agent that would do nothing are refused by name; those of all sweeps and records are accepted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agents_common import batches
from deep_common import LEARNER, SMALL, sea

from rl_contrastive import registry
from rl_contrastive.bridges.bonus_env_config import BonusEnvConfig
from rl_contrastive.config import from_dict
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig
from rl_contrastive.deep.bonus_config import KINDS
from rl_contrastive.deep.unused_options import NEEDS
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.run_config import read_config, resolve
from rl_contrastive.runs.sweep import load_sweep

ROOT = Path(__file__).parent.parent.parent
DEEP = re.compile(r"rnd-dqn|independent-dqn|contrastive-ucb(-game)?-deep")


def loss_of(loss: str, **representation: Any) -> dict[str, Any]:
    return {"representation": {"loss": loss, **representation}}


UNUSED: list[tuple[dict[str, Any], str]] = [
    ({"bonus": {"kind": "rnd", "lam": 1.0}}, "leave out bonus.lam, which does nothing without lifelong cells, ellipse"),
    ({"bonus": {"kind": "e3b", "lam": 1.0}}, "leave out bonus.lam,"),
    ({"bonus": {"kind": "none", "lam": 1.0}}, "leave out bonus.lam,"),
    (
        {"bonus": {"gate_lam": 1.0}},
        "leave out bonus.gate_lam, which does nothing without gate e3b or ellipse; bonus.kind is tiles.",
    ),
    ({"bonus": {"kind": "deir", "gate_lam": 1.0}}, "leave out bonus.gate_lam,"),
    (
        {"bonus": {"kind": "elliptical", "width": 0.5}},
        "leave out bonus.width, which does nothing without lifelong cells",
    ),
    ({"bonus": {"kind": "counts", "tilings": 8}}, "leave out bonus.tilings,"),
    (
        {"bonus": {"kind": "rnd", "directions": 3, "rho": 0.1}},
        "leave out bonus.directions and bonus.rho, which do nothing",
    ),
    ({"bonus": {"kind": "ours-arrival", "lifelong": "counts", "rho": 0.1}}, "leave out bonus.rho,"),
    ({"bonus": {"kind": "rnd", "features": "psi"}}, "leave out bonus.features,"),
    ({"bonus": {"kind": "counts", "features": "inverse"}}, "leave out bonus.features,"),
    (
        {"bonus": {"kind": "none", "unit": True}},
        "leave out bonus.unit, which does nothing without a kind other than none.",
    ),
    ({"search": {"k": 2}}, "leave out search.k, which does nothing without search.alpha > 0."),
    ({"search": {"temperature": 1.0, "memory": 5}}, "leave out search.temperature and search.memory, which do nothing"),
    ({"priority_beta": 0.5}, "leave out priority_beta, which does nothing without priorities, alpha > 0."),
    ({"priority_steps": 10}, "leave out priority_steps,"),
    ({"bonus": {"kind": "deir", "difference": 1.0}}, "give difference 0, or a lifelong part."),
    ({"bonus": {"kind": "e3b", "difference": 0.1}}, "give difference 0, or a lifelong part."),
    ({"bonus": {"kind": "noveld", "lifelong": "none"}}, "give difference 0, or a lifelong part."),
    ({"explore": {"heads": "apart", "weights": [0.0]}}, "weights must have a number > 0"),
    (
        {"learner": loss_of("inverse")},
        "take loss contrast, or lifelong cells of features inverse.",
    ),
    ({"learner": loss_of("temporal"), "bonus": {"kind": "elliptical"}}, "loss temporal trains no phi"),
    ({"learner": loss_of("inverse"), "bonus": {"kind": "ours-pair", "features": "phi"}}, "loss inverse trains no phi"),
]


@pytest.mark.parametrize(("options", "words"), UNUSED, ids=str)
def test_what_would_do_nothing_is_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RlcError, match=re.escape(words)):
        from_dict(ContrastiveUCBDeepConfig, options)


USED: list[dict[str, Any]] = [
    {"bonus": {"lam": 1.0, "tilings": 8, "width": 0.5}},
    {"bonus": {"kind": "counts", "lam": 1.0}},
    {"bonus": {"kind": "ours-arrival", "gate": "ellipse", "gate_lam": 1.0}},
    {"bonus": {"kind": "rnd", "gate": "cells", "rho": 0.1, "directions": 3, "features": "psi"}},
    {"bonus": {"kind": "rnd", "gate": "tried", "same": "features", "features": "inverse"}},
    {"bonus": {"width": 0.5, "rho": 0.1}},  # the width is that of the warm start
    {"bonus": {"kind": "none", "width": 0.2}},
    {"bonus": {"kind": "noveld", "lifelong": "none", "difference": 0.0}},
    {"search": {"alpha": 0.5, "k": 2, "temperature": 1.0, "memory": 5}},
    {"alpha": 0.5, "priority_beta": 0.5, "priority_steps": 10},
    {"explore": {"heads": "apart", "weights": [0.0, 1.0]}, "batch": 2},
    {"learner": loss_of("inverse", features="psi")},
    {"learner": loss_of("temporal"), "bonus": {"kind": "none"}},
    {"beta": 0.0, "bonus": {"kind": "etd", "unit": True}, "rnd": {"dim": 8}},
]


@pytest.mark.parametrize("options", USED, ids=str)
def test_what_does_something_and_what_a_control_shares_are_accepted(options: dict[str, Any]) -> None:
    from_dict(ContrastiveUCBDeepConfig, options)


def test_defaults_may_be_written_out_beside_every_kind() -> None:
    """Older run folders name the usual width of their kind."""
    for kind in (*KINDS, "none"):
        written = {name: getattr(ContrastiveUCBDeepConfig().bonus, name) for n in NEEDS[:5] for name in n.options}
        width = KINDS[kind].width if kind in KINDS else 1.0
        from_dict(ContrastiveUCBDeepConfig, {"bonus": {**written, "kind": kind, "width": width}})


def test_the_bonus_of_other_agents_may_keep_its_lambda_but_not_count_an_untrained_phi() -> None:
    """The default of Stable-Baselines3's bonus names a lambda, which a table with another kind keeps."""
    for kind in (*KINDS, "none"):
        assert from_dict(BonusEnvConfig, {"counts": {"kind": kind}}).counts.lam == 0.001
    with pytest.raises(RlcError, match="loss inverse trains no phi"):
        from_dict(BonusEnvConfig, {"features": loss_of("inverse")})


@pytest.mark.parametrize(
    ("kind", "moved"),
    [("tiles", {"encoder", "phi_head", "psi_head"}), ("e3b", {"encoder", "psi_head", "inverse_head"})],
)
def test_the_loss_of_inverse_dynamics_leaves_the_head_of_phi_as_it_was_drawn(kind: str, moved: set[str]) -> None:
    """Why it is refused where phi is counted; the contrastive loss moves both heads."""
    agent = sea({"kind": kind})
    net = agent.learner.features.online
    before = {name: value.clone() for name, value in net.named_parameters()}
    batches(agent, 0, 10)
    after = {name for name, value in net.named_parameters() if not torch.equal(value, before[name])}
    assert {part for part in ("encoder", "phi_head", "psi_head", "inverse_head") for n in after if part in n} == moved


def test_the_width_counts_until_the_first_rebuild_although_rho_fits_it() -> None:
    """Why both may be given: the unit of the bonus is measured from the first visit on."""
    spreads = []
    for width in (0.02, 2.0):
        agent = sea({"width": width, "rho": 0.5, "unit": True}, warm_start=60)
        batches(agent, 0, 8)
        assert agent.rebuilt_at > 0
        spreads.append(agent.update()["bonus_spread"])
    assert not np.isclose(*spreads, rtol=1e-3)


def test_every_sweep_and_every_record_of_a_deep_agent_is_accepted() -> None:
    sweeps = [
        path for path in sorted((ROOT / "docs" / "results").glob("*.toml")) if DEEP.search(path.read_text("utf-8"))
    ]
    for path in sweeps:
        load_sweep(path)
    folders = [
        path.parent for path in sorted((ROOT / "records").rglob("config.json")) if DEEP.search(path.read_text("utf-8"))
    ]
    for folder in folders:
        resolve(read_config(folder))
    assert len(sweeps) > 25
    assert len(folders) > 80


def test_small_agents_of_the_tests_share_options_of_rnd() -> None:
    """Options of `rnd` beside another bonus stay accepted: runs with and without it share them."""
    for kind in (*KINDS, "none"):
        from_dict(ContrastiveUCBDeepConfig, {**SMALL, "learner": LEARNER, "bonus": {"kind": kind}})
    entry, _ = registry.get("agent", "rnd-dqn")
    from_dict(entry.config, {"rnd": SMALL["rnd"], "beta": 0.0})
