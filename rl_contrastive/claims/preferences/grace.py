"""Claim (GRACE): texts embedded by what a policy writes about them; the published reward has no repulsion, ours has.

A text of one of 8 classes is given to a policy that writes 4 tokens out of 24, each place by logits of its own; the
embedding is the mean of the tokens' fixed vectors. The policy learns by GRPO (group mean, no std) from 8 groups of 8
rollouts, one group a class, rewarded by the forms of `GRACE`: q is what it writes about another text of the class, neg
about a text of another class, both once a group at temperature .5. Measured on new texts: the share whose nearest
neighbour is of their class (chance .125).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.objectives.digits import normal
from rl_contrastive.claims.preferences.common import MORE_SEEDS, SEEDS
from rl_contrastive.claims.stacked import Stack, centres, descend, generators, interval, least, shown
from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.preferences.base import Completions
from rl_contrastive.preferences.groups import GRPO, GRPOConfig
from rl_contrastive.preferences.transforms import GRACE, Form, GRACEConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

FORMS: tuple[Form, ...] = ("query", "consistent", "published", "per-rollout", "softmax")
UNTRAINED = "untrained"


@dataclass(frozen=True)
class GRACEClaimConfig(Options, where="grace"):
    """The world and the training."""

    classes: Annotated[int, In(2, 64)] = 8
    """G: classes, and groups of an update."""
    tokens: Annotated[int, In(2, 1024)] = 24
    """Size of the vocabulary."""
    written: Annotated[int, In(1, 64)] = 4
    """T: tokens a rollout."""
    dim: Annotated[int, In(2, 256)] = 16
    """d, coordinates of a token's vector and of a text."""
    noise: Annotated[float, Ge(0)] = 0.3
    """Standard deviation of a text about its class, whose vector has length sqrt(d)."""
    n: Annotated[int, In(2, 256)] = 8
    """K: rollouts a group."""
    steps: Annotated[int, Ge(1)] = 250
    """Updates."""
    init: Annotated[float, Ge(0)] = 0.1
    """Scale of the policy's first weights; small ones write all tokens equally often."""
    lr: Annotated[float, Gt(0)] = 0.015
    """Of Adam."""
    test: Annotated[int, In(2, 1024)] = 20
    """New texts a class."""
    seeds: tuple[int, ...] = MORE_SEEDS
    """Worlds and trainings."""

    @classmethod
    def quick(cls) -> GRACEClaimConfig:
        """Seconds."""
        return cls(lr=0.03, steps=150, test=10, seeds=SEEDS[:4])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 2, "grace: give at least two seeds.")


class Study:
    """Worlds and policies of all seeds, trained with one form of the reward; None: not trained."""

    def __init__(self, config: GRACEClaimConfig, form: Form | None) -> None:
        self.config = config
        worlds = generators(config.seeds, 1)
        self.centres = torch.stack([torch.randn(config.classes, config.dim, generator=rng) for rng in worlds])
        self.vectors = torch.stack([torch.randn(config.tokens, config.dim, generator=rng) for rng in worlds])
        shape = [config.dim, config.written * config.tokens]
        self.policy = Stack(shape, rngs=generators(config.seeds, 2))
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter.mul_(config.init)
        self.rngs = generators(config.seeds, 3)
        self.objective = GRPO(GRPOConfig(beta=0.0, std=False, reduce="sum"))
        self.transform = None if form is None else GRACE(GRACEConfig(form=form))

    def texts(self, each: int) -> Tensor:
        """(S, G, each, d) new texts of every class."""
        mean = self.centres.unsqueeze(2).expand(-1, -1, each, -1)
        return mean + self.config.noise * normal(mean, rngs=self.rngs)

    def logits(self, x: Tensor) -> Tensor:
        """(S, ..., T, tokens) of texts (S, ..., d): each place has logits of its own."""
        out: Tensor = self.policy(x.flatten(1, -2))
        return out.reshape(*x.shape[:-1], self.config.written, self.config.tokens)

    def write(self, logits: Tensor, times: int, temperature: float = 1.0) -> Tensor:
        """Tokens (S, ..., times, T), drawn from logits (S, ..., T, tokens)."""
        p = (logits.detach() / temperature).softmax(-1)
        parts = [torch.multinomial(part.flatten(0, -2), times, replacement=True, generator=rng)
                 for part, rng in zip(p, self.rngs, strict=True)]  # fmt: skip
        return torch.stack(parts).reshape(*p.shape[:-1], times).transpose(-1, -2)

    def embed(self, tokens: Tensor) -> Tensor:
        """(S, ..., d): unit means of the vectors of tokens (S, ..., T)."""
        flat = tokens.reshape(len(tokens), -1, 1).expand(-1, -1, self.config.dim)
        out = self.vectors.gather(1, flat).reshape(*tokens.shape, -1).mean(-2)
        return nn.functional.normalize(out, dim=-1)

    def fit(self) -> None:
        """All updates."""
        descend(self.policy.parameters(), self.step, self.config.steps, self.config.lr)

    def drawn(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log pi and embeddings of rollouts, (S, G, K, T) and (S, G, K, d); of queries and negatives, (S, G, d)."""
        c = self.config
        x = self.texts(2)  # (S, G, 2, d): the text, and another of its class
        logits = self.logits(x)
        tokens = self.write(logits[:, :, 0], c.n)  # (S, G, K, T)
        other = torch.stack([torch.randint(1, c.classes, (c.classes,), generator=rng) for rng in self.rngs])
        other = (other + torch.arange(c.classes)) % c.classes  # (S, G): another class
        away = self.texts(1)[torch.arange(len(x)).unsqueeze(-1), other]  # (S, G, 1, d)
        q, neg = (self.embed(self.write(of, 1, 0.5)).squeeze(2) for of in (logits[:, :, 1], self.logits(away)[:, :, 0]))
        log_pi = logits[:, :, 0].log_softmax(-1).unsqueeze(2).expand(-1, -1, c.n, -1, -1)  # (S, G, K, T, tokens)
        return log_pi.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), self.embed(tokens), q, neg

    def step(self, step: int) -> Tensor:
        """Loss (S,) of an update."""
        del step
        assert self.transform is not None
        logp, p, q, neg = self.drawn()
        return self.objective(Completions(logp, logp.detach()), self.transform(p, q, neg)).loss.sum(-1)

    def gaps(self) -> dict[str, FloatArray]:
        """(S,) largest difference between the gradient by log pi of a form and that of "consistent", one batch."""
        logp, *embedded = self.drawn()
        logp = logp.detach().double().requires_grad_(True)

        def gradient(form: Form) -> Tensor:
            reward = GRACE(GRACEConfig(form=form))(*(x.double() for x in embedded))
            return torch.autograd.grad(self.objective(Completions(logp, logp.detach()), reward).loss.sum(), logp)[0]

        plain = gradient("consistent")
        return {
            form: (gradient(form) - plain).abs().flatten(1).amax(1).numpy() for form in ("published", "per-rollout")
        }

    @torch.no_grad()
    def judge(self) -> dict[str, FloatArray]:
        """(S,) each: share of nearest neighbours of the same class, mean cosine of two texts, of two of one class."""
        n, G = self.config.test, self.config.classes
        z = self.embed(self.write(self.logits(self.texts(n)), 1)).flatten(1, 3)  # (S, G n, d)
        y = torch.arange(G).repeat_interleave(n)
        cosine = z @ z.mT
        same, self_ = y == y.unsqueeze(-1), torch.eye(len(y), dtype=torch.bool)
        nearest = cosine.masked_fill(self_, -2.0).argmax(-1)
        return {
            "nearest neighbour": (y[nearest] == y).double().mean(-1).numpy(),
            "mean cosine": cosine[:, ~self_].double().mean(-1).numpy(),
            "within a class": cosine[:, same & ~self_].double().mean(-1).numpy(),
            "between classes": cosine[:, ~same].double().mean(-1).numpy(),
        }


@register("claim", "preferences/grace", GRACEClaimConfig)
def grace(config: GRACEClaimConfig, context: Context) -> Report:
    """GRACE's published reward trains without repulsion; a softmax over the groups has one and separates classes."""
    fresh = Study(config, None)
    found = {UNTRAINED: fresh.judge()}
    for form in FORMS:
        study = Study(config, form)
        study.fit()
        found[form] = study.judge()
        context.say(f"{form}: " + ", ".join(f"{key} {x.mean():.3f}" for key, x in found[form].items()))
    return report(config, context, found, fresh.gaps())


def same(what: str, gap: FloatArray, *, control: bool = False) -> Bar:
    """Two gradients agree."""
    return Bar(what, "differ by <= 1e-06 on every seed", f"largest {gap.max():.1e}", bool((gap <= 1e-6).all()), control)


def report(config: GRACEClaimConfig, context: Context, found: dict[str, dict[str, FloatArray]],
           gaps: dict[str, FloatArray]) -> Report:  # fmt: skip
    """Bars, table, picture."""
    share = {form: of["nearest neighbour"] for form, of in found.items()}
    against = interval(share["published"] - share["query"])
    bars = [
        least("nearest neighbour of the class, softmax over groups", share["softmax"], 0.88),
        least("the same, softmax - published", share["softmax"] - share["published"], 0.05),
        same("gradient, published against without its two constant terms", gaps["published"]),
        same("control: gradient, per rollout against without repulsion", gaps["per-rollout"], control=True),
        least("control: untrained", share[UNTRAINED], 0.88, control=True),
    ]  # fmt: skip
    word = "ahead" if against.low > 0 else "behind" if against.high < 0 else "not shown to differ"

    def paint(key: str, label: str) -> Any:
        def on(axis: Any) -> None:
            centre, error = centres([of[key] for of in found.values()])
            axis.barh(range(len(found)), centre, xerr=error, color=[colour(i) for i in range(len(found))])
            axis.set_yticks(range(len(found)), list(found))
            axis.set(xlabel=label, ylim=(len(found) - 0.5, -0.5))

        return on

    return Report(
        claim="the published reward of GRACE trains as if its negative and its other groups were not there; a softmax "
        "over the groups repels and separates the classes better",
        bars=bars,
        answer=f"Published against cos(q, p) alone: {shown(share['published'] - share['query'])}, {word}. Per rollout "
        f"against published: {shown(share['per-rollout'] - share['published'])}. The cosine of texts of different "
        f"classes is {shown(found['published']['between classes'])} with the published reward, "
        f"{shown(found['per-rollout']['between classes'])} per rollout and "
        f"{shown(found['softmax']['between classes'])} with the softmax.",
        tables=[Table("After training", ("Reward", *found[UNTRAINED]),
                      [(form, *map(shown, of.values())) for form, of in found.items()],
                      f"New texts, mean over {len(config.seeds)} seeds, 95% t-interval.", 1)],
        plots=[draw(context.out, "grace", {"Nearest neighbour": paint("nearest neighbour", "share of the same class"),
                                           "Other classes": paint("between classes", "mean cosine")},
                    f"{config.classes} classes, {config.written} of {config.tokens} tokens, {len(config.seeds)} seeds; "
                    "lines: 95% t-intervals.")],
        numbers=found,
    )  # fmt: skip
