"""Worlds whose completions are listed one by one, so that every expectation and every optimum is exact.

A completion passes decisions t = 1..T; decision (row) n of a policy's table log_pi (S, A) is an arm's choice (bandit),
a state at a step (MDP), a history, or a prefix of tokens. A policy is anything that gives such a table: free logits,
features (`CoverageBandit`), a network (`Autoregressive`). Tensors are float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.preferences.base import Completions
from rl_contrastive.preferences.data import PairIndex
from rl_contrastive.preferences.exact import SoftOptimum, optimum, soft_optimal
from rl_contrastive.spec import FloatArray

MOST_LISTED = 1 << 16
"""Completions that are listed at most."""


@dataclass(frozen=True)
class Listed:
    """All N completions of one start."""

    rows: Tensor
    """(N, T) decision at each step; 0 on padding."""
    actions: Tensor
    """(N, T) what is done there; 0 on padding."""
    mask: Tensor
    """(N, T) 1 on real steps."""
    reward: Tensor
    """(N,) R of each."""
    log_ref: Tensor
    """(S, A) the reference policy's table."""
    log_world: Tensor | None = None
    """(N,) log-probability of the transitions that a completion holds; None: the actions decide everything."""

    def steps(self, log_pi: Tensor) -> Tensor:
        """log pi(a_t|s_t) (..., N, T) of a table (..., S, A)."""
        A = log_pi.shape[-1]
        flat = (self.rows * A + self.actions).flatten()
        return log_pi.flatten(-2)[..., flat].reshape(*log_pi.shape[:-2], *self.rows.shape)

    def completions(self, log_pi: Tensor) -> Completions:
        """All N under a table (..., S, A), with KL(pi_ref || pi) at each step."""
        ref = self.steps(self.log_ref)
        kl = (self.log_ref.exp() * (self.log_ref - log_pi)).sum(-1)[..., self.rows]  # (..., N, T)
        logp = self.steps(log_pi)
        return Completions(logp, ref.expand_as(logp), self.mask.expand_as(logp), kl)

    def log_law(self, log_pi: Tensor) -> Tensor:
        """log p(y) (..., N), the transitions' part included."""
        out = (self.steps(log_pi) * self.mask).sum(-1)
        return out if self.log_world is None else out + self.log_world

    def optimum(self, beta: float, reward: Tensor | None = None) -> FloatArray:
        """log pi_ref(y) + R(y)/beta - log Z (N,), of the world's reward or another one.

        The optimum among policies, if actions decide everything and a policy can tell all histories apart, or R is
        additive over steps; among all laws of completions otherwise.
        """
        R = self.reward if reward is None else reward
        return optimum(R.numpy(), self.log_law(self.log_ref).numpy(), beta)

    def all_pairs(self) -> PairIndex:
        """Every ordered pair of different completions, N (N - 1) of them."""
        N = len(self.reward)
        first, second = (~torch.eye(N, dtype=torch.bool)).nonzero().unbind(-1)
        return PairIndex(first, second)


def bandit(reward: Tensor, log_ref: Tensor) -> Listed:
    """Arms with rewards (A,) and a reference (A,): completions of one step."""
    require(reward.ndim == 1 and reward.shape == log_ref.shape,
            f"bandit: reward and log_ref must have the same shape (A,), got {tuple(reward.shape)} and "
            f"{tuple(log_ref.shape)}.")  # fmt: skip
    A = len(reward)
    zeros = torch.zeros(A, 1, dtype=torch.long)
    return Listed(zeros, torch.arange(A).unsqueeze(-1), torch.ones(A, 1, dtype=torch.float64), reward.double(),
                  log_ref.double().unsqueeze(0))  # fmt: skip


def random_bandit(arms: int, *, rng: torch.Generator) -> Listed:
    """Rewards and logits of the reference are standard normal."""
    reward, logits = (torch.randn(arms, dtype=torch.float64, generator=rng) for _ in range(2))
    return bandit(reward, logits.log_softmax(-1))


COVERAGE_REWARD, COVERAGE_REF = (1.0, 0.0, -5.0), (0.495, 0.495, 0.01)
COVERAGE_FEATURES = ((1.0, 0.0), (0.0, 1.0), (1.3, 0.0))


@dataclass(frozen=True)
class CoverageBandit:
    """Three arms, of which offline pairs show two; the features tie the third, of reward -5, to the best one.

    log pi(a) = log pi_ref(a) + phi_a . theta - log Z. At beta .1 the reference is worth .445 and the best of all
    policies .930; whatever raises arm 0 raises the uncovered arm 1.3 times as much.
    """

    world: Listed
    features: Tensor
    """phi (3, 2)."""

    def log_pi(self, theta: Tensor) -> Tensor:
        """theta (..., 2) -> table (..., 1, 3)."""
        return (self.world.log_ref[0] + theta @ self.features.mT).log_softmax(-1).unsqueeze(-2)


def coverage_bandit() -> CoverageBandit:
    """The coverage bandit."""
    reward, ref = (torch.tensor(x, dtype=torch.float64) for x in (COVERAGE_REWARD, COVERAGE_REF))
    return CoverageBandit(bandit(reward, ref.log()), torch.tensor(COVERAGE_FEATURES, dtype=torch.float64))


def bins_bandit(bins: int = 100, best: float = 70.0, start: float = 20.0, spread: float = 15.0) -> Listed:
    """r(a) = exp(-((a - best)/10)^2), and a reference like a normal law at `start`: the mode has to be sought."""
    a = torch.arange(bins, dtype=torch.float64)
    return bandit((-(((a - best) / 10) ** 2)).exp(), (-0.5 * ((a - start) / spread) ** 2).log_softmax(-1))


@dataclass(frozen=True)
class Tables:
    """An MDP of H steps: P (H, S, A, S), r (H, S, A), first state `start`, reference log_ref (H, S, A)."""

    P: FloatArray
    r: FloatArray
    start: int
    log_ref: FloatArray

    def soft_optimal(self, beta: float) -> SoftOptimum:
        """The best policy by backward recursion."""
        return soft_optimal(self.P, self.r, self.log_ref, beta)

    def listed(self, *, histories: bool = False) -> Listed:
        """All trajectories of positive probability. Decisions are (h, s), row h S + s, or whole histories.

        RlcError where there are more than 65536.
        """
        H, S, A = self.r.shape
        paths: list[tuple[list[int], list[int], float, float]] = [([self.start], [], 0.0, 0.0)]
        for h in range(H):
            branches = (self.P[h] > 0).sum((-1, -2)) if h + 1 < H else np.full(S, A)
            count = sum(int(branches[seen[-1]]) for seen, *_ in paths)
            require(count <= MOST_LISTED, f"Tables: more than {MOST_LISTED} trajectories cannot be listed.")
            paths = [
                ([*seen, int(t)], [*done, a], total + float(self.r[h, seen[-1], a]), log_p + float(np.log(p)))
                for seen, done, total, log_p in paths
                for a in range(A)
                for t, p in (enumerate(self.P[h, seen[-1], a]) if h + 1 < H else [(0, 1.0)])
                if p > 0
            ]
        states = torch.tensor([seen[:H] for seen, *_ in paths])
        actions = torch.tensor([done for _, done, *_ in paths])
        rows = torch.arange(H) * S + states
        log_ref = torch.from_numpy(self.log_ref.reshape(H * S, A).copy())
        if histories:
            rows, log_ref = _by_history(rows, actions, log_ref)
        world = torch.tensor([log_p for *_, log_p in paths], dtype=torch.float64)
        reward = torch.tensor([total for _, _, total, _ in paths], dtype=torch.float64)
        return Listed(rows, actions, torch.ones(rows.shape, dtype=torch.float64), reward, log_ref,
                      world if bool((world != 0).any()) else None)  # fmt: skip

    def sample(self, log_pi: FloatArray, count: int, *, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """States (count, H), actions (count, H), returns (count,) of a policy's trajectories."""
        states, actions = [], []
        s = torch.full((count,), self.start)
        pi, P, r = (torch.from_numpy(np.asarray(x)) for x in (np.exp(log_pi), self.P, self.r))
        total = torch.zeros(count, dtype=torch.float64)
        for h in range(len(r)):
            a = torch.multinomial(pi[h, s], 1, generator=rng).squeeze(-1)
            states.append(s), actions.append(a)  # type: ignore[func-returns-value]
            total += r[h, s, a]
            s = torch.multinomial(P[h, s, a], 1, generator=rng).squeeze(-1)
        return torch.stack(states, -1), torch.stack(actions, -1), total


def _by_history(rows: Tensor, actions: Tensor, log_ref: Tensor) -> tuple[Tensor, Tensor]:
    """Decisions told apart by all that came before: rows (N, T) and the reference's table of them."""
    seen: dict[tuple[int, ...], int] = {}
    new, of = torch.zeros_like(rows), []
    for n, (path, done) in enumerate(zip(rows.tolist(), actions.tolist(), strict=True)):
        for t in range(len(path)):
            key = (*path[: t + 1], -1, *done[:t])
            if key not in seen:
                seen[key] = len(seen)
                of.append(path[t])
            new[n, t] = seen[key]
    return new, log_ref[torch.tensor(of)]


def gridworld(size: int = 3, horizon: int = 4, *, rng: torch.Generator) -> Tables:
    """Four moves on a square, walls hold; each cell has a normal reward for entering it; a random reference."""
    S, A = size * size, 4
    P, r = np.zeros((horizon, S, A, S)), np.zeros((horizon, S, A))
    worth = torch.randn(S, dtype=torch.float64, generator=rng).numpy()
    for s, (a, (dx, dy)) in product(range(S), enumerate([(1, 0), (-1, 0), (0, 1), (0, -1)])):
        x, y = min(max(s // size + dx, 0), size - 1), min(max(s % size + dy, 0), size - 1)
        P[:, s, a, x * size + y], r[:, s, a] = 1.0, worth[x * size + y]
    return Tables(P, r, 0, _reference((horizon, S, A), rng))


def low_rank(states: int = 3, actions: int = 2, horizon: int = 2, rank: int = 2, *, rng: torch.Generator) -> Tables:
    """P_h(t|s,a) = phi_h(s,a) . mu_h(t), phi on the simplex, mu probabilities; normal rewards, a random reference."""
    shape = (horizon, states, actions)
    phi = torch.randn(*shape, rank, dtype=torch.float64, generator=rng).softmax(-1)
    mu = (2 * torch.randn(horizon, rank, states, dtype=torch.float64, generator=rng)).softmax(-1)
    P = torch.einsum("hsak,hkt->hsat", phi, mu)
    r = torch.randn(*shape, dtype=torch.float64, generator=rng)
    return Tables(P.numpy(), r.numpy(), 0, _reference(shape, rng))


def _reference(shape: tuple[int, int, int], rng: torch.Generator) -> FloatArray:
    log_ref: FloatArray = torch.randn(*shape, dtype=torch.float64, generator=rng).log_softmax(-1).numpy()
    return log_ref


@dataclass(frozen=True)
class Language:
    """A toy language of `tokens` letters and an end sign; a text ends with it or with `length` letters."""

    world: Listed
    prefixes: tuple[tuple[int, ...], ...]
    """The decisions: what was written before; row n of a policy's table chooses what follows prefix n."""
    tokens: int
    length: int


def language(tokens: int = 2, length: int = 5, *, rng: torch.Generator) -> Language:
    """R(y) = normal worths of neighbouring letters, summed, and 1 for a text that ends in time; a random reference."""
    require(tokens >= 2 and 2 <= length <= 8, f"language: needs >= 2 tokens and a length in [2, 8], got {tokens} and "
            f"{length}.")  # fmt: skip
    prefixes = [p for n in range(length) for p in product(range(tokens), repeat=n)]
    at = {p: n for n, p in enumerate(prefixes)}
    end = tokens
    texts = [(*p, end) for p in prefixes] + list(product(range(tokens), repeat=length))
    require(len(texts) <= MOST_LISTED, f"language: more than {MOST_LISTED} texts cannot be listed.")
    worth = torch.randn(tokens, tokens, dtype=torch.float64, generator=rng)
    rows, actions, mask = (torch.zeros(len(texts), length, dtype=torch.long) for _ in range(3))
    reward = torch.zeros(len(texts), dtype=torch.float64)
    for n, text in enumerate(texts):
        T = len(text)
        rows[n, :T] = torch.tensor([at[text[:t]] for t in range(T)])
        actions[n, :T], mask[n, :T] = torch.tensor(text), 1
        reward[n] = sum(worth[a, b] for a, b in pairwise(text) if b != end) + (text[-1] == end)
    log_ref = torch.randn(len(prefixes), tokens + 1, dtype=torch.float64, generator=rng).log_softmax(-1)
    return Language(Listed(rows, actions, mask.double(), reward, log_ref), tuple(prefixes), tokens, length)


class Autoregressive(nn.Module):
    """A recurrent network over a language's letters: () -> log pi (prefixes, tokens + 1), float64.

    It adds to the reference's logits, so that it starts near the reference.
    """

    def __init__(self, language: Language, width: int = 32, *, rng: torch.Generator) -> None:
        super().__init__()
        T, k = language.length, language.tokens
        text = torch.zeros(len(language.prefixes), T, k + 1, dtype=torch.float64)  # the first input is the start sign
        text[:, 0, k] = 1
        for n, prefix in enumerate(language.prefixes):
            for t, a in enumerate(prefix):
                text[n, t + 1, a] = 1
        self.register_buffer("text", text)
        self.register_buffer("last", torch.tensor([len(p) for p in language.prefixes]))
        self.register_buffer("log_ref", language.world.log_ref)
        self.cell = nn.GRU(k + 1, width, batch_first=True, dtype=torch.float64)
        self.head = nn.Linear(width, k + 1, dtype=torch.float64)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_((2 * torch.rand(parameter.shape, dtype=torch.float64, generator=rng) - 1) * width**-0.5)

    def forward(self) -> Tensor:
        """All prefixes at once."""
        hidden = self.cell(self.text)[0]  # (prefixes, T, width)
        at = hidden[torch.arange(len(hidden)), self.last]
        return torch.log_softmax(self.log_ref + self.head(at), -1)
