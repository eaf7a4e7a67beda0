"""Options of exploration in the deep agent: the share of uniform actions over time."""

from __future__ import annotations

import numpy as np
import pytest
from agents_common import batches, uniform
from deep_common import sea

from rl_contrastive.config import from_dict
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig
from rl_contrastive.errors import RlcError


def test_epsilon_falls_linearly_by_hand() -> None:
    config = ContrastiveUCBDeepConfig(epsilon=0.2, epsilon_from=1.0, epsilon_over=100)
    assert [config.epsilon_at(steps) for steps in (0, 50, 75, 100, 10**6)] == pytest.approx([1.0, 0.6, 0.4, 0.2, 0.2])
    assert {ContrastiveUCBDeepConfig(epsilon=0.3).epsilon_at(steps) for steps in (0, 10**6)} == {0.3}
    for one in ({"epsilon_from": 0.5}, {"epsilon_over": 10}):
        with pytest.raises(RlcError, match="go together"):
            from_dict(ContrastiveUCBDeepConfig, one)


def test_the_agent_acts_by_the_epsilon_of_its_step() -> None:
    """Of a schedule that is still at 1 all actions are uniform; of one that ended at 0 none is."""
    for over, drawn in ((10**9, True), (1, False)):
        agent = sea({}, epsilon=0.0, epsilon_from=1.0, epsilon_over=over)
        batches(agent, 0, 8)
        best = np.tile([1e6, 0.0], (2000, 1))
        agent.learner.q = lambda stacked, best=best, **noise: (best, best)
        agent.begin(2)
        actions = agent.act(np.zeros(2000, dtype=np.int64), 0)
        assert uniform(actions, 2) == drawn
