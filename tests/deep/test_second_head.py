"""The second head of values: I of bonuses with a discount of its own, episode ends, and the memory it is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deep_common import Walk, walked

from rl_contrastive.config import from_dict
from rl_contrastive.deep.config import DeepLearnerConfig, EncoderConfig, ValueConfig
from rl_contrastive.deep.explore_config import ExploreConfig
from rl_contrastive.deep.learner import DeepLearner
from rl_contrastive.deep.memory import EpisodeMemory
from rl_contrastive.deep.networks import encoder
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.deep.value import Values, td_losses
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import EnvSpec

SPEC = EnvSpec("states", num_actions=2, horizon=10, obs_shape=(), obs_dtype="int64", num_states=7)


class Paid:
    """b(s') = 10^s' on arrival, or b(s,a) = s of a pair."""

    uses_features = False

    def __init__(self, replay: Replay, pays: str) -> None:
        self.replay, self.pays = replay, pays

    def at(self, index):
        b = np.zeros((len(index), 2))
        return b + self.replay.ring.obs[index][:, None] if self.pays == "pair" else b

    def taken(self, index, action):
        ring = self.replay.ring
        return 1.0 * ring.obs[index] if self.pays == "pair" else 10.0 ** ring.obs[ring.next[index]]


def learner(explore: dict, **options) -> DeepLearner:
    small = {"encoder": {"hidden": [32]}, "feature_encoder": {"hidden": [8]}, "lr": 0.01, "tau": 0.1, **options}
    small = {"value": {"dueling": False}, "learn_features": False, "batch_size": 32, **small}
    config = from_dict(DeepLearnerConfig, small)
    return DeepLearner(SPEC, (), config, seed=0, explore=from_dict(ExploreConfig, explore))


def numbers(explore: dict, replay: Replay, pays: str, index: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """What the learner gets of these entries: the observations at both ends, and the numbers."""
    return learner(explore).returns.of(replay.batch(np.array(index)), replay, Paid(replay, pays))


def test_returns_of_bonuses_have_their_own_discount_by_hand() -> None:
    replay = walked([0, 1, 2, 3], [5, 6])
    apart = {"heads": "apart", "gamma": 0.1}
    obs, rows = numbers(apart, replay, "arrival", [0, 1, 2])
    assert obs.tolist() == [0, 1, 2, 2, 3, 3]
    # Rewards: 1 + .5, 1 + .5, 1; bonuses: 10 + .1 100, 100 + .1 1000, 1000; discounts of Q and I.
    np.testing.assert_allclose(rows[:, 0], [1.5, 1.5, 1.0])
    np.testing.assert_allclose(rows[:, 1], [20.0, 200.0, 1000.0])
    np.testing.assert_allclose(rows[:, 2], [0.25, 0.0, 0.0])
    np.testing.assert_allclose(rows[:, -1], [0.01, 0.0, 0.0], rtol=1e-6)
    # Of pairs without b(s,a) itself, and with b at the end of the path.
    obs, rows = numbers(apart, replay, "pair", [0, 1, 2])
    np.testing.assert_allclose(rows[:, 1], [0.1 * 1, 0.1 * 2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(rows[:, 7:9], [[2, 2], [3, 3], [3, 3]])
    # Standard heads: rewards and bonuses in one sum, and nothing more.
    _, rows = numbers({}, replay, "arrival", [0, 1, 2])
    assert rows.shape == (3, 9)
    np.testing.assert_allclose(rows[:, 1], [1.5 + 60.0, 1.5 + 600.0, 1001.0])


def test_an_endless_value_goes_on_with_the_next_start_by_hand() -> None:
    endless = {"heads": "apart", "gamma": 0.1, "endless": True}
    replay = walked([0, 1, 2], [5, 6, 4])
    obs, rows = numbers(endless, replay, "pair", [0, 1, 3, 4])
    # The ends of the first episode, state 2, become the start of the second one, 5; so do those of the second one.
    assert obs[4:].tolist() == [5, 5, 5, 5]
    np.testing.assert_allclose(rows[:, -1], [0.01, 0.1, 0.01, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rows[:, 7:9], np.full((4, 2), 5.0))  # b there
    np.testing.assert_allclose(rows[:, 2], np.zeros(4))  # Q ends
    # A truncation bootstraps from its final observation, as Q does.
    obs, rows = numbers(endless, walked([0, 1, 2], [5, 6], ends=False), "pair", [0, 1])
    assert obs[2:].tolist() == [2, 2]
    np.testing.assert_allclose(rows[:, [2, -1]], [[0.25, 0.01], [0.5, 0.1]], rtol=1e-6)


def test_a_lost_life_is_no_end_of_the_episode() -> None:
    replay, one = Replay(40, (), "int64", gamma=0.5, n_step=1), np.ones(1)
    replay.begin(1)
    for s, then, lost, last in ((0, 1, False, False), (1, 2, True, False), (2, 3, False, True)):
        step = (np.array([0]), one, np.array([then]), one * (not lost), np.array([last]), np.array([True]))
        replay.add(np.array([s]), *step)
    batch = replay.batch(np.array([1]))
    end, discount = replay.beyond(batch, 0.1, endless=True)
    assert (batch.discount[0], replay.ring.obs[end[0]], discount[0]) == (0.0, 2, 0.1)
    assert replay.beyond(batch, 0.1, endless=False)[1] == 0.0


def test_each_value_function_may_have_its_own_discount_by_hand() -> None:
    rng = torch.Generator().manual_seed(0)
    net = Values(encoder(EncoderConfig(hidden=(8,)), (3,), "float32", rng=rng), 2, ValueConfig(), rng=rng)
    later = torch.tensor([[[4.0, 0.0], [0.0, 6.0]]])
    rest = {"reward": torch.tensor([[1.0, 2.0]]), "online_next": None, "target_next": later}
    both = torch.tensor([[0.5, 0.25]])
    _, error = td_losses(
        net, torch.zeros(1, 2, 2), torch.tensor([1]), discount=both, extra_next=torch.zeros(1, 2, 2), **rest
    )
    assert error.tolist() == [[1 + 0.5 * 4, 2 + 0.25 * 6]]


@pytest.mark.parametrize("endless", [True, False])
def test_i_learns_the_discounted_sum_of_bonuses(endless: bool) -> None:
    """A bonus of 1 a step on a way of 3 steps to a true end: 1 / (1 - .5) for ever, or 1 + .5 + .25 until there."""
    replay = walked([0, 1, 2, 3], [0, 1, 2, 3], n_step=1)
    paid = Paid(replay, "arrival")
    paid.taken = lambda index, action: np.ones(index.shape)
    agent, rng = learner({"heads": "apart", "gamma": 0.5, "endless": endless}), np.random.default_rng(0)
    for _ in range(400):
        agent.step(replay, paid, rng=rng)
    Q, more = agent.q(np.arange(3))
    expected = [2.0, 2.0, 2.0] if endless else [1.75, 1.5, 1.0]
    np.testing.assert_allclose(more[:, 0], expected, atol=0.1)
    np.testing.assert_allclose(Q[:, 0], [1.75, 1.5, 1.0], atol=0.1)  # of the rewards, 1 a step until the end


def test_what_is_acted_by_is_a_weighted_sum_by_row() -> None:
    q, more = np.array([[1.0, 0.0]] * 3), np.array([[0.0, 2.0]] * 3)
    explore = ExploreConfig(heads="apart", weights=(0.0, 0.75))
    np.testing.assert_allclose(explore.values(q, more), [[1, 0], [1, 1.5], [1, 0]])
    np.testing.assert_allclose(ExploreConfig().values(q, more), more)
    assert ExploreConfig().standard
    assert not explore.standard
    assert not ExploreConfig(memory=True).standard


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": [0.5]}, "weights is for heads apart"),
        ({"endless": True}, "endless is for heads apart"),
        ({"heads": "apart", "weights": []}, "one number or more"),
        ({"heads": "apart", "weights": [-1.0]}, "weights must be >= 0"),
        ({"heads": "apart", "gamma": 1.0, "endless": True}, "infinite"),
    ],
)
def test_options_that_do_not_fit_are_a_sentence(options: dict, words: str) -> None:
    with pytest.raises(RlcError, match=words):
        from_dict(ExploreConfig, options)


# -- memory of the episode ---------------------------------------------------------------------------------------------


def test_memory_by_hand() -> None:
    walk = Walk(lambda replay, of: EpisodeMemory(40, 3), np.eye(6))
    here = walk.episode([0, 1, 0, 0, 2], actions=[2, 0, 1, 1])
    new = [1, 1, 0, 0, 0]
    expected = [new, new, [1 / 2, 0, 0, 0, 1], [1 / 3, 0, 0, 1, 1]]
    np.testing.assert_allclose(walk.bonus.at(here), expected)
    np.testing.assert_allclose(walk.bonus.at(walk.replay.ring.next[here[-1:]]), [new])  # the final one, 2
    again = walk.episode([0, 0], actions=[1])
    np.testing.assert_allclose(walk.bonus.at(again), [new])  # nothing is left of the episode before
    np.testing.assert_allclose(walk.bonus.fresh(2), [new, new])


def test_only_the_second_head_is_shown_the_memory() -> None:
    rng = torch.Generator().manual_seed(0)
    body = encoder(EncoderConfig(hidden=(8,)), (3,), "float32", rng=rng)
    net = Values(body, 2, ValueConfig(), rng=rng, shown=4, hidden=16)
    z, one, other = torch.rand(5, 8, generator=rng), torch.zeros(5, 4), torch.ones(5, 4)
    left, right = net.means(z, one), net.means(z, other)
    assert left.shape == (5, 2, 2)
    assert torch.equal(left[:, 0], right[:, 0])
    assert not torch.allclose(left[:, 1], right[:, 1])
    assert torch.equal(net.means(z), left[:, :1])
    with pytest.raises(RlcError, match="needs the episode's memory"):
        numbers({"memory": True}, walked([0, 1, 2]), "arrival", [0])


@pytest.mark.parametrize("memory", [True, False])
def test_with_memory_a_bonus_of_first_visits_is_learned(memory: bool) -> None:
    """State 1 is worth 1 when it is new and 0 when it comes again. Control: without memory it is worth the mean."""

    class Gated(Paid):
        def taken(self, index, action):
            ring = self.replay.ring
            first = ring.back[index] == 0
            return np.where(first, 1.0, 0.0)

    walk = Walk(lambda replay, of: EpisodeMemory(40, 2), np.eye(7))
    for _ in range(4):
        walk.episode([1, 1, 1], actions=[0, 0])
    agent, rng = learner({"heads": "apart", "gamma": 0.0, "memory": memory}), np.random.default_rng(0)
    shown = walk.bonus if memory else None
    for _ in range(300):
        agent.step(walk.replay, Gated(walk.replay, "arrival"), rng=rng, memory=shown)
    x = np.array([[1, 1, 0, 0], [0.5, 0, 1, 0]], dtype=np.float32) if memory else None
    first, again = agent.q(np.array([1, 1]), shown=x)[1][:, 0]
    assert (first == pytest.approx(1.0, abs=0.1)) == memory
    assert (again == pytest.approx(0.0, abs=0.1)) == memory


def test_a_bad_state_of_the_memory_is_refused() -> None:
    memory = EpisodeMemory(40, 2)
    for state, words in (({}, "lacks 'inputs'"), ({"inputs": np.zeros((3, 4))}, "saved inputs")):
        with pytest.raises(RlcError, match=words):
            memory.load_state_dict(state)
