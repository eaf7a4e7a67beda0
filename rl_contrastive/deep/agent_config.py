"""The options of `contrastive-ucb-deep`: acting, returns, counting, replay; `config.py` has those of its networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.deep.bonus_config import BonusConfig, RNDConfig, check_counts, with_features
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.explore_config import ExploreConfig
from rl_contrastive.deep.unused_options import check_used


@dataclass(frozen=True)
class SearchConfig(Options, where="search"):
    """Contrastive search in acting (`deep/search.py`): off by default; evaluation is not touched."""

    alpha: Annotated[float, In(0, 1)] = 0.0
    """Weight of the penalty for what looks like this episode's past, against 1 - alpha of the probability; 0: off. Few
    actions have large probabilities, so they want large values, such as .9."""
    k: Annotated[int, Ge(1)] = 3
    """The most probable actions alone are chosen from."""
    temperature: Annotated[float, Gt(0)] = 0.1
    """Probabilities are the softmax of the values, bonus included, divided by this (in units of reward)."""
    memory: Annotated[int, In(1, 100_000)] = 100
    """Last steps of the episode that count."""


@dataclass(frozen=True)
class ContrastiveUCBDeepConfig(Options, where="deep"):
    """Deep Contrastive-UCB."""

    batch: Annotated[int, Ge(1)] = 1
    """B, episodes side by side. They start together and wait for the longest one."""
    warm_start: Annotated[int, Ge(1)] = 1000
    """Steps of uniform actions before the first gradient step."""
    train_every: Annotated[int, Ge(1)] = 1
    """Steps between two gradient steps."""
    gamma: Annotated[float, In(0, 1)] = 0.99
    """Discount per step."""
    n_step: Annotated[int, In(1, 100_000)] = 3
    """n of the n-step returns."""
    beta: Annotated[float, Ge(0)] = 0.1
    """Scale of the bonus, in units of reward: after n visits the bonus is about beta / sqrt(n) (`bonus.power`). 0 is
    the control without optimism, which learns no features and counts nothing."""
    bonus: BonusConfig = field(default_factory=BonusConfig)
    """What the bonus is for, and how it is computed."""
    rnd: RNDConfig = field(default_factory=RNDConfig)
    """The networks of random network distillation, for the bonuses with `lifelong` rnd. Their encoders are of the
    learner's kind."""
    explore: ExploreConfig = field(default_factory=ExploreConfig)
    """The second head of values: what it learns, and how the agent acts by it."""
    clock: bool = False
    """Add the step h to the observation, for environments whose transitions, rewards or end depend on it; state indices
    and vectors only (`deep/clock.py`)."""
    episodic: bool = False
    """Memory of the episode, for places that look alike (`deep/episodic.py`): the bonus fades where the same was seen
    or done before, and the evaluated policy takes the best of the actions tried least often there."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """Away from what this episode has seen, by features of the actions."""
    growth: Annotated[float, Gt(0)] = 0.2
    """Freeze the current features and count again when the visits have grown by this fraction."""
    epsilon: Annotated[float, In(0, 1)] = 0.01
    """Share of uniform actions, in addition to optimism."""
    epsilon_from: Annotated[float | None, In(0, 1)] = None
    """Share of uniform actions at the first step. It moves linearly to `epsilon` over `epsilon_over` steps. Default:
    `epsilon` from the first step on."""
    epsilon_over: Annotated[int, Ge(0)] = 0
    """Steps until the share is `epsilon`, those of the warm start included; needs `epsilon_from`."""
    capacity: Annotated[int, Ge(100)] = 100_000
    """Entries of the replay, one for each observation, final ones included."""
    storage: Literal["memory", "mapped"] = "memory"
    """Where the replay stores its observations. mapped: in a nameless file on the run folder's disk, for replays larger
    than memory. It is reserved at the first episode and disappears with the process."""
    alpha: Annotated[float, Ge(0)] = 0.0
    """Exponent of prioritised replay; 0: uniform. Data-efficient Rainbow has .5."""
    priority_beta: Annotated[float, In(0, 1)] = 0.4
    """Exponent of the importance weights under priorities; rises to 1 over `priority_steps`."""
    priority_steps: Annotated[int, Ge(1)] = 100_000
    """Steps until the importance weights correct fully."""
    learner: DeepLearnerConfig = field(default_factory=DeepLearnerConfig)
    """Networks, losses, optimiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        both = "deep: clock and episodic exclude each other: with its step, no observation comes again in an episode."
        require(not (self.clock and self.episodic), both)
        pair = "deep: epsilon_from and epsilon_over > 0 go together: give both or neither"
        require((self.epsilon_from is not None) == (self.epsilon_over > 0), pair + ".")
        weights, rows = len(self.explore.weights), self.batch
        hint = f"deep: explore.weights has {weights} numbers, one for each row, but batch is {rows}: give >= {weights}."
        require(weights <= rows, hint)
        self._check_same()
        check_used(self)
        learner = with_features(self.learner, self.bonus)
        check_counts(self.bonus, learner.representation)
        parts = self.bonus.parts
        counted = self.beta > 0 and parts is not None and parts.uses_features
        learned = counted and learner.learn_features and not learner.representation.of_states
        hint = "beta > 0, learner.learn_features, and features other than psi"
        require(
            self.search.alpha == 0 or learned, f"deep: search compares learned features of actions: it needs {hint}."
        )

    def _check_same(self) -> None:
        """RlcError where comparing observations by features would do nothing."""
        bonus, parts = self.bonus, self.bonus.parts
        if bonus.same == "bytes":
            require(bonus.reach == BonusConfig.reach, "deep: bonus.reach needs bonus.same features.")
            return
        paid = self.beta > 0 and parts is not None
        require(paid, "deep: bonus.same features needs a bonus that learns them: beta > 0 and a kind other than none.")
        assert parts is not None
        used = self.episodic or self.explore.memory or parts.gate in ("first", "tried")
        names = "the gates first and tried, episodic and explore.memory"
        require(used, f"deep: bonus.same features is for {names}, and none of these is on.")


def epsilon_at(config: ContrastiveUCBDeepConfig, steps: int) -> float:
    """Share of uniform actions after so many steps."""
    if config.epsilon_from is None:
        return config.epsilon
    return config.epsilon_from + min(1.0, steps / config.epsilon_over) * (config.epsilon - config.epsilon_from)
