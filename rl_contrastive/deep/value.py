"""Two value functions on one encoder, and their targets: Q of rewards (judged), and one that explores, G or I.

    Q(s,a)  of rewards alone; its greedy policy is evaluated.
    G(s,a)  of everything except the bonus at (s,a) itself, which the current counts give exactly:
            optimistic value = b(s,a) + G(s,a),   r + b + P V as in the backward pass of Algorithm 1

n-step targets, m <= n real steps, both by double Q-learning (van Hasselt et al. 2016: the online network chooses, the
target network evaluates):
    y_Q = sum_{k<m} gamma^k r_k + discount Q'(s_m, argmax_a Q(s_m, a))
    y_G = sum_{k<m} gamma^k r_k + sum_{1<=k<m} gamma^k b_k + discount [b + G'](s_m, argmax_a [b + G](s_m, a))
Optimism thus enters the targets and, through b + G, acting. In a game there are three value functions, Q, G-bar and
G-under, and the value at s_m is that of the stage game (`choice.py`) in place of the largest one. Returns may be
distributions over fixed atoms (Bellemare et al. 2017); then Q and G are their means.

With heads apart (`explore_config.py`) the second one is I, of bonuses alone, and acting is by Q + c (b + I). Each head
is the value of its own greedy policy, so Q stays that of the evaluated one:
    y_I = sum_{1<=k<m} gamma_I^k b_k + gamma_I^m [b + I'](s_m, argmax_a [b + I](s_m, a))
A bonus that is paid on arrival is known after the step: then the sums begin with k = 0, and b at s_m is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, smooth_l1_loss

from rl_contrastive.deep.config import ValueConfig
from rl_contrastive.deep.networks import Encoder, QHead
from rl_contrastive.deep.noisy import add_noise


class Values(nn.Module):
    """Encoder and the heads of Q and G (or I); wherever both are in one array (N, V, ...), Q comes first."""

    atoms: Tensor

    def __init__(
        self,
        encoder: Encoder,
        num_actions: int,
        config: ValueConfig,
        *,
        rng: torch.Generator,
        values: int = 2,
        shown: int = 0,
        hidden: int = 0,
    ) -> None:
        """values: V, number of value functions. shown: M, numbers that the second head sees beside the encoder's
        (`memory.py`), in a ReLU layer of its own of width `hidden`; 0: none, and one matrix for all heads."""
        super().__init__()
        self.encoder, self.config = encoder, config

        def head(width: int, values: int, hidden: int) -> QHead:
            dueling, atoms = config.dueling, config.atoms
            return QHead(width, num_actions, rng=rng, values=values, dueling=dueling, atoms=atoms, hidden=hidden)

        self.head = head(encoder.width, 1 if shown else values, config.hidden)
        self.second = head(encoder.width + shown, 1, hidden) if shown else None
        if config.noisy > 0:
            add_noise(self.head, config.noisy)
            if self.second is not None:
                add_noise(self.second, config.noisy)
        self.register_buffer(
            "atoms", torch.linspace(config.low, config.high, config.atoms, device=rng.device), persistent=False
        )

    def outputs(self, z: Tensor, shown: Tensor | None = None) -> Tensor:
        """The heads' outputs (N, V, A[, K]) of encoded observations z (N, width) and what the second is shown (N, M).

        Without it Q alone, (N, 1, A[, K]), where the second head needs it.
        """
        out = self.head.forward(z)
        if self.second is None or shown is None:
            return out
        return torch.cat([out, self.second.forward(torch.cat([z, shown], dim=1))], dim=1)

    def means(self, z: Tensor, shown: Tensor | None = None) -> Tensor:
        """Q and G (N, V, A), as `outputs`."""
        return self.mean(self.outputs(z, shown))

    def mean(self, out: Tensor) -> Tensor:
        """Values (..., A) of a head's output: itself, or the mean of its distribution."""
        return out if self.config.atoms == 1 else (out.softmax(-1) * self.atoms).sum(-1)


def chosen(out: Tensor, action: Tensor) -> Tensor:
    """out (N, V, A) or (N, V, A, K) at actions (N, V) -> (N, V) or (N, V, K)."""
    index = action[..., None] if out.dim() == 3 else action[..., None, None].expand(-1, -1, 1, out.shape[-1])
    return out.gather(2, index).squeeze(2)


def td_losses(
    values: Values,
    out: Tensor,
    action: Tensor,
    *,
    reward: Tensor,
    discount: Tensor,
    online_next: Tensor | None,
    target_next: Tensor,
    extra_next: Tensor,
) -> tuple[Tensor, Tensor]:
    """Losses (N, V) and absolute errors (N, V) of V value functions.

    out: the heads at s (N, V, A[, K]), with gradient; action (N,). reward (N, V): the n-step returns without the value
    at s_m; discount (N,), or (N, V) of each. online_next, target_next: the heads' outputs at s_m; without online_next
    the target network chooses, too. extra_next (N, V, A): known values there (bonuses), added to both.
    """
    with torch.no_grad():
        discount = discount[:, None] if discount.dim() == 1 else discount
        rates = values.mean(target_next if online_next is None else online_next) + extra_next
        best = rates.argmax(-1)  # (N, V)
        known = reward + discount * chosen(extra_next, best)
        following = chosen(target_next, best)
        if values.config.atoms > 1:
            goal = project(following.softmax(-1), known, discount.expand_as(known), values.atoms)
        else:
            goal = known + discount * following
    now = chosen(out, action[:, None].expand_as(best))
    if values.config.atoms == 1:
        return smooth_l1_loss(now, goal, reduction="none"), (now - goal).abs().detach()
    loss = -(goal * log_softmax(now, -1)).sum(-1)
    return loss, loss.detach()


def stage_losses(
    out: Tensor,
    action: Tensor,
    *,
    reward: Tensor,
    discount: Tensor,
    weights: Tensor,
    next_values: Tensor,
    bounds: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """The same of the value functions of a game: targets r + discount <weights, next_values>, clipped to the bounds.

    out (N, V, AB) with gradient; action (N,) joint; reward (N, V); weights (N, V, AB) probabilities of joint actions at
    the next state, next_values (N, V, AB) what they are worth there, bonuses included; bounds: of any return.
    """
    with torch.no_grad():
        following = (weights * next_values).sum(-1).clamp(*bounds)
        goal = reward + discount[:, None] * following
    now = chosen(out, action[:, None].expand_as(goal))
    return smooth_l1_loss(now, goal, reduction="none"), (now - goal).abs().detach()


def project(p: Tensor, reward: Tensor, discount: Tensor, atoms: Tensor) -> Tensor:
    """Distribution of reward + discount X, X ~ p (..., K) on `atoms` (K,), projected onto them (Bellemare et al. 2017).

    Mass between two atoms is shared linearly, which keeps the mean; mass beyond an end goes to the end.
    """
    K = len(atoms)
    step = (atoms[-1] - atoms[0]) / (K - 1)
    moved = (reward[..., None] + discount[..., None] * atoms).clamp(atoms[0], atoms[-1])
    place = ((moved - atoms[0]) / step).clamp(0, K - 1)  # (..., K), in units of atoms
    lower = place.floor()
    share = place - lower
    out = torch.zeros_like(p)
    out.scatter_add_(-1, lower.long(), p * (1 - share))
    return out.scatter_add_(-1, (lower + 1).clamp(max=K - 1).long(), p * share)
