"""Claim (DebCSE, Miao et al. 2023; formulas from memory): positives drawn with weight sim/e undo a bias to surfaces.

Items have a meaning and a surface (a style), and the pretrained similarity that proposes positives is half surface.
e = ((1 + cos of surfaces) / 2)^3 says how likely that rule picks a pair because it looks alike. Positives come from the
40 most similar items with weight sim/e, hard negatives with (1 - sim) e, then InfoNCE. The controls are positives by
similarity alone and augmentation alone; the ablations leave out one of the two samplers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.stacked import SEEDS, Stack, centres, descend, generators, least, shown
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.features.embedding import directions
from rl_contrastive.objectives.samplers import PropensityConfig, PropensitySampler
from rl_contrastive.objectives.softmax import InfoNCE, InfoNCEConfig
from rl_contrastive.objectives.views import unit
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray, IntArray

SIMILAR, DEBIASED, NOTHING, HARD = "similarity", "inverse propensity", "augmentation", "hard"
METHODS: dict[str, tuple[str, bool]] = {
    "augmentation alone": (NOTHING, False),
    "similarity alone": (SIMILAR, False),
    "inverse propensity, both": (DEBIASED, True),
    "inverse propensity, positives": (DEBIASED, False),
    "hard negatives, similarity": (SIMILAR, True),
}
"""Name -> where positives come from, and whether a hard negative is one more column."""
OURS, BIASED, PLAIN = "inverse propensity, both", "similarity alone", "augmentation alone"


@dataclass(frozen=True)
class PropensityClaimConfig(Options, where="propensity"):
    """The world and the training."""

    items: Annotated[int, Ge(50)] = 1500
    """Items."""
    clusters: Annotated[int, Ge(2)] = 20
    """Meanings, and as many styles."""
    dim: Annotated[int, Ge(2)] = 8
    """Coordinates of a meaning and of a surface."""
    spread: Annotated[float, Gt(0)] = 0.3
    """Standard deviation within a cluster, of centres with 1."""
    noise: Annotated[float, Gt(0)] = 0.3
    """Standard deviation of the augmentation."""
    k: Annotated[int, Ge(1)] = 40
    """Candidates for positives."""
    batch: Annotated[int, Ge(2)] = 64
    """B."""
    steps: Annotated[int, Ge(1)] = 400
    """Gradient steps."""
    temperature: Annotated[float, Gt(0)] = 0.1
    """tau."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Of Adam."""
    seeds: tuple[int, ...] = SEEDS
    """Worlds, one a seed."""

    @classmethod
    def quick(cls) -> PropensityClaimConfig:
        """Seconds."""
        return cls(items=600, k=16, steps=150, seeds=SEEDS[:2])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 2, "propensity: give at least two seeds.")


@dataclass(frozen=True)
class Items:
    """One world."""

    meaning: FloatArray
    """(n, dim)."""
    surface: FloatArray
    """(n, dim)."""
    pretrained: FloatArray
    """(n, 2 dim): its cosine is half meaning, half surface."""
    seen: Tensor
    """(n, 2 dim), what the encoder sees: a linear image of both."""


def make_items(config: PropensityClaimConfig, seed: int) -> Items:
    """Meanings and surfaces in clusters, each drawn apart from the other."""
    rng = rng_of(seed, 0)

    def clustered() -> FloatArray:
        centres = rng.standard_normal((config.clusters, config.dim))
        of = rng.integers(config.clusters, size=config.items)
        return np.asarray(centres[of] + config.spread * rng.standard_normal((config.items, config.dim)))

    meaning, surface = clustered(), clustered()
    both = np.concatenate([meaning, surface], axis=1)
    W = rng.standard_normal((2 * config.dim, 2 * config.dim)) / np.sqrt(2 * config.dim)
    pretrained = np.concatenate([directions(meaning), directions(surface)], axis=1)
    return Items(meaning, surface, pretrained, torch.as_tensor(both @ W, dtype=torch.float32))


def partners_of(items: Items, config: PropensityClaimConfig, kind: str, rng: np.random.Generator) -> IntArray:
    """(n, steps) a partner of each item for each step: by similarity alone (e = 1), inverse propensity, or hard."""
    surface = np.ones((config.items, 1)) if kind == SIMILAR else items.surface
    role: Any = "negative" if kind == HARD else "positive"
    sampler = PropensitySampler(items.pretrained, surface, PropensityConfig(role, k=config.k, draws=config.steps))
    return sampler(np.arange(config.items), rng)[0]


def train(worlds: list[Items], config: PropensityClaimConfig, positives: str, hard: bool) -> Tensor:
    """Embeddings (S, n, d) of all items after training on pairs of a kind."""
    S, B, d = len(worlds), config.batch, 2 * config.dim
    encoder = Stack([d, 64, 16], rngs=generators(config.seeds, 1))
    rngs = [rng_of(seed, 2) for seed in config.seeds]
    kinds = ([] if positives == NOTHING else [positives]) + [HARD] * hard
    partners = [[partners_of(w, config, kind, rng) for kind in kinds] for w, rng in zip(worlds, rngs, strict=True)]
    x = torch.stack([world.seen for world in worlds])
    objective = InfoNCE(InfoNCEConfig(config.temperature))
    law = (1.0 - torch.eye(B)).expand(S, B, B)
    law = torch.cat([law, torch.ones(S, B, 1)], -1) if hard else law
    law = law / law.sum(-1, keepdim=True)

    def pick(s: int, step: int) -> IntArray:
        """(2 or 3, B): anchors, their positives, their hard negatives."""
        index = rngs[s].choice(config.items, B, replace=False)
        return np.stack([index, *([index] if positives == NOTHING else []), *(p[index, step] for p in partners[s])])

    def loss(step: int) -> Tensor:
        index = torch.from_numpy(np.stack([pick(s, step) for s in range(S)])).flatten(1)  # (S, 2B or 3B)
        seen = x[torch.arange(S)[:, None], index]
        noise = np.stack([rng.standard_normal(seen.shape[1:]) for rng in rngs])
        z = unit(encoder(seen + config.noise * torch.as_tensor(noise, dtype=torch.float32)))
        a, b, c = z[:, :B], z[:, B : 2 * B], z[:, 2 * B :]
        scores = a @ b.mT  # (S, B, B)
        pos = scores.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        neg = torch.cat([scores, (a * c).sum(-1, keepdim=True)], -1) if hard else scores
        return objective.loss(pos, neg, torch.full_like(pos, 1.0 / B), law).loss

    descend(encoder.parameters(), loss, config.steps, config.lr)
    z: Tensor = encoder(x).detach()
    return z


def rank_correlation(a: FloatArray, b: FloatArray) -> float:
    """Spearman's, over the pairs i < j of two matrices of cosines."""
    from scipy.stats import spearmanr

    upper = np.triu_indices(len(a), 1)
    return float(spearmanr(a[upper], b[upper]).statistic)


def cosines(x: FloatArray) -> FloatArray:
    """(n, n)."""
    z = directions(x)
    return np.asarray(z @ z.T)


@register("claim", "objectives/propensity", PropensityClaimConfig)
def propensity(config: PropensityClaimConfig, context: Context) -> Report:
    """Inverse propensity weights recover the meaning that a pretrained similarity mixes with the surface (DebCSE)."""
    worlds = [make_items(config, seed) for seed in config.seeds]
    meaning, surface = ({name: np.zeros(len(worlds)) for name in METHODS} for _ in range(2))
    for name in context.each("method", METHODS):
        z = train(worlds, config, *METHODS[name]).numpy()
        for s, world in enumerate(worlds):
            some = rng_of(config.seeds[s], 3).choice(config.items, min(config.items, 500), replace=False)
            learned = cosines(z[s][some])
            meaning[name][s] = rank_correlation(learned, cosines(world.meaning[some]))
            surface[name][s] = rank_correlation(learned, cosines(world.surface[some]))
        context.say(f"{name}: {meaning[name].mean():.3f}")
    return report(config, context, meaning, surface)


def report(
    config: PropensityClaimConfig, context: Context, meaning: dict[str, FloatArray], surface: dict[str, FloatArray]
) -> Report:
    """Bars, table, picture."""
    gain = meaning[OURS] - meaning[BIASED]
    bars = [
        least("meaning: inverse propensity - similarity alone", gain, 0.10),
        Bar("meaning: inverse propensity > augmentation alone", "mean difference > 0",
            shown(meaning[OURS] - meaning[PLAIN]), bool((meaning[OURS] - meaning[PLAIN]).mean() > 0)),
        least("control: hard negatives alone, positives by similarity - similarity alone",
              meaning["hard negatives, similarity"] - meaning[BIASED], 0.10, control=True),
    ]  # fmt: skip
    rows = [(name, shown(meaning[name]), shown(surface[name])) for name in METHODS]

    def paint(axis: Any) -> None:
        where = np.arange(len(METHODS))
        for i, (label, values) in enumerate((("with meaning", meaning), ("with surface", surface))):
            centre, error = centres([values[name] for name in METHODS])
            axis.barh(where - 0.2 + 0.4 * i, centre, 0.38, xerr=error, color=colour(i), label=label)
        axis.set_yticks(where, [name.replace(", ", ",\n") for name in METHODS])
        axis.invert_yaxis()
        axis.set(xlabel="Spearman's correlation with the learned cosine")

    return Report(
        claim="positives drawn with weight similarity/propensity, and hard negatives, recover meaning better than "
        "positives by a similarity that is half surface",
        bars=bars,
        answer=f"Against positives by similarity alone the correlation with the true meaning rises by {shown(gain)}; "
        f"of it the positives alone make "
        f"{shown(meaning['inverse propensity, positives'] - meaning[BIASED])} and the hard negatives alone "
        f"{shown(meaning['hard negatives, similarity'] - meaning[BIASED])}.",
        tables=[Table("Spearman's correlation of the learned cosine", ("Method", "with meaning", "with surface"), rows,
                      f"Mean over {len(config.seeds)} seeds, 95% t-interval.", 1)],
        plots=[draw(context.out, "propensity", {"What the embedding keeps": paint},
                    f"{config.items} items, {config.clusters} meanings and styles, {len(config.seeds)} seeds; "
                    "bars: 95% t-intervals.")],
        numbers={"meaning": meaning, "surface": surface},
    )  # fmt: skip
