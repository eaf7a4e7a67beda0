"""Two small dataclasses of a run: the Budget it is given, and the Progress that a checkpoint keeps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from rl_contrastive.config import require, require_number
from rl_contrastive.spec import State

EVALUATIONS = 100
"""Evaluations of a run by default."""
SHARE, FEWEST, MOST = 0.1, 5, 200
"""Of budgets in steps: what evaluations may spend by default, relative to training; episodes of one of them."""


@dataclass(frozen=True)
class Limits:
    """What a user may say about a run's length and its evaluations."""

    episodes: int | None = None
    """Cap on episodes (>= the agent's batch), rounded down to whole batches."""
    steps: int | None = None
    """Cap on environment steps (>= 1); the last batch may pass it."""
    eval_every: int | None = None
    """Episodes between evaluations, rounded up to whole batches; default a hundredth of `episodes`."""
    eval_every_steps: int | None = None
    """Environment steps between evaluations, up to the end of a batch, in place of `eval_every`; default a hundredth of
    `steps`."""
    eval_episodes: int | None = None
    """Episodes of one evaluation (>= 1); default 200, but for budgets in steps as many as keep all evaluations within a
    tenth of the steps trained (at least 5, at most 200), and a policy that has not changed is not evaluated again."""
    solve_at: float = 0.9
    """Solved: mean return >= this fraction of the optimal one, twice in a row (0..1)."""
    solve_gap: float = 0.05
    """Games: solved when the exact duality gap is at most this, twice in a row (> 0)."""
    stop_when_solved: bool = False
    """End the run at the evaluation that confirms it solved."""
    exact: str = "auto"
    """Exact values and regret where the model is known: auto (moderate sizes) | always | never."""


@dataclass(frozen=True)
class Budget(Limits):
    """How long a run may be, and when it is measured: exactly one of episodes and steps is given."""

    def __post_init__(self) -> None:
        if self.steps is None and self.eval_episodes is None:
            object.__setattr__(self, "eval_episodes", MOST)  # the class is frozen
        one = (self.episodes is None) != (self.steps is None)
        require(one, "a run needs exactly one of episodes and steps.")
        for name in ("episodes", "steps", "eval_every", "eval_every_steps", "eval_episodes"):
            value = getattr(self, name)
            if value is not None:
                require_number(name, value, whole=True)
            require(value is None or value >= 1, f"{name} must be >= 1, got {value}.")
        for name in ("solve_at", "solve_gap"):
            require_number(name, getattr(self, name))
        flag = self.stop_when_solved
        require(isinstance(flag, bool), f"stop_when_solved must be True or False, got {flag!r}.")
        both = self.eval_every is not None and self.eval_every_steps is not None
        require(not both, "give either eval_every or eval_every_steps, not both.")
        require(0.0 < self.solve_at <= 1.0, f"solve_at must be in (0, 1], got {self.solve_at}.")
        require(0.0 < self.solve_gap < inf, f"solve_gap must be > 0 and finite, got {self.solve_gap}.")
        require(self.exact in ("auto", "always", "never"), f"exact must be auto, always or never, got {self.exact!r}.")

    @property
    def clock(self) -> Literal["episodes", "env_steps"]:
        """The count of `Progress` that is capped."""
        return "episodes" if self.steps is None else "env_steps"

    @property
    def evaluation_clock(self) -> Literal["episodes", "env_steps"]:
        """The count of `Progress` by which evaluations are due: by default that of the budget."""
        by_steps = self.eval_every is None and (self.eval_every_steps or self.steps) is not None
        return "env_steps" if by_steps else "episodes"

    def affordable(self, progress: Progress, version: int, rows: int, *, last: bool = False) -> int:
        """Episodes of an evaluation that is due now; 0: it waits for a later one.

        `eval_episodes` holds where it is given, and budgets in episodes always have it. A budget in steps is one of the
        environment's time: by default its evaluations spend at most SHARE of the steps trained so far, by the mean
        length of the episodes trained on. One of fewer than FEWEST episodes waits (or than `rows`, which are played
        side by side), as does one of a policy `version` that was evaluated before. The last evaluation does not wait:
        it has FEWEST episodes, whatever they cost.
        """
        if self.eval_episodes is not None:
            return self.eval_episodes
        if version == progress.evaluated_version and not last:
            return 0
        left = SHARE * progress.env_steps - progress.eval_steps
        count = int(left * max(progress.episodes, 1) / max(progress.env_steps, 1))
        if count < max(FEWEST, rows):
            return FEWEST if last else 0
        return min(count, MOST) // rows * rows or MOST

    def interval(self, batch: int) -> int:
        """Counts of `evaluation_clock` between evaluations."""
        whole = self.episodes or self.steps or 0
        return self.eval_every or self.eval_every_steps or max(batch, whole // EVALUATIONS)


@dataclass
class Progress:
    """Where a run is: everything the loop itself needs to go on (the rest is the agent's state)."""

    iteration: int = 0
    episodes: int = 0
    env_steps: int = 0
    evaluations: int = 0
    next_evaluation: int = 0
    """Count, of episodes or steps (`Budget.evaluation_clock`), from which on the next evaluation is due."""
    recorded_at: int = -1
    """Episode count of the last evaluation."""
    regret: float | None = 0.0
    """Sum over the episodes of what each loses in expectation as it is played, V* - V, uniform actions included; in a
    game, of the duality gap of what it plays. None if the agent's behaviour has no exact law."""
    policy_loss: float = 0.0
    """Sum over the episodes of V* - V^{pi_k}, pi_k the optimistic policy of the episode's iteration, though the episode
    may be played otherwise; in a game, of the duality gap of its marginals. Recorded as its mean, `suboptimality`."""
    plans: int = 0
    """Games: plans whose certificate was held against the exact gap of their marginals."""
    plans_covered: int = 0
    """Those whose certificate was at least the gap."""
    plan_version: int = -1
    """Version of the last plan that was counted."""
    streak: int = 0
    """Evaluations in a row that met the bar."""
    first_met: tuple[int, int] = (0, 0)
    """(episodes, env_steps) at the first one of the streak."""
    solved_at: tuple[int, int] | None = None
    last_return: float | None = None
    eval_steps: int = 0
    """Environment steps of all evaluations, which are not among `env_steps`."""
    evaluated_version: int = -1
    """Version of the agent at the last evaluation."""
    scalars: dict[str, float] = field(default_factory=dict)
    """Newest value of each scalar that `agent.update()` returned."""
    exact: dict[str, float] = field(default_factory=dict)
    """Exact metrics of the last evaluation."""

    def state_dict(self) -> State:
        """JSON values only."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: State) -> Progress:
        """Inverse of `state_dict`; RlcError on missing or unknown keys."""
        names = {f.name for f in dataclasses.fields(cls)}
        state = {"eval_steps": 0, "evaluated_version": -1, **state}  # checkpoints older than these
        require(state.keys() == names, f"the checkpoint's progress has fields {sorted(state)}, not {sorted(names)}.")
        solved = state["solved_at"]
        pairs = {"first_met": tuple(state["first_met"]), "solved_at": None if solved is None else tuple(solved)}
        return cls(**{**state, **pairs})
