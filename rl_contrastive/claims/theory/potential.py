"""Claim: the elliptical potential lemma, sum_n min(1, ||phi_n||^2_{Sigma_{n-1}^-1}) <= 2 d log(1 + n / (d lambda)).

It is why bonuses sum to sqrt(n) whatever features arrive: checked on random, on-policy and adversarial ones (each time
the direction of largest norm). The control keeps Sigma at lambda I: such a bonus never learns what it has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.config import Ge, Options, from_dict, require
from rl_contrastive.planning.bonus import EllipticalBonus, potential_bound
from rl_contrastive.registry import get, register
from rl_contrastive.spec import FloatArray


@dataclass(frozen=True)
class PotentialConfig(Options, where="elliptical-potential"):
    """Sequences of features and the ridge."""

    dim: int = 8
    """d."""
    count: int = 4000
    """n, length of each sequence."""
    lam: float = 1.0
    """lambda (>= 1 for unit features, so that every norm is <= 1)."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the random sequences and of the MDP."""

    @classmethod
    def quick(cls) -> PotentialConfig:
        """Seconds."""
        return cls(count=1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.dim >= 1 and self.count >= 2, "elliptical-potential: dim >= 1 and count >= 2 are needed.")
        require(self.lam >= 1.0, f"elliptical-potential: lam must be >= 1, got {self.lam}.")


@register("claim", "theory/elliptical-potential", PotentialConfig)
def elliptical_potential(config: PotentialConfig, context: Context) -> Report:
    """The elliptical potential lemma for random, on-policy and adversarial features."""
    d = config.dim
    sequences: dict[str, Callable[[int, EllipticalBonus], FloatArray]] = {
        "random": _random(config),
        "on-policy": _on_policy(config),
        "adversarial": lambda n, bonus: np.asarray(np.linalg.eigh(bonus.Sigma[0])[1][:, 0]),
    }
    bound = np.array([potential_bound(n, d, config.lam) for n in range(1, config.count + 1)])
    sums = {name: _potential(config, sequences[name], update=True) for name in context.each("features", sequences)}
    frozen = _potential(config, sequences["random"], update=False)
    shares = {name: float((total / bound).max()) for name, total in sums.items()}
    n = np.arange(1, config.count + 1)

    def paint(axis: Any) -> None:
        axis.plot(n, bound, color="#222222", linewidth=2, label="bound 2 d log(1 + n/(dλ))")
        for i, (name, total) in enumerate(sums.items()):
            axis.plot(n, total, color=colour(i), label=name)
        axis.plot(n, frozen, "--", color="#888888", label="control: Sigma never updated")
        axis.set(xscale="log", yscale="log", xlabel="features n", ylabel="sum of min(1, squared norm)")

    listed = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    return Report(
        claim="sum_n min(1, ||phi_n||^2) <= 2 d log(1 + n/(d lambda)) (Abbasi-Yadkori et al. 2011, Lemma 11)",
        bars=[
            Bar("the claim", "every ratio <= 1",
                f"largest ratio of sum to bound over all n <= {config.count}: {listed}",
                all(share <= 1.0 for share in shares.values())),
            control(f"a bonus that is never updated reaches {frozen[-1] / bound[-1]:.1f} times the bound (must be > 1)",
                    failed=bool(frozen[-1] > bound[-1])),
        ],
        plots=[draw(context.out, "elliptical-potential", {"Sum of squared bonuses": paint},
                    f"d={d}, lambda={config.lam:g}.")],
        numbers={
            "ratios": shares,
            "final": {k: v[-1] for k, v in sums.items()},
            "bound": bound[-1],
            "frozen": frozen[-1],
        },
    )  # fmt: skip


def _potential(
    config: PotentialConfig, draw_next: Callable[[int, EllipticalBonus], FloatArray], *, update: bool
) -> FloatArray:
    """Running sums of min(1, ||phi||^2) (n,); features see the Sigma of all earlier ones."""
    bonus = EllipticalBonus(1, config.dim, config.lam)
    terms = np.empty(config.count)
    for n in range(config.count):
        phi = draw_next(n, bonus)
        terms[n] = min(1.0, float(bonus.norm(0, phi)) ** 2)
        if update:
            bonus.update(0, phi)
    return np.cumsum(terms)


def _random(config: PotentialConfig) -> Callable[[int, EllipticalBonus], FloatArray]:
    """Directions uniform on the unit sphere."""
    rows = rng_of(config.seed, 0).standard_normal((config.count, config.dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return lambda n, bonus: rows[n]


def _on_policy(config: PotentialConfig) -> Callable[[int, EllipticalBonus], FloatArray]:
    """phi of a random low-rank MDP at a random state, of the action with the largest bonus there."""
    entry, _ = get("env", "low-rank")
    sizes = {"num_states": 50, "num_actions": 5, "rank": config.dim, "horizon": 1, "mdp_seed": config.seed}
    phi = entry.factory(from_dict(entry.config, sizes), 1).exact().phi[0]  # (S, A, d)
    states = rng_of(config.seed, 1).integers(len(phi), size=config.count)

    def draw_next(n: int, bonus: EllipticalBonus) -> FloatArray:
        choices = phi[states[n]]  # (A, d)
        return np.asarray(choices[bonus.norm(0, choices).argmax()])

    return draw_next
