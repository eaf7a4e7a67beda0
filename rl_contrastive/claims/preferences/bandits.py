"""Many bandits side by side with policies that are tables: every draw of two arms at once makes expectations exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import rng_of
from rl_contrastive.preferences.base import Completions, GroupObjective, PairObjective
from rl_contrastive.preferences.exact import optimum, regret
from rl_contrastive.spec import FloatArray

Loss = Callable[[Tensor], Tensor]
"""log pi (N, A) -> one loss a bandit, (N,)."""


@dataclass(frozen=True)
class Bandits:
    """N bandits of A arms."""

    reward: FloatArray
    """(N, A)."""
    log_ref: FloatArray
    """(N, A) log pi_ref."""
    log_mu: FloatArray
    """(N, A) log mu, the law that draws the arms; -inf: never drawn."""
    beta: float

    @property
    def best(self) -> FloatArray:
        """(N, A) log pi*."""
        return optimum(self.reward, self.log_ref, self.beta)

    def regret(self, log_pi: FloatArray) -> FloatArray:
        """(N,) of log pi (N, A)."""
        return regret(log_pi, self.reward, self.log_ref, self.beta)

    def under(self, log_mu: FloatArray) -> Bandits:
        """The same bandits, drawn by another law."""
        return replace(self, log_mu=log_mu)

    def repeated(self, times: int) -> Bandits:
        """Each bandit `times` times, one after the other."""
        reward, log_ref, log_mu = (np.repeat(x, times, axis=0) for x in (self.reward, self.log_ref, self.log_mu))
        return Bandits(reward, log_ref, log_mu, self.beta)


def random_bandits(seeds: Sequence[int], count: int, arms: int, beta: float, least: float) -> Bandits:
    """`count` bandits a seed, rewards in [0, 3); reference and mu uniform on the simplex, but >= `least` an arm."""
    reward, laws = [], []
    for seed in seeds:
        rng = rng_of(seed, 0)
        reward.append(3 * rng.random((count, arms)))
        laws.append(rng.dirichlet(np.ones(arms), size=(2, count)))
    log_ref, log_mu = np.log(least + (1 - arms * least) * np.concatenate(laws, axis=1))
    return Bandits(np.concatenate(reward), log_ref, log_mu, beta)


def expected(objective: GroupObjective, bandits: Bandits, *, on_policy: bool = False) -> Loss:
    """E of the loss over two draws of mu; on_policy: of the policy itself, without a gradient through the draws."""
    arms = torch.cartesian_prod(*[torch.arange(bandits.reward.shape[1])] * 2)  # (A^2, 2)
    reward, log_ref, log_mu = (torch.as_tensor(x) for x in (bandits.reward, bandits.log_ref, bandits.log_mu))

    def loss(log_pi: Tensor) -> Tensor:
        law = log_pi.detach() if on_policy else log_mu
        group = Completions(log_pi[:, arms].unsqueeze(-1), log_ref[:, arms].unsqueeze(-1))  # (N, A^2, 2, 1)
        return (law[:, arms].sum(-1).exp() * objective.loss(group, reward[:, arms], None).loss).sum(-1)

    return loss


def sampled(objective: GroupObjective, bandits: Bandits, groups: int, K: int, rng: torch.Generator) -> Loss:
    """The mean loss of `groups` groups of K arms that mu draws anew at each call."""
    reward, log_ref, mu = (torch.as_tensor(x) for x in (bandits.reward, bandits.log_ref, np.exp(bandits.log_mu)))
    N = len(reward)

    def loss(log_pi: Tensor) -> Tensor:
        arms = torch.multinomial(mu, groups * K, replacement=True, generator=rng)
        logp, ref, R = (x.gather(1, arms).reshape(N, groups, K) for x in (log_pi, log_ref, reward))
        return objective.loss(Completions(logp.unsqueeze(-1), ref.unsqueeze(-1)), R, None).loss.mean(-1)

    return loss


def of_pairs(objective: PairObjective, bandits: Bandits) -> Loss:
    """E of a loss of pairs: both arms from mu, the label by the Bradley-Terry model of the rewards."""
    arms = torch.cartesian_prod(*[torch.arange(bandits.reward.shape[1])] * 2)
    reward, log_ref, log_mu = (torch.as_tensor(x) for x in (bandits.reward, bandits.log_ref, bandits.log_mu))
    first, second = arms.unbind(-1)
    wins = torch.sigmoid(reward[:, first] - reward[:, second])  # ordered pairs: each is also there the other way round
    weight = log_mu[:, arms].sum(-1).exp() * wins * len(arms)  # the loss is a mean over the pairs

    def loss(log_pi: Tensor) -> Tensor:
        sides = (Completions(log_pi[:, i].unsqueeze(-1), log_ref[:, i].unsqueeze(-1)) for i in (first, second))
        return objective(*sides, weight=weight).loss

    return loss


def fit(loss: Loss, start: FloatArray, steps: int, lr: float, watch: Callable[[FloatArray], FloatArray] | None = None,
        every: int = 50) -> tuple[FloatArray, list[FloatArray]]:  # fmt: skip
    """log pi (N, A) of Adam on the logits from `start`, and what `watch` says of log pi every so many steps.

    The step size falls to 0 as a cosine, so that drawn groups end at a point and not in a cloud.
    """
    logits = nn.Parameter(torch.as_tensor(start).clone())
    optimiser = torch.optim.Adam([logits], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    seen: list[FloatArray] = []
    for step in range(steps):
        log_pi = logits.log_softmax(-1)
        if watch is not None and step % every == 0:
            seen.append(watch(log_pi.detach().numpy()))
        optimiser.zero_grad(set_to_none=True)
        loss(log_pi).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    out: FloatArray = logits.detach().log_softmax(-1).numpy()
    return out, [*seen, watch(out)] if watch is not None else []
