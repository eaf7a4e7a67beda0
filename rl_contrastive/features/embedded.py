"""Transitions as an agent's features show them, and what of it TensorBoard gets at each evaluation.

Rows are compared within a feature space only: features fitted step by step have one space a step, and the numbers of
all steps are their means, weighted by rows. Nothing is drawn here: of stored transitions an evenly spread sample.
"""

from __future__ import annotations

import numpy as np

from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.embedding import TEMPERATURE, describe, mean_of
from rl_contrastive.features.maps import FeatureMap, TabularFeatures
from rl_contrastive.spec import Array, Embedded, ExactModel, IntArray, StepData

Latents = tuple[IntArray, IntArray]
"""Latent of (s,a) and latent of s', each (N,)."""
SAMPLE = 512
"""Stored transitions that are looked at in an evaluation: milliseconds."""
SHOWN = ("uniformity", "rank", "tolerance")
"""Of phi and of psi, beside their alignment."""


def at_step(features: FeatureMap, h: int, pair_obs: Array, action: IntArray, next_obs: Array) -> Embedded:
    """phi_h(o,a) and psi_h(o') of N transitions of step h, observations as the map takes them."""
    phi = features.phi(h, pair_obs)[np.arange(len(action)), action]
    return Embedded(phi, features.psi(h, next_obs), np.full(len(action), h))


def of_counts(features: TabularFeatures, counts: TransitionCounts, most: int = SAMPLE) -> Embedded | None:
    """At most `most` of the counted transitions (s,a,s'), each as often as it was seen; None where there are none."""
    ends = np.cumsum(counts.count)
    if not len(ends):
        return None
    total = float(ends[-1])
    places = np.linspace(0.5, total - 0.5, max(1, min(most, int(total))))
    at = np.searchsorted(ends, places)
    level, (s, a), s_next = counts.level[at], np.divmod(counts.pair[at], counts.num_actions), counts.succ[at]
    phi, psi = features.phi_table[level, s, a], features.psi_table[level, s_next]
    return Embedded(phi, psi, level, (s, a, s_next))


def of_rows(features: FeatureMap, data: StepData, most: int = SAMPLE) -> Embedded | None:
    """At most `most` of the stored rows of all steps; None where there are none."""
    held = int(data.count.sum())
    if held == 0:
        return None
    share = min(1.0, most / held)
    parts = []
    for h, count in enumerate(data.count):
        n = round(share * float(count))
        if n:
            at = np.linspace(0, count - 1, n).astype(np.int64)
            parts.append(at_step(features, h, data.obs[h, at], data.action[h, at], data.next_obs[h, at]))
    return joined(parts) if parts else None


def joined(parts: list[Embedded]) -> Embedded:
    """One after another, without the states."""
    phi, psi, level = (np.concatenate([getattr(part, name) for part in parts]) for name in ("phi", "psi", "level"))
    return Embedded(phi, psi, level)


def factors(model: ExactModel, level: IntArray, s: IntArray, a: IntArray, s_next: IntArray) -> Latents:
    """The likeliest latent factor of pairs and of successors: argmax_k phi_k(s,a), argmax_k psi_k(s'), each (N,)."""
    assert model.phi is not None
    assert model.psi is not None
    pair, successor = model.phi[level, s, a].argmax(axis=-1), model.psi[level, s_next].argmax(axis=-1)
    return np.asarray(pair, dtype=np.int64), np.asarray(successor, dtype=np.int64)


def has_factors(model: ExactModel | None) -> bool:
    """Whether states are observed and fewer latent factors than states explain what follows."""
    if model is None or model.phi is None or model.psi is None or not model.observations_are_states:
        return False
    return int(model.phi.shape[-1]) < len(model.rho)


def describe_spaces(
    found: Embedded, latents: Latents | None = None, *, temperature: float = TEMPERATURE
) -> dict[int, tuple[dict[str, float], dict[str, float]]]:
    """Feature space -> `describe` of its phi, with psi as the positives, and of its psi."""
    out = {}
    for space in np.unique(found.level):
        here = found.level == space
        phi, psi = found.phi[here], found.psi[here]
        pair, successor = (None, None) if latents is None else (latents[0][here], latents[1][here])
        out[int(space)] = (
            describe(phi, positives=psi, latents=pair, temperature=temperature),
            describe(psi, latents=successor, temperature=temperature),
        )
    return out


def board_scalars(found: Embedded, model: ExactModel | None = None) -> dict[str, float]:
    """What TensorBoard shows under features/: means over the feature spaces."""
    latents = None
    if found.states is not None and model is not None and has_factors(model):
        latents = factors(model, found.level, *found.states)
    both = list(describe_spaces(found, latents).values())
    phi, psi = mean_of([pair for pair, _ in both]), mean_of([successor for _, successor in both])
    sides = {f"{side}_{name}": of[name] for side, of in (("phi", phi), ("psi", psi)) for name in SHOWN if name in of}
    return sides | ({"alignment": phi["alignment"]} if "alignment" in phi else {})
