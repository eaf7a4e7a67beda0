"""Objectives of unconditional energies (`rlc list energy-objectives`); `make("meco", {"gamma": 0.5})` builds one.

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

Names that `objectives/` has too (nce, infonce, meco) share the terms of their losses (`contrast.py`, `compositional.
average_log`) and no class: a feature objective gets pairwise scores and weights, these get an energy, whose noise they
draw and check and whose log Z they learn or average.
"""

from __future__ import annotations

from typing import Any

from rl_contrastive.energy.base import Objective
from rl_contrastive.registry import build


def make(name: str, options: Any = None) -> Objective[Any]:
    """The objective `name` with its config or values of it."""
    objective: Objective[Any] = build("energy-objective", name, options)
    return objective
