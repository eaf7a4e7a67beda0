"""Two small dataclasses of a run: the Budget it is given, and the Progress that a checkpoint keeps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Literal

from rl_contrastive.config import Ge, Gt, In, Options, ranges_of, require, require_number
from rl_contrastive.spec import State

EVALUATIONS = 100
"""Evaluations of a run by default."""
SHARE, FEWEST, MOST = 0.1, 5, 200
"""For budgets in steps: the default share of evaluation steps in training steps; least episodes of an evaluation."""


@dataclass(frozen=True)
class Limits(Options):
    """Options for the length of a run and its evaluations."""

    episodes: Annotated[int | None, Ge(1)] = None
    """Cap on episodes (>= the agent's batch), rounded down to whole batches."""
    steps: Annotated[int | None, Ge(1)] = None
    """Cap on environment steps; the last batch may pass it."""
    eval_every: Annotated[int | None, Ge(1)] = None
    """Episodes between evaluations, rounded up to whole batches; default a hundredth of `episodes`."""
    eval_every_steps: Annotated[int | None, Ge(1)] = None
    """Environment steps between evaluations, up to the end of a batch, in place of `eval_every`; default a hundredth of
    `steps`."""
    eval_episodes: Annotated[int | None, Ge(1)] = None
    """Episodes of one evaluation. Default: 200. For budgets in steps: as many as keep all evaluations within a
    tenth of the steps trained (at least 5, at most 200); a policy that has not changed is then not evaluated again."""
    solve_at: Annotated[float, In(0, 1, above=True)] = 0.9
    """Solved: mean return >= this fraction of the optimal one, twice in a row."""
    solve_gap: Annotated[float, Gt(0)] = 0.05
    """Games: solved when the exact duality gap is at most this, twice in a row."""
    stop_when_solved: bool = False
    """End the run at the evaluation that confirms it solved."""
    exact: Literal["auto", "always", "never"] = "auto"
    """Exact values and regret where the model is known: auto (moderate sizes) | always | never."""


@dataclass(frozen=True)
class Budget(Limits):
    """The length of a run and the times of its evaluations: exactly one of episodes and steps is given."""

    def __post_init__(self) -> None:
        for name in ranges_of(Budget):
            if (value := getattr(self, name)) is not None:
                require_number(name, value, whole=name not in ("solve_at", "solve_gap"))
        flag = self.stop_when_solved
        require(isinstance(flag, bool), f"stop_when_solved must be True or False, got {flag!r}.")
        super().__post_init__()
        if self.steps is None and self.eval_episodes is None:
            object.__setattr__(self, "eval_episodes", MOST)  # the class is frozen
        one = (self.episodes is None) != (self.steps is None)
        require(one, "a run needs exactly one of episodes and steps.")
        both = self.eval_every is not None and self.eval_every_steps is not None
        require(not both, "give either eval_every or eval_every_steps, not both.")

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
        """Number of episodes of an evaluation that is due now; 0: it is postponed.

        `eval_episodes` is used where it is given; budgets in episodes always have it. A budget in steps limits the
        environment's time, so by default its evaluations spend at most SHARE of the steps trained so far, estimated
        from the mean length of the training episodes. An evaluation that could afford fewer than FEWEST episodes (or
        fewer than `rows`, which are played side by side) is postponed. So is one of a policy `version` that was
        evaluated before. The last evaluation is never postponed and has at least FEWEST episodes.
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
    """The progress of a run: everything the loop itself needs to continue (the rest is the agent's state)."""

    iteration: int = 0
    episodes: int = 0
    env_steps: int = 0
    evaluations: int = 0
    next_evaluation: int = 0
    """Count of episodes or steps (`Budget.evaluation_clock`) at which the next evaluation is due."""
    recorded_at: int = -1
    """Episode count of the last evaluation."""
    regret: float | None = 0.0
    """Sum over episodes of V* - V, the expected loss of the episode as played, uniform actions included; in a game, of
    the duality gap of its policies. None if the agent's action probabilities are not known exactly."""
    policy_loss: float = 0.0
    """Sum over the episodes of V* - V^{pi_k}, pi_k the optimistic policy of the episode's iteration, though the episode
    may be played otherwise; in a game, of the duality gap of its marginals. Recorded as its mean, `suboptimality`."""
    plans: int = 0
    """Games: number of plans whose certificate was compared with the exact gap of their marginals."""
    plans_covered: int = 0
    """Number of those whose certificate was at least the gap."""
    plan_version: int = -1
    """Version of the last plan that was counted."""
    streak: int = 0
    """Number of evaluations in a row that met the bar."""
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
    measured: dict[str, float] = field(default_factory=dict)
    """Sums of the environment's own metrics over the training episodes since the last evaluation."""
    measured_episodes: int = 0
    """Number of these episodes."""

    def state_dict(self) -> State:
        """JSON values only."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: State) -> Progress:
        """Inverse of `state_dict`; RlcError on missing or unknown keys."""
        names = {f.name for f in dataclasses.fields(cls)}
        older = {"eval_steps": 0, "evaluated_version": -1, "measured": {}, "measured_episodes": 0}
        state = {**older, **state}  # checkpoints older than these
        require(state.keys() == names, f"the checkpoint's progress has fields {sorted(state)}, not {sorted(names)}.")
        solved = state["solved_at"]
        pairs = {"first_met": tuple(state["first_met"]), "solved_at": None if solved is None else tuple(solved)}
        return cls(**{**state, **pairs})
