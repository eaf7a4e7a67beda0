"""THE loop: it trains any agent on any environment, and evaluates, records and checkpoints it.

    for iteration k = 0, 1, ...
        reset B rows with the seeds of ("env", k); agent.begin(B)
        for h = 0..H-1 while a row is alive: act, step, observe
        agent.update()
        evaluate if due; checkpoint if due
    evaluate at the end

Each iteration seeds the environment again, so its state is never part of a checkpoint: (progress, agent state) after an
iteration determine everything that follows.

Budgets. `episodes`: a batch is played only if it fits whole, so a run ends with floor(episodes / B) * B <= episodes.
`steps`: batches are played while env_steps < steps, so the last one may pass the budget, by less than B * H steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.errors import unknown_name
from rl_contrastive.runs.budget import Budget, Progress
from rl_contrastive.runs.evaluate import evaluate, exact_model
from rl_contrastive.runs.oracle import LayeredOracle, Oracle, make_layered, make_oracle
from rl_contrastive.runs.rollout import play
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import Agent, Env, EnvSpec, OwnLoop, State, WithEpisodeMetrics, is_memoryless

__all__ = ["Budget", "Progress", "Sink", "TrainingResult", "check_fit", "train"]


class Sink(Protocol):
    """Receives the results of a run; `sink.RunSink` writes them to a run folder."""

    def evaluated(self, line: dict[str, Any], progress: Progress) -> None:
        """One evaluation: a line of deterministic values."""

    def iterated(self, progress: Progress, snapshot: Callable[[], State] | None) -> bool:
        """After each iteration: checkpoint if due; True asks the loop to stop here (to be resumed).

        `snapshot` is None for agents with a loop of their own, which cannot be resumed midway.
        """

    def finished(self, progress: Progress, snapshot: Callable[[], State] | None) -> None:
        """After the last evaluation, or after a stop that `iterated` asked for: the last checkpoint."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run. `history` has one line for each evaluation made in this process."""

    progress: Progress
    history: list[dict[str, Any]]
    stopped: bool
    """The sink asked to stop before the budget was used up."""

    @property
    def final_return(self) -> float | None:
        """Mean return of the last evaluation."""
        return self.progress.last_return

    @property
    def solved_at_episode(self) -> int | None:
        """Episodes at the first of two evaluations in a row that met the bar, or None."""
        return self.progress.solved_at[0] if self.progress.solved_at else None


def train(
    agent: Agent,
    env: Env,
    *,
    budget: Budget | None = None,
    eval_env: Env | None = None,
    seed: int | None = None,
    sink: Sink | None = None,
    state: State | None = None,
    progress: Progress | None = None,
    **limits: Any,
) -> TrainingResult:
    """Train `agent` on `env` (B = agent.batch rows) and return the measurements.

    The budget is `budget`, or the fields of `Budget` as keywords (`episodes=1000, eval_every=50`). `eval_env`: rows for
    evaluation, by default `env` itself, which is seeded anew before each use. `seed`: for the random streams of
    environment and evaluation, by default the agent's. `state`: a snapshot to continue from; it is loaded into the
    agent too. `progress`: the same for an agent that was loaded already.
    """
    missing = [name for name in ("batch", "act", "observe", "update", "policy") if not hasattr(agent, name)]
    have = f"train: the first argument must be an agent, as make_agent makes it, got {type(agent).__name__}"
    require(not missing, f"{have}, which has no {', '.join(missing)}.")
    for name, world in (("the environment", env), ("eval_env", eval_env)):
        good = (world is None and name == "eval_env") or isinstance(getattr(world, "env_spec", None), EnvSpec)
        require(good, f"train: {name} must come from make_env, got {type(world).__name__}.")
    require(budget is None or isinstance(budget, Budget), f"train: budget must be a Budget, got {budget!r}.")
    limits = {name: value for name, value in limits.items() if value is not None}
    require(budget is None or not limits, "give either a budget or its fields, not both.")
    known = {field.name for field in fields(Budget)}
    for name in limits.keys() - known:
        raise unknown_name("option of train", name, known)
    tree = SeedTree(seed) if seed is not None else getattr(agent, "seeds", SeedTree(0))
    loop = _Loop(agent, env, budget or Budget(**limits), eval_env or env, tree, sink)
    if state is not None:
        loop.load(state)
    elif progress is not None:
        loop.progress = progress
    stopped = loop.run_own_loop(agent) if isinstance(agent, OwnLoop) else loop.run()
    if sink is not None:
        # A run with a loop of its own starts over when resumed, so only its end is saved.
        keeps = not isinstance(agent, OwnLoop) or (agent.has_policy_state and not stopped)
        sink.finished(loop.progress, loop.snapshot if keeps else None)
    return TrainingResult(loop.progress, loop.history, stopped)


def check_fit(agent: Agent, env: Env, budget: Budget) -> None:
    """RlcError unless the environment has the agent's rows and one batch fits into the budget."""
    B, cap, group = agent.batch, budget.episodes, env.env_spec.group
    hint = f"{env.env_spec.name} has {group} agents, a row each: --agent.batch must be a multiple of {group}"
    require(B % group == 0, f"{hint}, got {B}.")
    require(
        env.num_envs == B,
        f"the environment has {env.num_envs} rows, but the agent's batch is {B}: make it with num_envs={B}.",
    )
    require(cap is None or cap >= B, f"episodes must be >= the agent's batch of {B}, got {cap}: no batch would fit.")
    spec = env.env_spec
    judged = spec.optimal_return is not None or spec.players is not None
    hint = f"the best return of {spec.name} is not known, so no run of it is ever solved"
    require(judged or not budget.stop_when_solved, f"stop_when_solved: {hint}.")
    if budget.exact == "always":
        exact_model(env, "always")
        require(is_memoryless(agent), "exact: this agent's policy depends on the past of an episode.")


class _Loop:
    """The variables of one call of `train`."""

    def __init__(
        self, agent: Agent, env: Env, budget: Budget, eval_env: Env, tree: SeedTree, sink: Sink | None
    ) -> None:
        check_fit(agent, env, budget)
        self.agent, self.env, self.eval_env, self.budget, self.tree, self.sink = (
            agent,
            env,
            eval_env,
            budget,
            tree,
            sink,
        )
        self.interval = budget.interval(agent.batch)
        self.progress = Progress(next_evaluation=self.interval)
        self.history: list[dict[str, Any]] = []
        model = exact_model(env, budget.exact) if is_memoryless(agent) else None
        self.oracle: Oracle | None = None if model is None else make_oracle(model, tree.generator("evaluation", 0, 2))
        self.layered: LayeredOracle | None = None
        if model is None and is_memoryless(agent):
            self.layered = make_layered(env, budget.exact)

    def run(self) -> bool:
        """Batches until the budget is used up, then a last evaluation; True if the sink stopped it earlier."""
        progress = self.progress
        while not self._spent():
            self._iterate()
            if self._evaluation_clock() >= progress.next_evaluation:
                self._evaluate()
            if self.sink is not None and self.sink.iterated(progress, self.snapshot):
                return True
        if progress.recorded_at != progress.episodes:
            self._evaluate(last=True)
        return False

    def _spent(self) -> bool:
        progress, budget = self.progress, self.budget
        if budget.stop_when_solved and progress.solved_at is not None:
            return True
        if budget.episodes is not None:
            return progress.episodes + self.agent.batch > budget.episodes
        return progress.env_steps >= (budget.steps or 0)

    def _evaluation_clock(self) -> int:
        """Episodes or steps so far, whichever counts for evaluations."""
        count: int = getattr(self.progress, self.budget.evaluation_clock)
        return count

    def _iterate(self) -> None:
        """One batch of episodes and one update."""
        agent, progress = self.agent, self.progress
        B = agent.batch
        if self.oracle is not None:
            # Both losses belong to this iteration's plan, which was fixed before its episodes.
            self._note_losses(self.oracle)
            self._note_certificate(self.oracle)
        agent.begin(B)
        for step in play(self.env, self.tree.env_seeds("env", progress.iteration, B), agent.act):
            agent.observe(step)
            progress.env_steps += int(np.count_nonzero(step.alive))
        self._note_episodes()
        progress.scalars.update({name: float(value) for name, value in agent.update().items()})
        progress.iteration += 1
        progress.episodes += B

    def _note_episodes(self) -> None:
        """Add up what the environment measured of the batch that ended."""
        if isinstance(self.env, WithEpisodeMetrics):
            for name, values in self.env.episode_metrics().items():
                self.progress.measured[name] = self.progress.measured.get(name, 0.0) + float(values.sum())
            self.progress.measured_episodes += self.agent.batch

    def _note_losses(self, oracle: Oracle) -> None:
        """Add the losses of the batch that begins: the one of pi_k, and the one of its episodes as played."""
        progress, B = self.progress, self.agent.batch
        progress.policy_loss += B * oracle.policy_loss(self.agent)
        played = oracle.played_loss(self.agent)
        # Once unknown, the sum stays unknown.
        progress.regret = None if progress.regret is None or played is None else progress.regret + B * played

    def _note_certificate(self, oracle: Oracle) -> None:
        """Count each plan once, and whether its certificate holds."""
        progress, version = self.progress, int(self.agent.version)
        if version == progress.plan_version:
            return
        progress.plan_version = version
        covered = oracle.covered(self.agent)
        if covered is not None:
            progress.plans += 1
            progress.plans_covered += covered

    def _evaluate(self, *, last: bool = False) -> None:
        """Evaluate the bonus-free policy and give a line to the sink, if the budget allows it (`Budget.affordable`)."""
        progress, agent = self.progress, self.agent
        episodes = self.budget.affordable(progress, int(agent.version), self.eval_env.num_envs, last=last)
        if episodes == 0:
            progress.next_evaluation = (self._evaluation_clock() // self.interval + 1) * self.interval
            return
        result = evaluate(agent, self.eval_env, episodes, tree=self.tree, index=progress.evaluations)
        progress.eval_steps += result.steps
        progress.evaluated_version = int(agent.version)
        line: dict[str, Any] = {
            "episodes": progress.episodes,
            "env_steps": progress.env_steps,
            "return_mean": result.mean,
            "return_sem": result.sem,
            "version": int(agent.version),
        }
        if self.oracle is not None:
            progress.exact = self.oracle.metrics(agent)
            if not isinstance(agent, OwnLoop):
                if progress.regret is not None:
                    progress.exact["regret"] = progress.regret
                progress.exact["suboptimality"] = progress.policy_loss / max(progress.episodes, 1)
            if progress.plans:
                progress.exact["covered"] = progress.plans_covered / progress.plans
            more = agent.exact_metrics(self.oracle.model)
            progress.exact.update({name: float(number) for name, number in more.items()})
            line.update(progress.exact)
        if self.layered is not None:
            progress.exact = self.layered.metrics(agent)
            line.update(progress.exact)
        line.update({f"agent/{name}": number for name, number in progress.scalars.items()})
        played = progress.measured_episodes
        line.update({f"env/{name}": total / played for name, total in progress.measured.items() if played})
        progress.measured, progress.measured_episodes = {}, 0
        self._note_solved(result.mean)
        progress.last_return = result.mean
        progress.evaluations += 1
        progress.recorded_at = progress.episodes
        progress.next_evaluation = (self._evaluation_clock() // self.interval + 1) * self.interval
        self.history.append(line)
        if self.sink is not None:
            self.sink.evaluated(line, progress)

    def _note_solved(self, mean: float) -> None:
        """A run is solved when it meets the bar twice in a row; the count is that of the first time."""
        progress = self.progress
        met = self._meets_bar(mean)
        if met is None:
            return
        if not met:
            progress.streak = 0
            return
        progress.streak += 1
        if progress.streak == 1:
            progress.first_met = (progress.episodes, progress.env_steps)
        elif progress.solved_at is None:
            progress.solved_at = progress.first_met

    def _meets_bar(self, mean: float) -> bool | None:
        """Whether the last evaluation solves the task; None where that is not known."""
        spec = self.env.env_spec
        if spec.players is not None:  # returns of self-play say nothing about how well either side plays
            gap = self.progress.exact.get("gap")
            return None if gap is None else gap <= self.budget.solve_gap
        if spec.optimal_return is None:
            return None
        # A fraction of a negative optimum lies *above* it, so there the bar is the same distance below.
        return mean >= spec.optimal_return - (1.0 - self.budget.solve_at) * abs(spec.optimal_return)

    def run_own_loop(self, agent: OwnLoop) -> bool:
        """An agent with a loop of its own (SB3): it reports its counts, and is evaluated at the same points."""
        progress, budget = self.progress, self.budget
        stopped = False

        def on_progress(episodes: int, env_steps: int) -> bool:
            nonlocal stopped
            progress.episodes, progress.env_steps = int(episodes), int(env_steps)
            if self._evaluation_clock() >= progress.next_evaluation:
                self._evaluate()
            if self.sink is not None and self.sink.iterated(progress, None):
                stopped = True
            return not stopped and not (budget.stop_when_solved and progress.solved_at is not None)

        agent.train_in_own_loop(episodes=budget.episodes, steps=budget.steps, on_progress=on_progress)
        if not stopped and progress.recorded_at != progress.episodes:
            self._evaluate(last=True)
        return stopped

    def snapshot(self) -> State:
        """Everything a resumed run needs."""
        return {"progress": self.progress.state_dict(), "agent": self.agent.state_dict()}

    def load(self, state: State) -> None:
        """Inverse of `snapshot`."""
        require(isinstance(state, dict), f"train: state must be a snapshot of a run, got {type(state).__name__}.")
        for key in ("progress", "agent"):
            require(isinstance(state.get(key), dict), f"the checkpoint lacks '{key}'.")
        self.progress = Progress.from_state(state["progress"])
        self.agent.load_state_dict(state["agent"])
