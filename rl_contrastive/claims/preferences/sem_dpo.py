"""Claim (Sem-DPO): weights by the likeness of prompt and chosen completion keep DPO near the prompt.

40 prompts with 30 candidates each, all with vectors of 8 coordinates. The reference prefers candidates that are like
their prompt; the judge of the pairs sees their style alone, which is independent of it. DPO on 3000 pairs of candidates
drawn from the reference; Sem-DPO is DPO with the weight exp(-alpha (1 - cos(e(x), e(y_w)))) of each pair. Controls: the
same weights shuffled over the pairs, and their mean for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.preferences.common import SEEDS
from rl_contrastive.claims.stacked import centres, descend, generators, least, shown
from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.preferences.base import Completions
from rl_contrastive.preferences.pairwise import DPO, DPOConfig
from rl_contrastive.preferences.weights import SemDPO, SemDPOConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

REFERENCE, PLAIN, SEM, SHUFFLED, MEAN = "reference", "DPO", "Sem-DPO", "shuffled weights", "mean weight"
NEAR = 0.015


@dataclass(frozen=True)
class SemDPOClaimConfig(Options, where="sem-dpo"):
    """The world and the training."""

    prompts: Annotated[int, In(1, 1000)] = 40
    """Prompts a world."""
    candidates: Annotated[int, In(2, 1000)] = 30
    """Completions a prompt."""
    dim: Annotated[int, In(2, 256)] = 8
    """Coordinates of the vectors."""
    faithful: Annotated[float, Ge(0)] = 6.5
    """The reference's logits are this times the cosine of prompt and candidate."""
    pairs: Annotated[int, In(1, 1 << 20)] = 3000
    """P, of two different candidates each, drawn from the reference."""
    certainty: Annotated[float, Gt(0)] = 10.0
    """The judge prefers the first with probability sigma(certainty times the difference of the styles)."""
    beta: Annotated[float, Gt(0)] = 0.1
    """Of DPO."""
    alpha: Annotated[float, Ge(0)] = 4.0
    """Of Sem-DPO where it is compared."""
    alphas: Annotated[tuple[float, ...], Ge(0)] = (1.0, 2.0, 4.0, 8.0)
    """All that are measured."""
    steps: Annotated[int, Ge(1)] = 300
    """Gradient steps over all pairs."""
    lr: Annotated[float, Gt(0)] = 0.04
    """Of Adam."""
    seeds: tuple[int, ...] = SEEDS
    """Worlds and pairs."""

    @classmethod
    def quick(cls) -> SemDPOClaimConfig:
        """Seconds."""
        return cls(prompts=20, pairs=1500, alphas=(2.0, 8.0), seeds=SEEDS[:4])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 2, "sem-dpo: give at least two seeds.")


class World:
    """Prompts, candidates and pairs of all seeds."""

    def __init__(self, config: SemDPOClaimConfig) -> None:
        self.config, self.rngs = config, generators(config.seeds, 1)
        M, C, P = config.prompts, config.candidates, config.pairs
        self.x = self.drawn(M, config.dim)
        self.y = self.drawn(M, C, config.dim)
        self.cosine = nn.functional.cosine_similarity(self.x.unsqueeze(2), self.y, dim=-1)  # (S, M, C)
        self.style = self.drawn(M, C)
        self.log_ref = (config.faithful * self.cosine).log_softmax(-1)
        prompt = torch.stack([torch.randint(M, (P,), generator=rng) for rng in self.rngs])  # (S, P)
        law = self.rows(self.log_ref.exp(), prompt)  # (S, P, C)
        both = torch.stack([torch.multinomial(p, 2, generator=rng) for p, rng in zip(law, self.rngs, strict=True)])
        style = self.rows(self.style, prompt).gather(-1, both)
        chance = torch.sigmoid(config.certainty * (style[..., 0] - style[..., 1]))
        wins = torch.stack([torch.rand(P, generator=rng) for rng in self.rngs]) < chance
        self.prompt = prompt
        self.chosen, self.rejected = (torch.where(wins, both[..., i], both[..., 1 - i]) for i in (0, 1))

    def drawn(self, *shape: int) -> Tensor:
        """Standard normal (S, *shape)."""
        return torch.stack([torch.randn(shape, generator=rng) for rng in self.rngs])

    @staticmethod
    def rows(values: Tensor, prompt: Tensor) -> Tensor:
        """(S, P, ...) of values (S, M, ...) at prompts (S, P)."""
        return values[torch.arange(len(values)).unsqueeze(-1), prompt]

    def completions(self, log_pi: Tensor, which: Tensor) -> Completions:
        """Candidates (S, P) under the policy, with one step."""
        at = torch.arange(len(log_pi)).unsqueeze(-1), self.prompt, which
        return Completions(log_pi[at].unsqueeze(-1), self.log_ref[at].unsqueeze(-1))

    def weights(self, alpha: float) -> Tensor:
        """(S, P)."""
        at = torch.arange(len(self.y)).unsqueeze(-1), self.prompt, self.chosen
        return SemDPO(SemDPOConfig(alpha=alpha))(self.rows(self.x, self.prompt), self.y[at])

    def train(self, weight: Tensor | None, seen: list[dict[str, FloatArray]] | None = None) -> Tensor:
        """log pi (S, M, C) of DPO from the reference; `seen` takes what `judge` says every five steps."""
        c = self.config
        logits = nn.Parameter(self.log_ref.clone())
        objective = DPO(DPOConfig(beta=c.beta))

        def loss(step: int) -> Tensor:
            log_pi = logits.log_softmax(-1)
            if seen is not None and step % 5 == 0:
                seen.append(self.judge(log_pi.detach()))
            sides = (self.completions(log_pi, which) for which in (self.chosen, self.rejected))
            return objective(*sides, weight=weight).loss

        descend([logits], loss, c.steps, c.lr)
        return logits.detach().log_softmax(-1)

    def judge(self, log_pi: Tensor) -> dict[str, FloatArray]:
        """(S,) each, exact: mean cosine with the prompt, mean style, KL(pi || pi_ref)."""
        pi = log_pi.double().exp()
        parts = {"cosine": self.cosine, "style": self.style, "KL": log_pi - self.log_ref}
        return {name: (pi * x).sum(-1).mean(-1).numpy() for name, x in parts.items()}


@register("claim", "preferences/sem-dpo", SemDPOClaimConfig)
def sem_dpo(config: SemDPOClaimConfig, context: Context) -> Report:
    """Weights by semantic likeness keep DPO near the prompt; the same weights shuffled do not (Sem-DPO)."""
    world = World(config)
    weight = world.weights(config.alpha)
    orders = [torch.randperm(config.pairs, generator=rng) for rng in generators(config.seeds, 2)]
    shuffled = torch.stack([w[order] for w, order in zip(weight, orders, strict=True)])
    mean = weight.mean(-1, keepdim=True).expand_as(weight)
    ways = {PLAIN: None, SEM: weight, SHUFFLED: shuffled, MEAN: mean}
    found = {REFERENCE: world.judge(world.log_ref)}
    path: list[dict[str, FloatArray]] = []
    for name, w in ways.items():
        found[name] = world.judge(world.train(w, path if name == PLAIN else None))
        context.say(f"{name}: " + ", ".join(f"{key} {x.mean():.3f}" for key, x in found[name].items()))
    by_alpha = [found[SEM] if a == config.alpha else world.judge(world.train(world.weights(a))) for a in config.alphas]
    stopped = [at_style([*path, found[PLAIN]], of["style"]) for of in by_alpha]
    return report(config, context, found, by_alpha, stopped)


def at_style(path: list[dict[str, FloatArray]], style: FloatArray) -> FloatArray:
    """(S,) the cosine of a training path where its style was `style` (S,), between two points of it linearly."""
    styles, cosines = (np.array([of[key] for of in path]) for key in ("style", "cosine"))
    return np.array(
        [np.interp(x, np.maximum.accumulate(s), c) for x, s, c in zip(style, styles.T, cosines.T, strict=True)]
    )


def report(config: SemDPOClaimConfig, context: Context, found: dict[str, dict[str, FloatArray]],
           by_alpha: list[dict[str, FloatArray]], stopped: list[FloatArray]) -> Report:  # fmt: skip
    """Bars, table, picture."""
    cosine, style = ({name: of[key] for name, of in found.items()} for key in ("cosine", "style"))
    off = {name: cosine[name] - cosine[PLAIN] for name in (SEM, SHUFFLED, MEAN)}
    fair = {a: of["cosine"] - c for a, of, c in zip(config.alphas, by_alpha, stopped, strict=True)}
    rise = np.diff([of["cosine"] for of in by_alpha], axis=0).min(0)
    bars = [
        least("cosine, Sem-DPO - DPO", off[SEM], 0.03),
        least("style, Sem-DPO / DPO", style[SEM] / style[PLAIN], 0.9),
        Bar("cosine, shuffled weights - DPO", f"mean within {NEAR:g}", shown(off[SHUFFLED]),
            abs(float(off[SHUFFLED].mean())) <= NEAR),
        Bar("cosine rises with alpha: smallest step", "mean > 0", shown(rise), float(rise.mean()) > 0),
        least("control: cosine, shuffled weights - DPO", off[SHUFFLED], 0.03, control=True),
        least("control: cosine, mean weight - DPO", off[MEAN], 0.03, control=True),
    ]  # fmt: skip
    rows = [(name, *map(shown, of.values())) for name, of in found.items()]
    rows += [(f"{SEM}, alpha {a:g}", *map(shown, of.values())) for a, of in zip(config.alphas, by_alpha, strict=True)]

    def paint(axis: Any) -> None:
        for key, i in (("cosine", 0), ("style", 1)):
            centre, error = centres([of[key] / found[PLAIN][key] for of in by_alpha])
            axis.errorbar(config.alphas, centre, error, fmt="o-", color=colour(i), label=key)
        centre, error = centres([x / found[PLAIN]["cosine"] for x in stopped])
        axis.errorbar(config.alphas, centre, error, fmt="s:", color=colour(0), label="cosine, DPO stopped at the style")
        axis.axhline(1, color="#8a8a8a", linestyle="--")
        axis.set(xlabel="alpha", ylabel="Sem-DPO / DPO")

    def paint_plane(axis: Any) -> None:
        for i, (name, of) in enumerate(found.items()):
            axis.plot(of["style"], of["cosine"], "o", color=colour(i), label=name, markersize=4)
        axis.set(xlabel="style", ylabel="cosine with the prompt")

    return Report(
        claim="weights that fall with the distance of prompt and chosen completion keep DPO faithful to the prompt",
        bars=bars,
        answer=f"DPO on pairs judged by style alone brings the cosine from {shown(cosine[REFERENCE])} to "
        f"{shown(cosine[PLAIN])}, Sem-DPO with alpha {config.alpha:g} to {shown(cosine[SEM])}, which is "
        f"{shown(off[SEM])} more; shuffled weights change it by {shown(off[SHUFFLED])}, the mean weight by "
        f"{shown(off[MEAN])}. The style falls from {shown(style[PLAIN])} to {shown(style[SEM])}. Against DPO stopped "
        "early, where its style is that of Sem-DPO, the cosine is higher by "
        + ", ".join(f"{shown(gain)} (alpha {a:g})" for a, gain in fair.items()) + ".",
        tables=[Table("After training", ("Method", *found[PLAIN]), rows,
                      f"Exact under each policy, mean over {len(config.seeds)} seeds, 95% t-interval.", 1)],
        plots=[draw(context.out, "sem-dpo", {"Style against faithfulness": paint_plane, "By alpha": paint},
                    f"{config.prompts} prompts of {config.candidates} candidates, {config.pairs} pairs, "
                    f"{len(config.seeds)} seeds. Left: alpha {config.alpha:g}, a point a seed. Right: t-intervals.")],
        numbers={"methods": found, "alphas": config.alphas, "by alpha": by_alpha, "DPO stopped at the style": stopped},
    )  # fmt: skip
