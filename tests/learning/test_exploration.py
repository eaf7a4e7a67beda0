"""Does learning work where undirected exploration cannot: locks and deep sea, each claim beside a control that fails.

Measured on seeds 10-14 (solved at, in episodes); the bounds add a margin of half as much again or more:

    contrastive-frontier  lock H = 5: 350-400    H = 10: 700-800     deep-sea N = 10: 100-140
    contrastive-ucb       lock H = 5: 250-600    H = 10: 1900-2800   H = 3 with vectors: 150-400
    rep-ucb               lock H = 3: 150-400   (H = 5: 250-600)
    contrastive-frontier  distractor lock H = 7: 5000-8500           H = 10: 6500-9500

Solved: mean return of 200 evaluation episodes >= .9 of the optimum, twice in a row, at the first of the two. The locks'
anti-shaping pays .05 to whoever fails at once: that is where all controls end.
"""

from __future__ import annotations

from typing import Any

import pytest

from rl_contrastive.runs.loop import Budget, TrainingResult, train

SEEDS = [10, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(11, 15))]
# Weak signal beside strong noise: sharp whitening, strong ridge, more principal directions, and more data at first.
DISTRACTED = {
    "decoder": {"forward": 1, "backward": 1, "gap": 2.5, "spectral": {"rho": 0.3, "ridge": 10.0, "pca_dim": 10}},
    "warm_start": 1000,
    "tail": 1000,
    "capacity": 4000,
}
PCA = {**DISTRACTED, "decoder": {**DISTRACTED["decoder"], "directions": "pca"}}


@pytest.fixture(name="trained")
def trained_fixture(make_agent):
    """`trained(agent, env_name, env, episodes, seed, every=50, **fields)`: the result, stopped once it is solved."""

    def trained(name: str, env_name: str, env: dict, episodes: int, seed: int, *, every: int = 50, **fields: Any):
        agent = make_agent(name, env_name, seed=seed, env=env, **fields)
        return train(agent, agent.env, budget=Budget(episodes=episodes, eval_every=every, stop_when_solved=True))

    return trained


def solved(result: TrainingResult, within: int) -> bool:
    """Solved at `within` episodes at the latest, and still good at the end."""
    return result.solved_at_episode is not None and result.solved_at_episode <= within and result.final_return >= 0.9


def lost(result: TrainingResult) -> bool:
    """Played all its episodes, never solved, and ended at the level of failing at once."""
    return result.solved_at_episode is None and not result.stopped and result.final_return < 0.2


# contrastive-frontier.


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("H", "within"), [(5, 700), (10, 1300)])
def test_contrastive_frontier_solves_the_lock_and_needs_its_latents(H, within, seed, trained):
    """The control plans over one latent a step, that is over sequences of actions: it sees nothing."""
    env = {"horizon": H}
    assert solved(trained("contrastive-frontier", "combination-lock", env, within + 50, seed), within)
    blind = {"decoder": {"most_latents": 1}}
    assert lost(trained("contrastive-frontier", "combination-lock", env, within + 50, seed, **blind))


@pytest.mark.parametrize("seed", SEEDS)
def test_contrastive_frontier_solves_deep_sea_where_epsilon_greedy_does_not(seed, trained):
    """Observations are states here: the same planner on a table of counts."""
    fields = {"batch": 10, "every": 20}
    result = trained("contrastive-frontier", "deep-sea", {"size": 10}, 320, seed, warm_start=20, **fields)
    assert solved(result, 300)
    assert lost(trained("epsilon-greedy", "deep-sea", {"size": 10}, 320, seed, **fields))


@pytest.mark.long
@pytest.mark.parametrize("seed", [10, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (11, 12))])
def test_dynamics_find_the_signal_among_distractors_and_pca_does_not(seed, trained):
    """H = 7, the same settings but for the directions."""
    env, fields = {"horizon": 7}, {"every": 1000}
    assert solved(trained("contrastive-frontier", "distractor-lock", env, 14_000, seed, **fields, **DISTRACTED), 13_000)
    assert lost(trained("pca-frontier", "distractor-lock", env, 14_000, seed, **fields, **PCA))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_distractor_lock_of_ten_steps(seed, trained):
    """The control has its own defaults as well as the contrastive agent's settings to fail with."""
    env = {"horizon": 10}
    result = trained("contrastive-frontier", "distractor-lock", env, 15_000, seed, every=500, **DISTRACTED)
    assert solved(result, 14_500)
    for fields in ({}, PCA):
        assert lost(trained("pca-frontier", "distractor-lock", env, 15_000, seed, every=500, **fields))


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_pca_is_a_fair_control_and_solves_the_plain_lock(seed, trained):
    """Measured 800-900: without distractors the leading principal directions are the latents."""
    assert solved(trained("pca-frontier", "combination-lock", {"horizon": 10}, 1550, seed), 1500)


# contrastive-ucb and rep-ucb.


@pytest.mark.parametrize("seed", SEEDS)
def test_contrastive_ucb_solves_the_lock_of_five_steps(seed, trained):
    assert solved(trained("contrastive-ucb", "combination-lock", {"horizon": 5}, 1550, seed), 1500)


@pytest.mark.parametrize("seed", SEEDS)
def test_contrastive_ucb_solves_the_lock_of_ten_steps(seed, trained):
    assert solved(trained("contrastive-ucb", "combination-lock", {"horizon": 10}, 4600, seed, every=100), 4500)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_contrastive_ucb_needs_its_bonus(seed, trained):
    assert lost(trained("contrastive-ucb", "combination-lock", {"horizon": 10}, 4600, seed, every=1000, gamma=0.0))


@pytest.mark.parametrize("seed", SEEDS)
def test_contrastive_ucb_on_vectors_solves_the_lock_of_three_steps(seed, trained):
    env = {"horizon": 3}
    result = trained("contrastive-ucb", "combination-lock", env, 1050, seed, representation="vector")
    assert solved(result, 1000)
    assert lost(trained("uniform", "combination-lock", env, 1050, seed))


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_rep_ucb_solves_the_lock_of_three_steps(seed, trained):
    """Shorter than for the others: each update descends a loss. `uniform` above is its control too."""
    assert solved(trained("rep-ucb", "combination-lock", {"horizon": 3}, 1050, seed), 1000)


@pytest.mark.parametrize("seed", SEEDS[:3])
@pytest.mark.parametrize("name", ["uniform", "epsilon-greedy"])
@pytest.mark.parametrize(("H", "episodes"), [(5, 1550), (10, 4600)])
def test_undirected_exploration_solves_no_lock_in_the_same_episodes(name, H, episodes, seed, trained):
    assert lost(trained(name, "combination-lock", {"horizon": H}, episodes, seed, every=1000))
