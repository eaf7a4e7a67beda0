"""Claim: mixing embeddings by their values (SupReMix) orders an embedding by value, which SupCon does not.

    observation = a curl of the value v in 0 .. 99 in 8 dimensions, among nuisance coordinates; label = v
    Spearman(|zn - zn'|, |v - v'|) over pairs of new observations;   error of v by ridge regression on zn

Mixtures are detached and not made unit length, as published. Source: Wu et al. 2023. Each part is left out in
turn: mixed negatives, mixed positives, distances |dy| + 1 in the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from rl_contrastive.analysis.figures import colour, draw, rng_of, words
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.objectives.worlds import Encoders, tensor, train
from rl_contrastive.claims.stacked import SEEDS, interval
from rl_contrastive.config import Ge, Gt, Options
from rl_contrastive.objectives.labelled import SupCon, SupConConfig, SupReMix, SupReMixConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray, IntArray

ORDERED, GAIN = 0.85, 0.3
VALUES, CURLED, NUISANCE = 100, 8, 24
PARTS: dict[str, dict[str, Any]] = {
    "SupReMix": {},
    "without mixed negatives": {"mix_neg": False},
    "without mixed positives": {"mix_pos": False},
    "without distances": {"magnify": False},
}


@dataclass(frozen=True)
class SupReMixClaimConfig(Options, where="supremix"):
    """Sizes of the measurement."""

    seeds: Annotated[tuple[int, ...], Ge(0)] = SEEDS
    """Worlds; nothing was chosen on them."""
    steps: Annotated[int, Ge(1)] = 500
    """Gradient steps."""
    batch: Annotated[int, Ge(2)] = 32
    """B, with two views of each."""
    temperature: Annotated[float, Gt(0)] = 0.5
    """tau of both losses."""
    mixtures: Annotated[int, Ge(1)] = 32
    """M, mixed positives of a row at most."""
    noise: Annotated[float, Ge(0)] = 0.3
    """Scale of each view's own noise."""
    dim: Annotated[int, Ge(2)] = 16
    """d."""
    hidden: Annotated[int, Ge(1)] = 64
    """Width of the hidden layer."""
    lr: Annotated[float, Gt(0)] = 2e-3
    """Adam's step size."""

    @classmethod
    def quick(cls) -> SupReMixClaimConfig:
        """Seconds."""
        return cls(seeds=SEEDS[:2], steps=250, batch=16, mixtures=16)


@register("claim", "objectives/supremix", SupReMixClaimConfig)
def supremix(config: SupReMixClaimConfig, context: Context) -> Report:
    """SupReMix orders embeddings by value; SupCon on the same values does not."""
    tau = config.temperature
    losses: dict[str, Any] = {"SupCon": SupCon(SupConConfig(temperature=tau))}
    for name, parts in PARTS.items():
        losses[name] = SupReMix(SupReMixConfig(temperature=tau, mixtures=config.mixtures, **parts))
    found = {}
    for name in context.each("loss", losses):
        found[name] = _measured(config, losses[name])
    context.say("control: shuffled labels")
    lost = _measured(config, losses["SupReMix"], shuffled=True)
    order = {name: interval(values["Spearman"]) for name, values in found.items()}
    gain = interval(found["SupReMix"]["Spearman"] - found["SupCon"]["Spearman"])
    blind = interval(lost["Spearman"])
    columns = ("Spearman", "error of v", "error of v, 5 neighbours")

    def paint(axis: Any) -> None:
        for i, values in enumerate([*found.values(), lost]):
            axis.plot(values["Spearman"], np.full(len(config.seeds), -i), "o", color=colour(i), alpha=0.6)
        axis.axvline(ORDERED, color="#555555", linestyle="--", linewidth=1, label="bar")
        axis.set_yticks(range(0, -len(found) - 1, -1), [*found, "shuffled values"])
        axis.set(xlabel="Spearman of distances and values", ylim=(-len(found) - 0.5, 0.5))

    return Report(
        claim="SupReMix orders embeddings by their values: distances rise with the difference of values, and more so "
        "than with SupCon",
        bars=[
            Bar("Spearman of SupReMix", f">= {ORDERED}", words(order["SupReMix"], 3),
                order["SupReMix"].estimate >= ORDERED),
            Bar("Spearman: SupReMix - SupCon", f">= {GAIN}", words(gain, 3), gain.estimate >= GAIN),
            control(f"values shuffled in training: Spearman {words(blind, 3)} (must stay < {ORDERED})",
                    failed=blind.estimate < ORDERED, what="control: shuffled values"),
        ],
        tables=[Table("What each part does", ("loss", *columns),
                      [(name, *(words(interval(values[c]), 3) for c in columns))
                       for name, values in {**found, "shuffled values": lost}.items()],
                      f"Mean [95% interval] over {len(config.seeds)} seeds; errors are mean |v - v-hat| / {VALUES}.")],
        plots=[draw(context.out, "supremix", {"Order by value": paint},
                    f"{VALUES} values, {config.steps} steps, tau {tau:g}; a dot is one of {len(config.seeds)} seeds.")],
        numbers={**found, "shuffled": lost},
    )  # fmt: skip


class Curl:
    """x = [curve(v) in 8 dimensions, nuisance] through a fixed rotation of each seed."""

    def __init__(self, seeds: tuple[int, ...]) -> None:
        made, size = [rng_of(seed, 0) for seed in seeds], CURLED + NUISANCE
        self.turns = np.stack([np.linalg.qr(rng.standard_normal((size, size)))[0] for rng in made])  # (S, x, x)
        self.phases = np.stack([rng.uniform(0, 2 * np.pi, CURLED) for rng in made])

    def instances(self, values: IntArray, rngs: list[np.random.Generator]) -> FloatArray:
        """(S, N, x) of values (S, N): the k-th coordinate is a wave with k half turns over all values."""
        t = values[..., None] / VALUES
        curve = np.sqrt(2.0) * np.sin(np.pi * np.arange(1, CURLED + 1) * t + self.phases[:, None])
        nuisance = np.stack([rng.standard_normal((values.shape[1], NUISANCE)) for rng in rngs])
        return np.asarray(np.concatenate([curve, nuisance], axis=-1) @ self.turns)


def _measured(config: SupReMixClaimConfig, loss: Any, *, shuffled: bool = False) -> dict[str, FloatArray]:
    """Number -> (S,) of encoders trained with this loss."""
    world, rngs = Curl(config.seeds), [rng_of(seed, 1) for seed in config.seeds]
    labels: list[Tensor] = []

    def noisy(x: FloatArray, views: int) -> FloatArray:
        eps = np.stack([rng.standard_normal((views, *x.shape[1:])) for rng in rngs])
        return np.asarray(x[:, None] + config.noise * eps)

    def batches() -> Iterator[Tensor]:
        for _ in range(config.steps):
            v = np.stack([rng.integers(VALUES, size=config.batch) for rng in rngs])
            told = np.stack([rng.permutation(row) for rng, row in zip(rngs, v, strict=True)]) if shuffled else v
            labels.append(torch.as_tensor(told))
            yield tensor(noisy(world.instances(v, rngs), 2))

    encoders = Encoders(config.seeds, (CURLED + NUISANCE, config.hidden, config.dim))
    train(encoders, loss, batches(), lr=config.lr, labels=iter(labels))
    v = np.tile(np.arange(4 * VALUES) % VALUES, (len(config.seeds), 1))
    z = encoders.embed(noisy(world.instances(v, rngs), 1)[:, 0])
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    out = [judged(x, y) for x, y in zip(z, v, strict=True)]
    return {name: np.array([one[name] for one in out]) for name in out[0]}


def judged(z: FloatArray, v: IntArray) -> dict[str, float]:
    """Of directions z (N, d) with values v (N,): order of distances, and errors of v learned on the first half."""
    i, j = np.triu_indices(len(z), 1)
    order = float(spearmanr(np.linalg.norm(z[i] - z[j], axis=1), np.abs(v[i] - v[j])).statistic)
    n, x = len(z) // 2, np.column_stack([z, np.ones(len(z))])
    line = np.linalg.solve(x[:n].T @ x[:n] + 1e-3 * np.eye(x.shape[1]), x[:n].T @ v[:n])
    near = np.argsort(np.square(z[n:, None] - z[None, :n]).sum(-1), axis=1)[:, :5]
    errors = {"error of v": x[n:] @ line, "error of v, 5 neighbours": v[:n][near].mean(1)}
    return {"Spearman": order, **{name: float(np.abs(guess - v[n:]).mean()) / VALUES for name, guess in errors.items()}}
