"""All objectives of unconditional energies by name; `make("meco", {"gamma": 0.5})` builds one from its config's values.

| name | needs | estimates Z by |
|---|---|---|
| nce, ence | q on data and noise | a learned log Z |
| meco, snis | q on noise | a moving average of importance weights; this batch alone |
| infonce | q on data and noise | this batch, the datum included |
| grid-likelihood | one or two dimensions | quadrature |
| fce | q, where its flow starts | a learned log Z; the noise is learned too |
| denoising-score, sliced-score | second derivatives | nothing (Z drops out) |
| energy-discrepancy | a blur of the data | nothing (Z drops out) |
| cd, pcd | chains of the model | nothing (samples stand for its gradient) |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl_contrastive.config import from_dict
from rl_contrastive.energy.base import Objective
from rl_contrastive.energy.compositional import MECO, MECOConfig
from rl_contrastive.energy.discrepancy import DiscrepancyConfig, EnergyDiscrepancy
from rl_contrastive.energy.divergence import CD, PCD, CDConfig, PCDConfig
from rl_contrastive.energy.flow_contrastive import FCE, FCEConfig
from rl_contrastive.energy.likelihood import GridLikelihood, GridLikelihoodConfig, InfoNCE, InfoNCEConfig
from rl_contrastive.energy.noise_contrastive import ENCE, NCE, ENCEConfig, NCEConfig
from rl_contrastive.energy.score import DenoisingConfig, DenoisingScore, SlicedConfig, SlicedScore
from rl_contrastive.errors import unknown_name

OBJECTIVES: dict[str, tuple[type, Callable[[Any], Objective[Any]]]] = {
    "nce": (NCEConfig, NCE),
    "ence": (ENCEConfig, ENCE),
    "meco": (MECOConfig, MECO),
    "snis": (MECOConfig, MECO),
    "infonce": (InfoNCEConfig, InfoNCE),
    "fce": (FCEConfig, FCE),
    "grid-likelihood": (GridLikelihoodConfig, GridLikelihood),
    "denoising-score": (DenoisingConfig, DenoisingScore),
    "sliced-score": (SlicedConfig, SlicedScore),
    "energy-discrepancy": (DiscrepancyConfig, EnergyDiscrepancy),
    "cd": (CDConfig, CD),
    "pcd": (PCDConfig, PCD),
}
FIXED: dict[str, dict[str, Any]] = {"snis": {"gamma": 1.0}}
"""What a name itself decides."""


def make(name: str, options: dict[str, Any] | None = None) -> Objective[Any]:
    """The objective `name` with `options` of its config."""
    if name not in OBJECTIVES:
        raise unknown_name("energy objective", name, OBJECTIVES)
    config, factory = OBJECTIVES[name]
    return factory(from_dict(config, {**(options or {}), **FIXED.get(name, {})}, f"{name}."))
