"""What claims about losses of embeddings share: networks of all seeds side by side, probes, bars over seeds.

A leading axis S holds one problem a seed. Every problem draws from generators of its own seed, and Adam works by
coordinate, so no problem changes another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import words
from rl_contrastive.analysis.statistics import Interval, mean_interval
from rl_contrastive.claims.base import Bar
from rl_contrastive.spec import FloatArray

SEEDS = (500, 501, 502, 503, 504)
"""Seeds of the reported measurement; settings were chosen on others."""
PROBE_STEPS, PROBE_LR, PROBE_DECAY = 200, 0.05, 1e-3


def generators(seeds: Sequence[int], purpose: int) -> list[torch.Generator]:
    """One generator a seed, apart from those of other purposes."""
    state = [np.random.SeedSequence(seed, spawn_key=(purpose,)).generate_state(1)[0] for seed in seeds]
    return [torch.Generator().manual_seed(int(s)) for s in state]


class Stack(nn.Module):
    """S perceptrons of one shape with ReLU between their layers: x (S, N, widths[0]) -> (S, N, widths[-1])."""

    def __init__(self, widths: Sequence[int], *, rngs: Sequence[torch.Generator]) -> None:
        """Weights and bias uniform in +-1/sqrt(inputs), from one generator a problem."""
        super().__init__()
        self.W, self.b = nn.ParameterList(), nn.ParameterList()
        for n, m in pairwise(widths):
            drawn = torch.stack([torch.rand(n + 1, m, generator=rng) for rng in rngs])  # (S, n + 1, m)
            drawn = (2.0 * drawn - 1.0) * n**-0.5
            self.W.append(nn.Parameter(drawn[:, :n].clone()))
            self.b.append(nn.Parameter(drawn[:, n:].clone()))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """What the last layer sees, (S, N, widths[-2])."""
        for W, b in zip(list(self.W)[:-1], list(self.b)[:-1], strict=True):
            x = torch.relu(torch.baddbmm(b, x, W))
        return x

    def last(self, hidden: Tensor) -> Tensor:
        """The last layer."""
        return torch.baddbmm(self.b[-1], hidden, self.W[-1])


def descend(parameters: Iterable[nn.Parameter], loss: Callable[[int], Tensor], steps: int, lr: float) -> None:
    """Adam on the losses (S,) of step 0, 1, ..., each problem's own."""
    optimiser = torch.optim.Adam(list(parameters), lr=lr)
    for step in range(steps):
        total = loss(step).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def linear_probe(z: Tensor, y: Tensor, z_test: Tensor, y_test: Tensor, classes: int) -> FloatArray:
    """Test accuracy (S,) of softmax regression on standardised z (S, n, d) with classes y (S, n)."""
    z, z_test = z.detach(), z_test.detach()
    mean, std = z.mean(1, keepdim=True), z.std(1, keepdim=True).clamp_min(1e-6)  # a coordinate may be constant
    z, z_test = (z - mean) / std, (z_test - mean) / std
    W = nn.Parameter(z.new_zeros(len(z), z.shape[-1], classes))
    b = nn.Parameter(z.new_zeros(len(z), 1, classes))

    def loss(step: int) -> Tensor:
        del step
        logits = torch.baddbmm(b, z, W)
        fit = torch.logsumexp(logits, -1) - logits.gather(-1, y.unsqueeze(-1)).squeeze(-1)
        return fit.mean(-1) + PROBE_DECAY * W.square().sum((-2, -1))

    descend([W, b], loss, PROBE_STEPS, PROBE_LR)
    hit = torch.baddbmm(b, z_test, W).argmax(-1) == y_test
    return hit.double().mean(-1).detach().numpy()


def nearest_neighbour(z: Tensor, y: Tensor, z_test: Tensor, y_test: Tensor) -> FloatArray:
    """Test accuracy (S,) of the class of the most similar (cosine) of z (S, n, d)."""
    z, z_test = (nn.functional.normalize(x.detach(), dim=-1) for x in (z, z_test))
    found = (z_test @ z.mT).argmax(-1)  # (S, m)
    return (y.gather(-1, found) == y_test).double().mean(-1).numpy()


def interval(values: Sequence[float] | FloatArray) -> Interval:
    """Mean over seeds with its t-interval."""
    return mean_interval(np.asarray(values, dtype=np.float64))


def shown(values: Sequence[float] | FloatArray, decimals: int = 3) -> str:
    """`0.745 [0.731, 0.759]`: mean over seeds and t-interval."""
    return words(interval(values), decimals)


def centres(values: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Means (K,) of K lists of values by seed, and lengths (2, K) of their t-intervals to both sides, for a plot."""
    parts = [interval(x) for x in values]
    centre = np.array([part.estimate for part in parts])
    return centre, np.array([centre - [part.low for part in parts], [part.high for part in parts] - centre])


def least(what: str, values: Sequence[float] | FloatArray, bound: float, *, control: bool = False) -> Bar:
    """The mean over seeds has to be at least `bound`; of a control it must not be."""
    mean = float(np.mean(values))
    return Bar(what, f"mean >= {bound:g}", shown(values), mean >= bound, control)


def most(what: str, values: Sequence[float] | FloatArray, bound: float, *, control: bool = False) -> Bar:
    """The mean over seeds has to be at most `bound`; of a control it must not be."""
    mean = float(np.mean(values))
    return Bar(what, f"mean <= {bound:g}", shown(values), mean <= bound, control)


def above(what: str, values: Sequence[float] | FloatArray, bound: float) -> Bar:
    """The mean over seeds has to exceed `bound`."""
    return Bar(what, f"mean > {bound:g}", shown(values), float(np.mean(values)) > bound)


def lead(what: str, values: Sequence[float] | FloatArray, bound: float, *, control: bool = False) -> Bar:
    """The lower end of the t-interval has to exceed `bound`; of a control it must not."""
    return Bar(what, f"lower end > {bound:g}", shown(values), interval(values).low > bound, control)
