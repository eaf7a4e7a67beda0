"""Claim: the temperature of a contrastive loss trades uniformity for tolerance, by how it shares the push on negatives.

    r_ij = exp(S_ij/tau) / sum_{k != i} exp(S_ik/tau)         the share of the push on negative j (NT-Xent)

A low tau pushes the nearest negatives alone, and these are instances of the anchor's own latent: directions spread
evenly and latents fall apart. Source: Wang & Liu 2021. Shares, uniformity and tolerance are those of each tau's own
network on views of new instances. Below tau = .1 only the share is judged: nearly all of the push is on one negative
there, and spreading ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, rng_of, ticks_at, words
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.objectives.worlds import (
    BlockWorld,
    Encoders,
    WorldConfig,
    probe,
    smallest_step,
    train,
    uniformities,
)
from rl_contrastive.claims.stacked import SEEDS, interval
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.features.embedding import hardness_share, tolerance
from rl_contrastive.objectives.pairwise import NTXent, NTXentConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

SAME = 0.2
"""The temperature of the control."""
LEAST = 0.1
"""Uniformity and tolerance are judged from this temperature on, the share at all."""
SIGNS = {"share": -1, "uniformity": 1, "tolerance": 1}
WORLD = WorldConfig(detail=0.8, noise=0.8)


@dataclass(frozen=True)
class TemperatureConfig(Options, where="temperature"):
    """Sizes of the measurement."""

    seeds: Annotated[tuple[int, ...], Ge(0)] = SEEDS
    """Worlds; nothing was chosen on them."""
    temperatures: Annotated[tuple[float, ...], Gt(0)] = (0.05, 0.1, 0.2, 0.5, 1.0)
    """tau, rising."""
    steps: Annotated[int, Ge(1)] = 600
    """Gradient steps."""
    batch: Annotated[int, Ge(2)] = 64
    """B instances with two views."""
    dim: Annotated[int, Ge(2)] = 16
    """d."""
    hidden: Annotated[int, Ge(1)] = 64
    """Width of the hidden layer."""
    lr: Annotated[float, Gt(0)] = 2e-3
    """Adam's step size."""
    judged: Annotated[int, Ge(40)] = 1000
    """New instances that uniformity, tolerance and shares are measured on."""
    world: WorldConfig = WORLD
    """Where the data come from."""

    @classmethod
    def quick(cls) -> TemperatureConfig:
        """Seconds."""
        return cls(seeds=SEEDS[:3], temperatures=(0.1, 0.3, 1.0), steps=250, batch=32, judged=400)

    def __post_init__(self) -> None:
        super().__post_init__()
        rising = all(a < b for a, b in zip(self.temperatures, self.temperatures[1:], strict=False))
        enough = sum(tau >= LEAST for tau in self.temperatures) >= 3
        require(enough and rising, f"temperature: give rising temperatures, at least three from {LEAST:g} on.")


@register("claim", "objectives/temperature", TemperatureConfig)
def temperature(config: TemperatureConfig, context: Context) -> Report:
    """A higher temperature pushes hard negatives less: less uniform, more tolerant of what belongs together."""
    taus = np.array(config.temperatures)
    found = {name: np.stack(rows) for name, rows in _measured(config, context, taus).items()}  # (T, S)
    same = {name: np.stack(rows) for name, rows in _measured(config, context, [SAME] * 3).items()}
    judged = {name: found[name][taus >= LEAST if name != "share" else slice(None)] for name in SIGNS}
    steps = {name: smallest_step(judged[name], sign) for name, sign in SIGNS.items()}
    flat = [rises(same[name], sign) for name, sign in SIGNS.items()]
    below = taus[taus < LEAST]
    shuffled = interval(found["shuffled"][-1] - found["shuffled"][0])
    words_of = {"share": "share of the push on the hardest 10 % strictly falls",
                "uniformity": f"uniformity strictly rises from tau {LEAST:g} on",
                "tolerance": f"tolerance strictly rises from tau {LEAST:g} on"}  # fmt: skip
    bars = [
        Bar(words_of[name], "at every step of tau on every seed",
            f"mean from {judged[name][0].mean():.3f} to {judged[name][-1].mean():.3f}; smallest step "
            f"{words(steps[name], 3)}", rises(judged[name], sign))
        for name, sign in SIGNS.items()
    ]  # fmt: skip
    columns = ("share", "fixed", "uniformity", "tolerance", "probe")
    table = Table(
        "By temperature", ("tau", *columns),
        [(f"{tau:g}", *(words(interval(found[name][t]), 3) for name in columns)) for t, tau in enumerate(taus)],
        f"Mean [95% interval] over {len(config.seeds)} seeds. share: on the hardest 10 % of negatives, of the "
        f"network of that tau; fixed: of that of tau {taus[len(taus) // 2]:g}. probe: accuracy of the latent.",
    )  # fmt: skip

    def paint(name: str) -> Any:
        def on(axis: Any) -> None:
            axis.semilogx(taus, found[name], color=colour(0), alpha=0.35, linewidth=1)
            axis.semilogx(taus, found[name].mean(1), "o-", color=colour(0), label="mean")
            axis.set(xlabel="temperature tau", ylabel=name)
            ticks_at(axis.xaxis, taus)

        return on

    panels = {"Push on the hardest 10 %": "share", "Uniformity": "uniformity", "Tolerance": "tolerance"}
    return Report(
        claim="a higher temperature of NT-Xent pushes hard negatives less, so directions are less uniform and more "
        "tolerant of what shares a latent",
        bars=[
            *bars,
            control(f"three networks of one tau = {SAME:g}: strict on every seed for {sum(flat)} of 3 numbers",
                    failed=not all(flat), what="control: one temperature"),
            control(f"tolerance of shuffled latents rises by {words(shuffled, 3)} (must stay < .05)",
                    failed=shuffled.estimate < 0.05, what="control: shuffled latents"),
        ],
        answer="" if not len(below) else "Below that the two numbers do not follow: at tau "
        f"{below[-1]:g} uniformity is {words(interval(found['uniformity'][len(below) - 1]), 3)} and tolerance "
        f"{words(interval(found['tolerance'][len(below) - 1]), 3)}.",
        tables=[table],
        plots=[draw(context.out, "temperature", {title: paint(name) for title, name in panels.items()},
                    f"Block world, {config.world.latents} latents, {config.steps} steps; thin lines: "
                    f"{len(config.seeds)} seeds.")],
        numbers={"temperatures": taus, **found, "one_temperature": same},
    )  # fmt: skip


def rises(values: FloatArray, sign: int) -> bool:
    """values (T, S), times `sign`, rise strictly at each step on each seed."""
    return bool((np.diff(sign * values, axis=0) > 0).all())


def shares(z: FloatArray, tau: float) -> FloatArray:
    """(S,) share of the push on the hardest 10 % of negatives."""
    return np.array([hardness_share(x, tau) for x in z])


def _measured(config: TemperatureConfig, context: Context, taus: Any) -> dict[str, list[FloatArray]]:
    """Number -> (S,) for each tau; entry t has draws and first weights of its own only where temperatures repeat."""
    repeated = len(set(taus)) == 1
    views, latents, order = _judge(config)
    out: dict[str, list[FloatArray]] = {}
    embedded = []
    for t, tau in enumerate(context.each("tau", taus)):
        stream = (100 + t,) if repeated else ()
        encoders = Encoders(config.seeds, (config.world.size, config.hidden, config.dim), *stream)
        world = BlockWorld(config.world, config.seeds, *stream)
        train(encoders, NTXent(NTXentConfig(temperature=float(tau))), world.batches(config.steps, config.batch, 2),
              lr=config.lr)  # fmt: skip
        z = encoders.embed(views)
        embedded.append(z)
        numbers = {
            "share": shares(z, float(tau)),
            "uniformity": uniformities(z),
            "tolerance": np.array([tolerance(x, y) for x, y in zip(z, latents, strict=True)]),
            "shuffled": np.array([tolerance(x, y[p]) for x, y, p in zip(z, latents, order, strict=True)]),
            "probe": probe(BlockWorld(config.world, config.seeds, 1), encoders.embed),
        }
        for name, value in numbers.items():
            out.setdefault(name, []).append(value)
    middle = embedded[len(embedded) // 2]
    out["fixed"] = [shares(middle, float(tau)) for tau in taus]
    return out


def _judge(config: TemperatureConfig) -> tuple[FloatArray, Any, Any]:
    """Views (S, N, x) of new instances, their latents (S, N), and an order that shuffles these."""
    world = BlockWorld(replace(config.world, zipf=0.0), config.seeds, 2)
    latents = world.latents(config.judged, even=True)
    order = np.stack([rng_of(seed, 3).permutation(config.judged) for seed in config.seeds])
    return world.views(world.instances(latents), 1)[:, 0], latents, order
