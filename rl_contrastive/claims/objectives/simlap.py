"""Claim (SimLAP, first called Hydra; Wu et al. 2024): a gate of two classes finds what any two of them share.

27 classes are all combinations of 3 attributes with 3 values. For an anchor of class y1 the positives are instances of
a drawn class y2, compared behind the gate g(y1, y2). Measured on new instances: the area under the ROC curve of the
gated cosine between the mean of class a and instances, those of class b against those of neither class, by the number
of attributes that a and b share. Controls: no gate (1 everywhere), which collapses, and pairs of one class only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.objectives.digits import normal, rows_of
from rl_contrastive.claims.stacked import SEEDS, Stack, centres, descend, generators, least, most, shown
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.features.embedding import effective_rank
from rl_contrastive.objectives.heads import Gate, GateConfig
from rl_contrastive.objectives.separated import SimLAP
from rl_contrastive.objectives.views import Views
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

GATED, OPEN, ONE_CLASS = "gate", "gate = 1", "pairs of one class"
METHODS = (GATED, OPEN, ONE_CLASS)
PRODUCT, LONGER = "product of two gates", "gate, twice the steps"
WAYS = (PRODUCT, LONGER)
"""Other ways to train the gate, whose correlation is reported."""
CLASSES = torch.tensor(list(product(range(3), repeat=3)))
"""(27, 3) attributes of each class."""
SHARED = (CLASSES.unsqueeze(0) == CLASSES.unsqueeze(1)).sum(-1)
"""(27, 27) attributes that two classes share."""


@dataclass(frozen=True)
class SimlapClaimConfig(Options, where="simlap"):
    """The world and the training."""

    inputs: Annotated[int, Ge(3)] = 32
    """Coordinates of an observation."""
    noise: Annotated[float, Gt(0)] = 0.6
    """Standard deviation of what is added to the sum of an observation's three attribute vectors."""
    dim: Annotated[int, Ge(2)] = 24
    """d."""
    hidden: Annotated[int, Ge(1)] = 128
    """Width of the encoder."""
    batch: Annotated[int, Ge(4)] = 128
    """B."""
    steps: Annotated[int, Ge(1)] = 500
    """Gradient steps."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Of Adam."""
    test: Annotated[int, Ge(2)] = 20
    """New instances of each class."""
    ways: bool = True
    """Also train the gate in other ways, reported without a bar."""
    seeds: tuple[int, ...] = SEEDS
    """Worlds, one a seed."""

    @classmethod
    def quick(cls) -> SimlapClaimConfig:
        """Seconds."""
        return cls(steps=300, batch=96, test=10, ways=False, seeds=SEEDS[:2])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 2, "simlap: give at least two seeds.")


class Study:
    """Encoders and gates of all seeds, trained one way."""

    def __init__(self, config: SimlapClaimConfig, method: str) -> None:
        self.config, self.method = config, method
        worlds = generators(config.seeds, 1)
        self.vectors = torch.stack([torch.randn(3, 3, config.inputs, generator=rng) for rng in worlds])
        self.encoder = Stack([config.inputs, config.hidden, config.dim], rngs=generators(config.seeds, 2))
        kind = GateConfig(fuse=method != PRODUCT)
        self.gates = [Gate(len(CLASSES), config.dim, kind, rng=rng) for rng in generators(config.seeds, 3)]
        self.rngs = generators(config.seeds, 4)
        self.objective = SimLAP()

    def observe(self, y: Tensor) -> Tensor:
        """Observations (S, N, inputs) of classes y (S, N)."""
        parts = [rows_of(self.vectors[:, i], CLASSES[y][..., i]) for i in range(3)]
        x = torch.stack(parts).sum(0)
        return x + self.config.noise * normal(x, rngs=self.rngs)

    def embed(self, x: Tensor) -> Tensor:
        """z (S, N, d) behind a layer norm."""
        return nn.functional.layer_norm(self.encoder(x), (self.config.dim,))

    def gate(self, y1: Tensor, y2: Tensor, training: bool) -> Tensor:
        """Gates (S, N, d) of pairs (S, N)."""
        return torch.stack([g(a, b, training) for g, a, b in zip(self.gates, y1, y2, strict=True)])

    def fit(self) -> None:
        """All steps."""
        steps = self.config.steps * (2 if self.method == LONGER else 1)
        gates = [] if self.method == OPEN else [p for g in self.gates for p in g.parameters()]
        descend([*self.encoder.parameters(), *gates], self.step, steps, self.config.lr)

    def step(self, step: int) -> Tensor:
        """Loss (S,) of a batch."""
        del step
        B = self.config.batch
        y = torch.stack([torch.randint(len(CLASSES), (B,), generator=rng) for rng in self.rngs])
        order = torch.stack([torch.randperm(B, generator=rng) for rng in self.rngs])
        partner = y if self.method == ONE_CLASS else rows_of(y, order)
        gate = None if self.method == OPEN else self.gate(y, partner, True)
        z = self.embed(self.observe(y)).unsqueeze(1)  # (S, 1, B, d)
        return self.objective(Views(z, label=y, partner=partner, gate=gate)).loss

    @torch.no_grad()
    def judge(self) -> dict[str, FloatArray]:
        """(S,) each: areas by shared attributes, effective rank, correlation of the gates."""
        n, C, S = self.config.test, len(CLASSES), len(self.vectors)
        y = torch.arange(C).repeat_interleave(n).expand(S, -1)  # (S, C n)
        z = self.embed(self.observe(y))
        first, second = (~torch.eye(C, dtype=torch.bool)).nonzero().unbind(-1)  # all pairs a != b
        ones = torch.ones(S, len(first), self.config.dim)
        gate = ones if self.method == OPEN else self.gate(first.expand(S, -1), second.expand(S, -1), False)
        query = z.reshape(S, C, n, -1).mean(2)[:, first]  # (S, P, d)
        g = gate.square()
        scores = ((g * query) @ z.mT) / (g @ z.square().mT).clamp_min(1e-12).sqrt()  # cosines, but for |g query|
        found = area(scores, y[0] == second.unsqueeze(-1), (y[0] != first.unsqueeze(-1)))
        shared = SHARED[first, second]
        out = {f"shared {k}": found[:, shared == k].mean(-1).numpy() for k in range(3)}
        out["rank"] = np.array([effective_rank(part.numpy()) for part in z])
        own = torch.arange(C).expand(S, -1)
        for name, centred in (("spearman", False), ("spearman, centred", True)):
            blind = self.method == OPEN
            out[name] = np.full(S, np.nan) if blind else agreement(self.gate(own, own, False), centred)
        return out


def area(scores: Tensor, of: Tensor, allowed: Tensor) -> Tensor:
    """P(score of a member > score of another), (S, P): scores (S, P, M), members `of` (P, M) among `allowed` (P, M)."""
    rank = scores.masked_fill(~allowed, -torch.inf).argsort(-1).argsort(-1)  # what is not allowed comes first
    members, others = of.sum(-1), (allowed & ~of).sum(-1)
    start = (~allowed).sum(-1)
    total = ((rank - start.unsqueeze(-1)) * of).sum(-1).double()  # ranks 0, 1, ... among the allowed
    return (total - members * (members - 1) / 2) / (members * others)


def agreement(own: Tensor, centred: bool = False) -> FloatArray:
    """(S,) Spearman's correlation, over pairs of classes, of cos(g(y,y), g(y',y')) and the attributes they share.

    centred: the mean gate (of all classes) taken off, so that what all gates share does not decide the cosine.
    """
    from scipy.stats import spearmanr

    own = own - own.mean(1, keepdim=True) if centred else own
    g = nn.functional.normalize(own, dim=-1)
    upper = np.triu_indices(len(CLASSES), 1)
    cosine = (g @ g.mT).numpy()
    return np.array([spearmanr(c[upper], SHARED.numpy()[upper]).statistic for c in cosine])


@register("claim", "objectives/simlap", SimlapClaimConfig)
def simlap(config: SimlapClaimConfig, context: Context) -> Report:
    """A gate of two classes finds what they share; without it the embedding collapses (SimLAP, Hydra)."""
    found = {}
    for method in context.each("method", METHODS + WAYS * config.ways):
        study = Study(config, method)
        study.fit()
        found[method] = study.judge()
        context.say(f"{method}: " + ", ".join(f"{key} {x.mean():.3f}" for key, x in found[method].items()))
    return report(config, context, found)


def gates_in_words(found: dict[str, dict[str, FloatArray]]) -> str:
    """What each way gives for the correlation of gates with shared attributes."""
    parts = [f"{name} {shown(of['spearman'])}, centred {shown(of['spearman, centred'])}" for name, of in found.items()
             if name != OPEN]  # fmt: skip
    return f"Similarity of gates against shared attributes, Spearman: {'; '.join(parts)}."


def report(config: SimlapClaimConfig, context: Context, found: dict[str, dict[str, FloatArray]]) -> Report:
    """Bars, table, picture."""
    rank = {name: of["rank"] for name, of in found.items()}
    ratio = rank[GATED] / rank[OPEN]
    bars = [
        least("AUC of pairs that share nothing, gate", found[GATED]["shared 0"], 0.95),
        most("the same without a gate", found[OPEN]["shared 0"], 0.6),
        most("the same with pairs of one class", found[ONE_CLASS]["shared 0"], 0.6),
        Bar("effective rank, gate / without a gate", "mean > 5", shown(ratio, 2), float(ratio.mean()) > 5.0),
        least("Spearman: similarity of gates, shared attributes", found[GATED]["spearman"], 0.2),
        least("control: AUC of pairs that share nothing, no gate", found[OPEN]["shared 0"], 0.95, control=True),
        least("control: Spearman, gates trained on pairs of one class", found[ONE_CLASS]["spearman"], 0.2,
              control=True),
    ]  # fmt: skip
    keys = list(found[GATED])
    rows = [(name, *(shown(of[k]) if np.isfinite(of[k]).all() else "" for k in keys)) for name, of in found.items()]

    def paint(axis: Any) -> None:
        for i, name in enumerate(METHODS):
            centre, error = centres([found[name][key] for key in keys[:3]])
            axis.bar(np.arange(3) + 0.27 * (i - 1), centre, 0.26, yerr=error, color=colour(i), label=name)
        axis.axhline(0.5, color="#555555", linewidth=0.8)
        axis.set_xticks(range(3), ["0", "1", "2"])
        axis.set_yticks(np.arange(6) / 5)
        axis.set(xlabel="attributes that the two classes share", ylabel="AUC of the gated cosine", ylim=(0, 1.45))

    def paint_gates(axis: Any) -> None:
        names = [name for name in found if name != OPEN]
        centre, error = centres([found[name]["spearman"] for name in names])
        axis.errorbar(centre, range(len(names)), xerr=error, fmt="o", color=colour(0))
        axis.axvline(0.2, color="#555555", linewidth=0.8)
        axis.set_yticks(range(len(names)), [name.replace(", ", ",\n").replace(" of ", "\nof ") for name in names])
        axis.set(xlabel="Spearman with shared attributes", ylim=(len(names) - 0.5, -0.5))

    return Report(
        claim="a gate of two classes lets an encoder find the members of either from the other, also where they share "
        "no attribute; without a gate the embedding collapses",
        bars=bars,
        answer=f"With the gate the area is {shown(found[GATED]['shared 0'])} for classes that share nothing; the "
        f"effective rank is {shown(rank[GATED], 1)} against {shown(rank[OPEN], 1)} without a gate and "
        f"{shown(rank[ONE_CLASS], 1)} with pairs of one class. {gates_in_words(found)}",
        tables=[Table("Areas, ranks, gates", ("Method", *keys), rows,
                      f"New instances, mean over {len(config.seeds)} seeds, 95% t-interval.", 1)],
        plots=[draw(context.out, "simlap", {"Finding class b from class a": paint, "Similarity of gates": paint_gates},
                    f"27 classes of 3 attributes, {len(config.seeds)} seeds; bars: 95% t-intervals; lines: chance, the "
                    "bar.")],
        numbers=found,
    )  # fmt: skip
