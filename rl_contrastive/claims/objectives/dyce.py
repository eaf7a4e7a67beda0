"""Claim (BECLR, Poulakakis-Daktylidis and Jamali-Rad 2024): a memory in balanced partitions finds better positives.

A student learns from a teacher on items of 30 latents; to each pair of views come the 10 memory vectors nearest to the
teacher's view, as further positives. DyCE looks within the partition of the nearest prototype, top-k in all of the
memory. Measured is the share of added positives that have the anchor's latent, in the second half of the training.
Control: DyCE as the published code assigns, by plus the distance. One-shot accuracy on 30 unseen latents is reported.

A batch is shared out evenly, and a small one is not even: what is over of one latent goes to another one's partition.
In case that is what holds DyCE back, two other ways are measured beside it: k-means again each time the memory has been
replaced, which gives every vector its nearest prototype, and batches of 256 with half the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.claims.base import Context, Report, Table
from rl_contrastive.claims.stacked import SEEDS, Stack, centres, descend, generators, least, shown
from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.objectives.memory import BECLR, DyCEConfig, DyCEMemory
from rl_contrastive.objectives.views import Views, unit
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray, IntArray

NONE, TOP, OURS, PUBLISHED = "no memory", "top-k", "DyCE", "DyCE, published sign"
AGAIN, TOP_LARGE, LARGE = "DyCE, k-means again", "top-k, batch 256", "DyCE, batch 256"
METHODS, WAYS = (NONE, TOP, OURS, PUBLISHED), (AGAIN, TOP_LARGE, LARGE)


@dataclass(frozen=True)
class DyceClaimConfig(Options, where="dyce"):
    """The world and the training."""

    latents: Annotated[int, Ge(2)] = 30
    """Latents to train on, and as many that stay unseen."""
    items: Annotated[int, Ge(2)] = 40
    """Items of each."""
    inputs: Annotated[int, Ge(2)] = 32
    """Coordinates of an item."""
    spread: Annotated[float, Gt(0)] = 0.1
    """Standard deviation of the items of one latent, of centres with 1."""
    noise: Annotated[float, Gt(0)] = 0.7
    """Standard deviation of the augmentation."""
    dim: Annotated[int, Ge(2)] = 16
    """d."""
    prototypes: Annotated[int, Ge(2)] = 32
    """K."""
    scale: Annotated[int, Ge(1)] = 20
    """Vectors of the memory, in multiples of K."""
    k: Annotated[int, Ge(1)] = 10
    """Memory vectors added to each pair."""
    batch: Annotated[int, Ge(2)] = 64
    """B."""
    steps: Annotated[int, Ge(2)] = 300
    """Gradient steps."""
    momentum: Annotated[float, In(0, 1, below=True)] = 0.9
    """Share of the old teacher that stays."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Of Adam."""
    ways: bool = True
    """Also the two other ways, reported without a bar."""
    seeds: tuple[int, ...] = SEEDS
    """Worlds, one a seed."""

    @classmethod
    def quick(cls) -> DyceClaimConfig:
        """Seconds."""
        return cls(steps=100, ways=False, seeds=SEEDS[:2])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 2, "dyce: give at least two seeds.")


def memory_of(config: DyceClaimConfig, method: str) -> DyCEConfig:
    """Partitions and their upkeep."""
    size = config.scale * config.prototypes
    if method in (TOP, TOP_LARGE):
        return DyCEConfig(1, size)
    again = size // config.batch if method == AGAIN else 0
    return DyCEConfig(config.prototypes, config.scale, every=again, published_sign=method == PUBLISHED)


def make_items(config: DyceClaimConfig) -> Tensor:
    """(S, 2 latents, items, inputs): the second half of the latents stays unseen."""
    worlds = []
    for seed in config.seeds:
        rng = rng_of(seed, 0)
        centres = rng.standard_normal((2 * config.latents, 1, config.inputs))
        own = rng.standard_normal((2 * config.latents, config.items, config.inputs))
        worlds.append(centres + config.spread * own)
    return torch.as_tensor(np.stack(worlds), dtype=torch.float32)


class Study:
    """Students, teachers and memories of all seeds."""

    def __init__(self, config: DyceClaimConfig, method: str) -> None:
        if method in (TOP_LARGE, LARGE):
            config = replace(config, batch=256, steps=config.steps // 2)
        self.config, self.method, S = config, method, len(config.seeds)
        self.x = make_items(config)
        self.slots = config.latents * config.items
        self.seen = self.x[:, : config.latents].flatten(1, 2)  # (S, slots, inputs)
        d, widths = config.dim, [config.inputs, 64, config.dim]
        self.student = Stack(widths, rngs=generators(config.seeds, 1))
        self.teacher = Stack(widths, rngs=generators(config.seeds, 1))
        self.predictor = Stack([d, 32, d], rngs=generators(config.seeds, 2))
        self.rngs = [rng_of(seed, 3) for seed in config.seeds]
        self.memories = [DyCEMemory(d, memory_of(config, method), slots=self.slots) for _ in range(S)]
        self.loss = BECLR()
        self.right: list[FloatArray] = []
        """Shares (S,) of added positives with the anchor's latent, one a step."""
        self._shares: list[float] = []

    def fit(self) -> None:
        """All steps."""
        descend([*self.student.parameters(), *self.predictor.parameters()], self.step, self.config.steps,
                self.config.lr)  # fmt: skip

    def step(self, step: int) -> Tensor:
        """Loss (S,) of a batch, its teachers' views pushed into the memories."""
        del step
        self._follow()
        index = np.stack([rng.choice(self.slots, self.config.batch, replace=False) for rng in self.rngs])
        x = self.seen[torch.arange(len(index))[:, None], torch.from_numpy(index)]  # (S, B, inputs)
        a, b = (x + self.config.noise * self._normal(x) for _ in range(2))
        z1, z2 = self.student(a), self.student(b)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        with torch.no_grad():
            t1, t2 = self.teacher(a), self.teacher(b)
        loss = self.loss(Views(torch.stack([p1, p2, t1, t2, z1, z2], 1))).loss  # (S,)
        if self.method == NONE:
            return loss
        if self.memories[0].clustered_at >= 0:
            found = torch.stack([self._added(s, t1[s], index[s]) for s in range(len(index))])  # (S, B, k, d)
            more = pulled(p1, found) + pulled(p2, found) - pulled(p1, t2.unsqueeze(2)) - pulled(p2, t1.unsqueeze(2))
            k = self.config.k
            loss = loss + 0.5 * k / (1 + k) * more  # each pull is the mean over the pair's own and the k added
            self.right.append(np.array(self._shares))
            self._shares.clear()
        for s, memory in enumerate(self.memories):
            memory.push(t1[s], index[s], rng=self.rngs[s])
        return loss

    def _added(self, s: int, t: Tensor, index: IntArray) -> Tensor:
        """The memory's (B, k, d) nearest to teachers' views t (B, d); notes how many have the right latent."""
        memory = self.memories[s]
        where = memory.nearest(t, self.config.k, own=index)  # (B, k)
        same = memory.index[where] // self.config.items == (index // self.config.items)[:, None]
        self._shares.append(float(same.mean()))
        return memory.z[torch.from_numpy(where)]

    @torch.no_grad()
    def _follow(self) -> None:
        """teacher <- momentum teacher + (1 - momentum) student."""
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, 1.0 - self.config.momentum)

    def _normal(self, like: Tensor) -> Tensor:
        drawn = [rng.standard_normal(like.shape[1:], dtype=np.float32) for rng in self.rngs]
        return torch.as_tensor(np.stack(drawn))

    def precision(self) -> FloatArray:
        """(S,) share of right positives in the second half of the steps that added any."""
        return np.asarray(np.mean(self.right[len(self.right) // 2 :], axis=0))

    def purity(self) -> FloatArray:
        """(S,) share of the memory's vectors that have the most frequent latent of their partition."""
        out = []
        for memory in self.memories:
            latent = memory.index // self.config.items
            most = [np.bincount(latent[memory.label == k]).max(initial=0) for k in np.unique(memory.label)]
            out.append(sum(most) / len(latent))
        return np.array(out)

    @torch.no_grad()
    def one_shot(self) -> FloatArray:
        """(S,) accuracy on views of unseen latents, each view in turn the labelled one of its latent."""
        x = self.x[:, self.config.latents :]  # (S, L, items, inputs)
        x = x + self.config.noise * self._normal(x)
        S, L, n, _ = x.shape
        z = unit(self.student(x.flatten(1, 2))).reshape(S, L, n, -1)
        hits = []
        for shot in range(n):
            scores = torch.einsum("slnd,smd->slnm", z, z[:, :, shot])  # query l, n with the shot of latent m
            right = scores.argmax(-1) == torch.arange(L)[:, None]
            hits.append(right[:, :, torch.arange(n) != shot].double().mean((-2, -1)))
        return torch.stack(hits).mean(0).numpy()


def pulled(p: Tensor, positives: Tensor) -> Tensor:
    """-cos(p, sg positive), mean over k positives and B rows: p (S, B, d), positives (S, B, k, d) -> (S,)."""
    return -torch.einsum("sbd,sbkd->sbk", unit(p), unit(positives)).mean((-2, -1))


@register("claim", "objectives/dyce", DyceClaimConfig)
def dyce(config: DyceClaimConfig, context: Context) -> Report:
    """Positives from balanced partitions of a memory have the right latent more often (BECLR's DyCE)."""
    precision, shot, pure = {}, {}, {}
    for method in context.each("method", METHODS + WAYS * config.ways):
        study = Study(config, method)
        study.fit()
        shot[method] = study.one_shot()
        if method != NONE:
            precision[method] = study.precision()
        if memory_of(config, method).prototypes > 1 and method != NONE:
            pure[method] = study.purity()
        context.say(f"{method}: one shot {shot[method].mean():.3f}")
    return report(config, context, precision, shot, pure)


def report(
    config: DyceClaimConfig,
    context: Context,
    precision: dict[str, FloatArray],
    shot: dict[str, FloatArray],
    pure: dict[str, FloatArray],
) -> Report:
    """Bars, table, picture."""
    gain = precision[OURS] - precision[TOP]
    bars = [
        least("share of right positives: DyCE - top-k", gain, 0.05),
        least("control: DyCE with the published sign - top-k", precision[PUBLISHED] - precision[TOP], 0.05,
              control=True),
    ]  # fmt: skip
    rows = [(m, *(shown(of[m]) if m in of else "" for of in (precision, pure, shot))) for m in shot]
    names = list(shot)
    ways = ""
    if AGAIN in precision:
        ways = (
            f" With k-means again whenever the memory has been replaced {shown(pure[AGAIN])} have, and the share of "
            f"right positives changes by {shown(precision[AGAIN] - precision[TOP])}; with batches of 256 and half the "
            f"steps it changes by {shown(precision[LARGE] - precision[TOP_LARGE])}."
        )

    def paint(axis: Any) -> None:
        for i, (label, values) in enumerate((("right positives", precision), ("1-shot accuracy", shot))):
            some = [j for j, m in enumerate(names) if m in values]
            centre, error = centres([values[names[j]] for j in some])
            axis.barh(np.array(some) + 0.4 * i - 0.2, centre, 0.38, xerr=error, color=colour(i), label=label)
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set(xlabel="share", xlim=(0, 1))

    return Report(
        claim="positives from the partition of the nearest prototype, of a memory that is shared out evenly, have the "
        "anchor's latent more often than the nearest of all of the memory",
        bars=bars,
        answer=f"The share of right positives changes by {shown(gain)}; one-shot accuracy on unseen latents changes by "
        f"{shown(shot[OURS] - shot[TOP])} against top-k and by {shown(shot[OURS] - shot[NONE])} against no memory "
        f"(reported, no bar). At the end {shown(pure[OURS])} of the memory have the most frequent latent of their "
        f"partition.{ways}",
        tables=[Table("Memories", ("Method", "right positives", "purity", "1-shot accuracy"), rows,
                      f"Mean over {len(config.seeds)} seeds, 95% t-interval.", 1)],
        plots=[draw(context.out, "dyce", {"What a memory adds": paint},
                    f"{config.latents} latents, {config.k} added positives, {len(config.seeds)} seeds; "
                    "bars: 95% t-intervals.", aside=True)],
        numbers={"precision": precision, "one_shot": shot, "purity": pure},
    )  # fmt: skip
