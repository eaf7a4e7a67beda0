"""Claim: the minimiser of the paper's contrastive loss is the density ratio f* = P(s'|s,a) / P^-(s').

The population loss is exact here (all (s,a) and s' with their probabilities as weights), so the gradient at the truth
has to vanish to rounding and a descent over tables has to end there. The control draws negatives from another law than
the one the ratio is read with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.config import Ge, Options, from_dict, require
from rl_contrastive.objectives import make
from rl_contrastive.registry import get, register
from rl_contrastive.spec import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NceRatioConfig(Options, where="nce-ratio"):
    """A random low-rank kernel of one step, and a descent on its population loss."""

    num_states: int = 30
    """S."""
    num_actions: int = 4
    """A."""
    rank: int = 3
    """d."""
    iterations: int = 40
    """Descent steps (damped Newton)."""
    perturbations: int = 200
    """Random perturbations of the truth whose loss is compared."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the MDP, of the perturbations and of the control's law."""

    @classmethod
    def quick(cls) -> NceRatioConfig:
        """Seconds."""
        return cls(num_states=12, num_actions=2, perturbations=50)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.iterations >= 1, f"nce-ratio: iterations must be >= 1, got {self.iterations}.")
        require(self.perturbations >= 1, f"nce-ratio: perturbations must be >= 1, got {self.perturbations}.")


@register("claim", "theory/nce-ratio", NceRatioConfig)
def nce_ratio(config: NceRatioConfig, context: Context) -> Report:
    """The NCE minimiser is the density ratio P / P^-."""
    entry, _ = get("env", "low-rank")
    sizes = {name: getattr(config, name) for name in ("num_states", "num_actions", "rank")}
    sizes |= {"horizon": 1, "mdp_seed": config.seed}
    P = entry.factory(from_dict(entry.config, sizes), 1).exact().P[0].reshape(-1, config.num_states)  # (SA, S)
    rng = rng_of(config.seed)
    uniform = np.full(config.num_states, 1.0 / config.num_states)
    other = rng.dirichlet(np.full(config.num_states, 1.0))
    truth = np.log(P / uniform)

    context.say("gradient and perturbations at the truth")
    gradient = float(np.abs(_gradient(truth, P, uniform)).max())
    loss_truth = _loss(truth, P, uniform)
    raised = [
        _loss(truth + 0.1 * rng.standard_normal(truth.shape), P, uniform) > loss_truth
        for _ in range(config.perturbations)
    ]
    context.say("two descents")
    errors = _descend(P, uniform, uniform, config.iterations)
    wrong = _descend(P, other, uniform, config.iterations)

    def paint(axis: Any) -> None:
        axis.semilogy(np.maximum(errors, 1e-16), color=colour(0), label="negatives from P⁻")
        axis.semilogy(np.maximum(wrong, 1e-12), color=colour(1), label="control: another law")
        axis.set(xlabel="descent step", ylabel="mean TV of P-hat against P")

    return Report(
        claim="argmin_f E_P[log(1+1/f)] + E_{P^-}[log(1+f)] = P / P^- (Qiu et al. 2022, the contrastive loss)",
        bars=[
            Bar("the claim", "gradient <= 1e-12, all perturbations raise the loss, TV <= 1e-9",
                f"largest gradient entry at the truth {gradient:.1e}; {sum(raised)}/{len(raised)} perturbations "
                f"raise the loss; mean TV after descent {errors[-1]:.1e}",
                gradient <= 1e-12 and all(raised) and errors[-1] <= 1e-9),
            control(f"negatives from another law than the ratio is read with: TV stays at {wrong[-1]:.2f} "
                    "(must be > 0.05)",
                    failed=wrong[-1] > 0.05),
        ],
        plots=[draw(context.out, "nce-ratio", {"Descent on the population loss": paint},
                    f"S={config.num_states}, A={config.num_actions}, d={config.rank}; exact expectations, tables of "
                    "log f.")],
        numbers={"gradient": gradient, "raised": sum(raised), "tv": errors, "tv_control": wrong},
    )  # fmt: skip


def _objective(log_f: Tensor, P: FloatArray, law: FloatArray) -> Tensor:
    import torch

    weight = torch.from_numpy(P / len(P))  # uniform over (s,a): sums to 1 over (N, S)
    negatives = torch.from_numpy(np.broadcast_to(law, P.shape).copy())
    return make("nce")(log_f, log_f, weight, negatives).loss


def _loss(log_f: FloatArray, P: FloatArray, law: FloatArray) -> float:
    import torch

    return float(_objective(torch.from_numpy(log_f), P, law))


def _gradient(log_f: FloatArray, P: FloatArray, law: FloatArray) -> FloatArray:
    import torch

    x = torch.from_numpy(log_f.copy()).requires_grad_()
    _objective(x, P, law).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return np.asarray(x.grad.numpy())


def _descend(P: FloatArray, law: FloatArray, read: FloatArray, iterations: int) -> list[float]:
    """Mean TV of read(s') f(s,a,s'), rows normalised, against P after each Newton step; negatives come from `law`.

    The loss is a sum of strictly convex terms, one for each entry of log f, so its Hessian is diagonal and H 1 is the
    diagonal; steps are clipped because the terms flatten far from their minimum.
    """
    import torch

    x = torch.zeros(P.shape, dtype=torch.float64, requires_grad=True)
    errors = []
    for _ in range(iterations):
        (gradient,) = torch.autograd.grad(_objective(x, P, law), x, create_graph=True)
        (curvature,) = torch.autograd.grad(gradient.sum(), x)
        with torch.no_grad():
            x -= (gradient / curvature).clamp(-1.0, 1.0)
        P_hat = read * np.exp(x.detach().numpy())
        errors.append(float(0.5 * np.abs(P_hat / P_hat.sum(axis=1, keepdims=True) - P).sum(axis=1).mean()))
    return errors
