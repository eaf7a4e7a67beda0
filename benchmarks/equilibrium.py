"""Nash and coarse correlated equilibria of thousands of matrix games at once against HiGHS on one after the other.

Run: `python benchmarks/equilibrium.py` (a minute on one core). Bars, with exit code 1 where one is missed: nash 100x,
cce 10x at A = B = 2..5, both ahead at 10 and 20, and all certified, of 10^5 random and 10^5 tied games as well.
Both ways see the same games in alternating turns: `nash` and `cce` of planning.equilibrium, and HiGHS
(scipy.optimize.linprog) on one matrix after the other. HiGHS gets finished arrays: building the matrix of deviation
gains of a CCE is not counted against it. The certificate is the exact gap of every solution, over its payoffs' range.

Most of that ratio is the overhead of a call, so two fairer peers stand beside it, without a bar: HiGHS on many games in
one sparse programme (block diagonal, built beforehand), and of 2 x 2 games the closed form in numpy, which neither
checks nor certifies anything. All times are processor times.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import scipy
from scipy import sparse
from scipy.optimize import linprog

from rl_contrastive.planning.equilibrium import TOLERANCE, Correlated, Nash, cce, nash
from rl_contrastive.planning.simplex import deviations
from rl_contrastive.spec import FloatArray

BARS = {"nash": {2: 100.0, 3: 100.0, 4: 100.0, 5: 100.0}, "cce": {2: 10.0, 3: 10.0, 4: 10.0, 5: 10.0}}
"""Required ratios by number of actions; other sizes have to be ahead."""
BATCH = {2: 20_000, 3: 20_000, 4: 20_000, 5: 10_000, 10: 2_000, 20: 300}
"""Games that are solved at once."""
SINGLE = {2: 200, 3: 200, 4: 200, 5: 200, 10: 100, 20: 50}
"""Of these, games given to HiGHS in a turn."""
JOINT = {2: 1000, 3: 500, 4: 500, 5: 500, 10: 100, 20: 30}
"""Of these, games in one sparse programme."""


@dataclass(frozen=True)
class Games:
    """N games of one size; the column player's payoffs `lower` count for a CCE alone."""

    kind: str
    upper: FloatArray
    lower: FloatArray

    def scale(self) -> FloatArray:
        """What certificates are relative to, (N,)."""
        both = [np.ptp(M, axis=(1, 2)) for M in ((self.upper,) if self.kind == "nash" else (self.upper, self.lower))]
        return np.maximum(np.max(both, axis=0), 1e-300)

    def solve(self) -> Nash | Correlated:
        return nash(self.upper) if self.kind == "nash" else cce(self.upper, self.lower)


def random_games(kind: str, N: int, A: int, seed: int) -> Games:
    """Payoffs uniform in [0, 1]; Q-bar and Q-under lie up to .3 above and below them."""
    rng = np.random.default_rng(seed)
    M = rng.random((N, A, A))
    if kind == "nash":
        return Games(kind, M, M)
    return Games(kind, M + 0.3 * rng.random(M.shape), M - 0.3 * rng.random(M.shape))


def tied_games(kind: str, N: int, A: int, seed: int) -> Games:
    """Payoffs drawn from {0, .5, 1}: nearly every pivot is degenerate."""
    rng = np.random.default_rng(seed)
    return Games(kind, *(rng.integers(0, 3, (N, A, A)) / 2 for _ in range(2)))


def one_by_one(M: FloatArray) -> FloatArray:
    """Values min_y max_a (M y)_a of (N, m, n) by HiGHS, N calls over variables (y, v)."""
    N, m, n = M.shape
    cost, bounds = np.append(np.zeros(n), 1.0), [(0, None)] * n + [(None, None)]
    ones, zeros, column = np.append(np.ones(n), 0.0)[None], np.zeros(m), -np.ones((m, 1))
    values = np.empty(N)
    for i in range(N):
        rows = np.hstack([M[i], column])
        values[i] = linprog(cost, A_ub=rows, b_ub=zeros, A_eq=ones, b_eq=[1.0], bounds=bounds, method="highs").fun
    return values


class OneProgramme:
    """N games M (N, m, n) as one sparse programme: min sum_i v_i s.t. M_i y_i <= v_i, 1'y_i = 1, y_i >= 0."""

    def __init__(self, M: FloatArray) -> None:
        N, m, n = M.shape
        rows = np.concatenate([M, -np.ones((N, m, 1))], axis=2)
        self.below, self.sums = (
            sparse.bsr_array((blocks, np.arange(N), np.arange(N + 1))).tocsr()
            for blocks in (rows, np.broadcast_to(np.append(np.ones(n), 0.0), (N, 1, n + 1)).copy())
        )
        self.cost = np.tile(np.append(np.zeros(n), 1.0), N)
        self.bounds = ([(0, None)] * n + [(None, None)]) * N
        self.zeros, self.ones, self.n = np.zeros(N * m), np.ones(N), n

    def solve(self) -> FloatArray:
        """Values (N,)."""
        found = linprog(
            self.cost, self.below, self.zeros, self.sums, self.ones, bounds=self.bounds, method="highs-ds"
        )  # fmt: skip
        return np.asarray(found.x.reshape(-1, self.n + 1)[:, -1])


def closed_form(M: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(x, y, value), each (N,), of games (N, 2, 2): a saddle point where there is one, else both mix; x of row 0."""
    a, b, c, d = M[:, 0, 0], M[:, 0, 1], M[:, 1, 0], M[:, 1, 1]
    low = np.minimum(a, b), np.minimum(c, d)
    high = np.maximum(a, c), np.maximum(b, d)
    pure, row, column = np.maximum(*low) >= np.minimum(*high), low[0] >= low[1], high[0] <= high[1]
    total = np.where(pure, 1.0, a - b - c + d)
    x, y = np.where(pure, row, (d - c) / total), np.where(pure, column, (d - b) / total)
    return x, y, np.where(pure, np.maximum(*low), (a * d - b * c) / total)


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def peers(games: Games, repeats: int) -> str:
    """How far ahead of the fairer peers the batch is, a game: medians over turns."""
    M, A = games.upper, games.upper.shape[1]
    some = slice(0, JOINT[A])
    together = OneProgramme(M[some] if games.kind == "nash" else deviations(M[some], games.lower[some]))
    known = games.solve()
    values = known.value if isinstance(known, Nash) else known.gap
    contestants: dict[str, tuple[Callable[[], object], int]] = {"one programme": (together.solve, JOINT[A])}
    difference = float(np.abs(values[some] - together.solve()).max())
    if games.kind == "nash" and A == 2:
        contestants["closed form"] = (lambda: closed_form(M), len(M))
        difference = max(difference, float(np.abs(values - closed_form(M)[2]).max()))
    if not difference < 1e-6:
        raise SystemExit(f"{games.kind} {A}x{A}: the peers differ by {difference:.2g}")
    turns: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        own = seconds(games.solve) / len(M)
        for name, (call, count) in contestants.items():
            turns[name].append(seconds(call) / count / own)
    return "; ".join(f"{name} {median(ratios):.2g}x" for name, ratios in turns.items())


def side_by_side(kind: str, A: int, repeats: int) -> bool:
    """One line; False if a bar is missed."""
    games = random_games(kind, BATCH[A], A, seed=A)
    few = slice(0, SINGLE[A])
    matrices = games.upper[few] if kind == "nash" else deviations(games.upper[few], games.lower[few])
    result = games.solve()  # warms both up as well
    values = one_by_one(matrices)
    ours = result.value[few] if isinstance(result, Nash) else result.gap[few]  # a CCE's gap is the value of its game
    difference = float(np.abs(ours - values).max())
    if not difference < 1e-6:
        raise SystemExit(f"{kind} {A}x{A}: the two ways differ by {difference:.2g}")
    times = [(seconds(lambda: one_by_one(matrices)), seconds(games.solve)) for _ in range(repeats)]
    ratio = median((single / SINGLE[A]) / (batch / BATCH[A]) for single, batch in times)
    single, batch = (median(column) for column in zip(*times, strict=True))
    certificate = result.gap / games.scale()
    uncertified = int((certificate > TOLERANCE).sum())
    bar = BARS[kind].get(A, 1.0)
    met = ratio >= bar and uncertified == 0
    print(
        f"{kind:<6}{A:>3}{SINGLE[A] / single:>12.0f}{BATCH[A] / batch:>14.0f}{ratio:>9.0f}x{certificate.max():>12.1e}"
        f"{uncertified:>13}{result.fallbacks:>11}{difference:>12.0e}  {bar:.0f}x {'met' if met else 'MISSED'}"
        f"; against {peers(games, repeats)}"
    )
    return met


def many(kind: str, label: str, N: int, A: int) -> bool:
    """Certificates of N games, in one call; False unless all are certified."""
    games = (random_games if label == "random" else tied_games)(kind, N, A, seed=100 + A)
    start = time.perf_counter()
    result = games.solve()
    rate = N / (time.perf_counter() - start)
    certificate = result.gap / games.scale()
    uncertified = int((certificate > TOLERANCE).sum())
    met = uncertified == 0
    print(
        f"{kind:<6}{A:>3}  {label:<8}{N:>8}{rate:>12.0f}{certificate.max():>12.1e}{uncertified:>13}"
        f"{result.fallbacks:>11}  {'met' if met else 'MISSED'}"
    )
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant (default 5)")
    parser.add_argument("--many", type=int, default=100_000, help="games of the certificate table (default 100000)")
    args = parser.parse_args()
    print(f"one thread; numpy {np.__version__}, scipy {scipy.__version__}; median of {args.repeats} turns")
    print(
        f"{'games':<6}{'A=B':>3}{'HiGHS /s':>12}{'batched /s':>14}{'ratio':>10}{'certificate':>12}{'uncertified':>13}"
        f"{'fallbacks':>11}{'difference':>12}  bar"
    )
    fast = [side_by_side(kind, A, args.repeats) for kind in ("nash", "cce") for A in BATCH]
    header = f"{'games':<6}{'A=B':>3}  {'payoffs':<8}{'number':>8}{'/s':>12}{'certificate':>12}"
    print(f"\n{header}{'uncertified':>13}{'fallbacks':>11}")
    certified = [
        many(kind, label, args.many, A) for kind in ("nash", "cce") for label in ("random", "tied") for A in (3, 5)
    ]
    return int(not all(fast + certified))


if __name__ == "__main__":
    sys.exit(main())
