"""Claim: iSogCLR gives anchors of frequent latents a higher temperature, and holds each at KL(p || uniform) = rho.

    tau_i minimises tau log E_neg e^{h_ij/tau} + tau rho,   p_ij = softmax_j(h_ij/tau_i),   h_ij = S_ij - S_i+

Stored transitions (x_i, x'_i) share a latent; latents are unequally frequent. An anchor of a frequent one has many
near negatives, of which no few may take all the weight. Source: Qiu et al. 2023. Larger rho, and a latent with a share
above .3, are reported beside it: there the order was said to break.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from rl_contrastive.analysis.figures import colour, counts_on, draw, rng_of, words
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.objectives.worlds import BlockWorld, Encoders, WorldConfig, tensor
from rl_contrastive.claims.stacked import SEEDS, interval
from rl_contrastive.config import Ge, Gt, Options
from rl_contrastive.objectives.base import Contrast, Sizes, State
from rl_contrastive.objectives.robust import ISogCLR, ISogCLRConfig
from rl_contrastive.objectives.views import unit
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray, IntArray

ORDER, NEAR = 0.8, 0.02
KICK = 1.5
"""Learned temperatures are multiplied by it, to see whether they return."""
WORLD = WorldConfig(latents=40, zipf=0.8, detail=0.5, noise=0.5)


@dataclass(frozen=True)
class ISogCLRClaimConfig(Options, where="isogclr"):
    """Sizes of the measurement."""

    seeds: Annotated[tuple[int, ...], Ge(0)] = SEEDS
    """Worlds; nothing was chosen on them."""
    transitions: Annotated[int, Ge(2)] = 2000
    """Stored pairs (x, x')."""
    steps: Annotated[int, Ge(1)] = 1500
    """Gradient steps."""
    batch: Annotated[int, Ge(2)] = 64
    """B; the other B - 1 successors are an anchor's negatives."""
    rho: Annotated[float, Gt(0)] = 0.3
    """KL of the claim."""
    rho_high: Annotated[tuple[float, ...], Gt(0)] = (0.6, 1.2)
    """Larger ones, for the report."""
    steep: Annotated[float, Ge(0)] = 1.5
    """Zipf's exponent that gives one latent a share above .3, for the report."""
    eta: Annotated[float, Gt(0)] = 0.05
    """Step size of the temperatures."""
    frozen: Annotated[int, Ge(2)] = 200
    """Anchors and negatives that temperatures return on, with the encoders held, in as many steps."""
    dim: Annotated[int, Ge(2)] = 16
    """d."""
    hidden: Annotated[int, Ge(1)] = 64
    """Width of the hidden layer."""
    lr: Annotated[float, Gt(0)] = 2e-3
    """Adam's step size."""
    world: WorldConfig = WORLD
    """Where the data come from."""

    @classmethod
    def quick(cls) -> ISogCLRClaimConfig:
        """Seconds."""
        world = WorldConfig(latents=12, zipf=0.8, detail=0.5, noise=0.5)
        return cls(seeds=SEEDS[:2], transitions=400, steps=400, batch=32, frozen=120, world=world, rho_high=(0.6,))


@register("claim", "objectives/isogclr", ISogCLRClaimConfig)
def isogclr(config: ISogCLRClaimConfig, context: Context) -> Report:
    """Learned temperatures follow the frequency of the latent and return to KL = rho."""
    runs: dict[str, dict[str, Any]] = {}
    settings = [(rho, config.world.zipf) for rho in (config.rho, *config.rho_high)] + [(config.rho, config.steep)]
    for rho, zipf in context.each("rho, Zipf", settings):
        runs[f"rho {rho:g}, Zipf {zipf:g}"] = _run(replace(config, world=replace(config.world, zipf=zipf)), rho)
    first = next(iter(runs.values()))
    order, blind, off = (interval(first[name]) for name in ("Spearman", "shuffled", "|KL - rho|, returned"))
    fell = [name for name, run in runs.items() if interval(run["Spearman"]).estimate < ORDER]
    others = {name: words(interval(run["Spearman"]), 3) for name, run in list(runs.items())[1:]}
    columns = (
        "Spearman",
        "share at tau_min",
        "share at tau_max",
        "mean tau",
        "|KL - rho|, returned",
        "|KL - rho|, kicked",
    )

    def paint(run: dict[str, Any]) -> Any:
        def on(axis: Any) -> None:
            for i, (n, tau) in enumerate(zip(run["count"], run["tau"], strict=True)):
                axis.semilogx(n, tau, "o", markersize=3, color=colour(i), alpha=0.6)
            axis.set(xlabel="stored transitions of the latent", ylabel="mean temperature")
            counts_on(axis.xaxis)

        return on

    return Report(
        claim="the temperatures that iSogCLR learns rise with the frequency of an anchor's latent, and stand where "
        "KL(p || uniform) = rho",
        bars=[
            Bar(f"Spearman(frequency, mean tau) at rho {config.rho:g}", f">= {ORDER}", words(order, 3),
                order.estimate >= ORDER),
            Bar("|KL - rho| after a kick, on unclipped rows", f"< {NEAR}",
                f"{words(off, 4)}; right after the kick {words(interval(first['|KL - rho|, kicked']), 3)}",
                off.estimate < NEAR),
            control(f"latents shuffled over the rows: Spearman {words(blind, 3)} (must stay < {ORDER})",
                    failed=blind.estimate < ORDER, what="control: shuffled latents"),
        ],
        answer="Where it breaks (no bar): Spearman " + ", ".join(f"{v} at {n}" for n, v in others.items())
        + (f". Below {ORDER}: {'; '.join(fell)}." if fell else f". None is below {ORDER}: not shown here."),
        tables=[Table("By rho and frequencies", ("setting", *columns),
                      [(name, *(words(interval(run[c]), 3) for c in columns)) for name, run in runs.items()],
                      f"Mean [95% interval] over {len(config.seeds)} seeds.")],
        plots=[draw(context.out, "isogclr", {name: paint(run) for name, run in runs.items()},
                    f"{config.world.latents} latents, {config.transitions} transitions, "
                    f"{config.steps} steps; colours: {len(config.seeds)} seeds.")],
        numbers=dict(runs),
    )  # fmt: skip


def _run(config: ISogCLRClaimConfig, rho: float) -> dict[str, Any]:
    """Train, then read the temperatures."""
    world = BlockWorld(config.world, config.seeds)
    latents = world.latents(config.transitions)
    x = tensor(world.views(world.instances(latents), 2))  # (S, 2, T, x): the stored pairs
    sizes = (config.world.size, config.hidden, config.dim)
    phi, psi = Encoders(config.seeds, sizes), Encoders(config.seeds, sizes, 1)
    objective = ISogCLR(ISogCLRConfig(rho=rho, eta=config.eta))
    state = objective.initial(Sizes(len(config.seeds), config.transitions, config.dim))
    optimiser = torch.optim.Adam([*phi.parameters(), *psi.parameters()], lr=config.lr)
    for _ in range(config.steps):
        ids = torch.as_tensor(np.stack([rng.integers(config.transitions, size=config.batch) for rng in world.rngs]))
        rows = ids[..., None].expand(-1, -1, x.shape[-1])
        S = unit(phi(x[:, 0].gather(1, rows))) @ unit(psi(x[:, 1].gather(1, rows))).mT  # (S, B, B)
        result, state = objective.step(contrast(S, ids), state)
        optimiser.zero_grad()
        result.loss.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    few = x[:, :, : config.frozen]
    with torch.no_grad():
        S = unit(phi(few[:, 0])) @ unit(psi(few[:, 1])).mT
    return {**_by_latent(config, latents, state["tau"].numpy()), **returned(objective, S, state["tau"], config.frozen)}


def contrast(S: Tensor, ids: Tensor | None = None) -> Contrast:
    """Scores (S, B, B) as a batch: the diagonal is positive, the rest of a row are its negatives, all alike."""
    B = S.shape[-1]
    law = (1.0 - torch.eye(B)).expand_as(S) / (B - 1)
    positive = torch.diagonal(S, dim1=-2, dim2=-1).unsqueeze(-1)
    return Contrast(lambda _: positive, lambda _: S, lambda: S, lambda: S, torch.full_like(positive, 1.0 / B), law, ids)


def returned(objective: ISogCLR, S: Tensor, tau: Tensor, steps: int) -> dict[str, FloatArray]:
    """Mean |KL - rho| of unclipped rows (S,) at kicked temperatures and `steps` later; the scores (S, N, N) stay."""
    options = ISogCLR(replace(objective.config, gamma=1.0))  # fixed scores need no moving average
    N = S.shape[-1]
    state: State = options.initial(Sizes(len(S), N, 1))
    state["tau"] = (KICK * tau[:, :N]).clamp(objective.config.tau_min, objective.config.tau_max)
    kicked = _distance(options, S, state["tau"])
    for _ in range(steps):
        _, state = options.step(contrast(S), state)
    return {"|KL - rho|, kicked": kicked, "|KL - rho|, returned": _distance(options, S, state["tau"])}


def _distance(objective: ISogCLR, S: Tensor, tau: Tensor) -> FloatArray:
    """(S,) mean |KL(p || uniform) - rho| over rows whose temperature is not clipped; NaN where all are."""
    N, c = S.shape[-1], objective.config
    own = torch.eye(N, dtype=torch.bool)
    log_p = torch.log_softmax((S.double() / tau[..., None]).masked_fill(own, -torch.inf), dim=-1)
    kl = (log_p.exp() * log_p.masked_fill(own, 0.0)).sum(-1) + float(np.log(N - 1))
    inside = (tau > c.tau_min) & (tau < c.tau_max)
    return np.array([float((k[i] - c.rho).abs().mean()) for k, i in zip(kl, inside, strict=True)])


def _by_latent(config: ISogCLRClaimConfig, latents: IntArray, tau: FloatArray) -> dict[str, Any]:
    """Mean temperature of each stored latent, and how it goes with the latent's count."""
    out: dict[str, list[Any]] = {name: [] for name in ("count", "tau", "Spearman", "shuffled")}
    for seed, k, t in zip(config.seeds, latents, tau, strict=True):
        order = rng_of(seed, 3).permutation(len(k))
        n, mean, mixed = _means(k, t)[0], _means(k, t)[1], _means(k[order], t)[1]
        for name, value in (("count", n), ("tau", mean), ("Spearman", spearmanr(n, mean).statistic),
                            ("shuffled", spearmanr(n, mixed).statistic)):  # fmt: skip
            out[name].append(value)
    low, high = ISogCLRConfig().tau_min, ISogCLRConfig().tau_max
    return {**out, "Spearman": np.array(out["Spearman"]), "shuffled": np.array(out["shuffled"]),
            "share at tau_min": (tau <= low).mean(1), "share at tau_max": (tau >= high).mean(1),
            "mean tau": tau.mean(1)}  # fmt: skip


def _means(k: IntArray, t: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Counts and mean temperatures of the latents that occur."""
    n, total = np.bincount(k).astype(np.float64), np.bincount(k, weights=t)
    return n[n > 0], total[n > 0] / n[n > 0]
