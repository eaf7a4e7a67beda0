"""Pairs: labels have the frequencies of Bradley-Terry, equal completions are refused, mixtures have their shares."""

import math

import pytest
import torch

from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import Completions, LabelConfig, PairIndex, Pool, draw_pairs, joined, label, mixture
from rl_contrastive.preferences import pool as make_pool
from rl_contrastive.preferences.data import wins


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("config", "want"),
    [
        (LabelConfig(), 1 / (1 + math.exp(-1))),
        (LabelConfig(temperature=2.0), 1 / (1 + math.exp(-0.5))),
        (LabelConfig(temperature=0.0), 1.0),
        (LabelConfig(temperature=0.0, flips=0.25), 0.75),
        (LabelConfig(temperature=0.0, noise=1.0), 0.5 * (1 + math.erf(0.5))),  # N(1, 2) > 0
    ],
)
def test_how_often_the_better_wins(config, want):
    won = wins(torch.ones(100_000), torch.zeros(100_000), config, rng=generator())
    assert float(won.double().mean()) == pytest.approx(want, abs=0.006)


def test_equal_returns_toss_a_coin():
    won = wins(torch.ones(10_000), torch.ones(10_000), LabelConfig(temperature=0.0), rng=generator())
    assert float(won.double().mean()) == pytest.approx(0.5, abs=0.02)


POOL = Pool(torch.tensor([[0, 1], [1, 1], [0, 1], [1, 0]]), torch.tensor([0.0, 1.0, 0.0, 2.0]))


def test_drawn_pairs_differ_and_the_better_is_chosen():
    pairs = draw_pairs(POOL, 200, LabelConfig(temperature=0.0), rng=generator())
    assert not POOL.equal(pairs.chosen, pairs.rejected).any()
    assert (POOL.returns[pairs.chosen] > POOL.returns[pairs.rejected]).all()
    again = draw_pairs(POOL, 200, LabelConfig(temperature=0.0), rng=generator())
    assert torch.equal(again.chosen, pairs.chosen)


def test_pairs_stay_within_a_start():
    pool = Pool(torch.arange(40).unsqueeze(-1), torch.zeros(40), start=torch.arange(40) // 2)  # one partner each
    pairs = draw_pairs(pool, 30, rng=generator())
    assert (pairs.chosen // 2 == pairs.rejected // 2).all()


def test_what_is_equal():
    pool = Pool(torch.tensor([[1, 7], [1, 3], [1, 3]]), torch.zeros(3), mask=torch.tensor([[1, 0], [1, 0], [1, 1]]))
    first, second = torch.tensor([0, 1]), torch.tensor([1, 2])
    assert pool.equal(first, second).tolist() == [True, False]  # padding does not count, length does
    seen = Pool(torch.zeros(2, 1), torch.zeros(2), obs=torch.tensor([[[0.0]], [[1.0]]]))
    assert seen.equal(torch.tensor([0]), torch.tensor([1])).tolist() == [False]


def test_mixture_has_its_shares_and_pools_join():
    pool = joined([POOL, Pool(torch.tensor([[5, 5], [6, 6]]), torch.tensor([3.0, 4.0]))])
    online = label(pool, torch.tensor([4]), torch.tensor([5]), LabelConfig(temperature=0.0), rng=generator())
    offline = draw_pairs(POOL, 50, LabelConfig(temperature=0.0), rng=generator())
    mixed = mixture([offline, online], [0.3, 0.7], 5000, rng=generator())
    assert float((mixed.chosen == 5).double().mean()) == pytest.approx(0.7, abs=0.03)


def test_pairs_of_completions():
    logp = torch.arange(4.0).reshape(2, 2)
    pairs = PairIndex(torch.tensor([1]), torch.tensor([0])).of(Completions(logp, -logp, kl=2 * logp))
    assert pairs.chosen.logp.tolist() == [[2.0, 3.0]]
    assert pairs.rejected.kl.tolist() == [[0.0, 2.0]]


ONE = torch.tensor([0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: label(POOL, ONE, torch.tensor([2]), LabelConfig(), rng=generator()), "pair 0 are equal"),
        (lambda: label(POOL, ONE, torch.tensor([9]), LabelConfig(), rng=generator()), r"rows must be in \[0, 4\)"),
        (lambda: label(POOL, ONE[:0], ONE[:0], LabelConfig(), rng=generator()), "no pairs"),
        (lambda: make_pool([], torch.zeros(0)), "no completions"),
        (lambda: make_pool([[0], [0, 1]], torch.zeros(2)), "unequal lengths need a mask"),
        (lambda: Pool(torch.zeros(0, 2), torch.zeros(0)), "no completions"),
        (lambda: Pool(torch.zeros(2, 2), torch.zeros(3)), r"returns must have shape \(2,\)"),
        (lambda: Pool(torch.zeros(1, 2), torch.tensor([math.nan])), "NaN"),
        (lambda: Pool(torch.zeros(1, 2), torch.zeros(1), mask=torch.zeros(1, 2)), "no real step"),
        (lambda: draw_pairs(Pool(torch.zeros(3, 1), torch.zeros(3)), 2, rng=generator()), "nothing to compare"),
        (lambda: mixture([PairIndex(ONE, ONE)], [0.5], 3, rng=generator()), "sum to 1"),
        (lambda: joined([POOL, Pool(torch.zeros(1, 3), torch.zeros(1))]), "same number of steps"),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(RlcError, match=words) as error:
        call()
    assert str(error.value).count("\n") == 0


def test_the_two_label_configs_have_names_of_their_own():
    from rl_contrastive.preferences import LabelsConfig

    for kind, name in ((LabelConfig, "pairs"), (LabelsConfig, "labels")):
        with pytest.raises(RlcError, match=f"{name}: temperature must be >= 0"):
            kind(temperature=-1.0)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_both_labellers_share_their_law(temperature):
    from rl_contrastive.preferences.labels import bradley_terry

    gap = torch.tensor([0.0, 0.5, -2.0, 300.0], dtype=torch.float64)
    chance = bradley_terry(gap.numpy(), temperature)
    want = [0.5, 1.0, 0.0, 1.0] if temperature == 0 else torch.sigmoid(gap / temperature).tolist()
    assert chance.tolist() == pytest.approx(want)
    first = gap.expand(20_000, 4)
    won = wins(first, torch.zeros_like(first), LabelConfig(temperature=temperature), rng=generator())
    assert won.double().mean(0).tolist() == pytest.approx(want, abs=0.02)
