"""Every statistic against numbers worked out by hand, scipy's bootstrap, and the coverage an interval promises."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from rl_contrastive.analysis import slopes
from rl_contrastive.analysis import statistics as st
from rl_contrastive.errors import RlcError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_iqm_by_hand_and_against_scipy():
    assert st.iqm(np.array([100.0, 1.0, 2.0, 3.0, -50.0])) == 2.0  # one run cut at each end
    assert st.iqm(np.array([1.0, 3.0, 8.0])) == 4.0  # three runs: nothing to cut
    values = rng().normal(size=(4, 13))
    assert st.iqm(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25, axis=1), abs=1e-14)


def test_iqm_of_a_runs_by_tasks_matrix_pools_all_runs():
    runs = np.array([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0], [3.0, 1000.0]])  # 4 runs, 2 tasks: cut 2 at each end
    assert st.iqm(runs.ravel()) == (2 + 3 + 10 + 11) / 4
    interval = st.bootstrap(list(runs.T), rng=rng())
    assert interval.estimate == st.iqm(runs.ravel())
    assert interval.low <= interval.estimate <= interval.high


def test_bootstrap_agrees_with_scipy_at_its_own_percentiles():
    data = rng(3).exponential(size=30)
    ours = st.bootstrap([data], st.mean, rng=rng(1), reps=20000)
    level = 1.0 - 2.0 * st.expanded_tail(0.95, 30)
    assert 0.95 < level < 0.965
    theirs = scipy.stats.bootstrap(
        (data,), np.mean, method="percentile", n_resamples=20000, confidence_level=level, rng=rng(2)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.015)
    assert ours.high == pytest.approx(theirs.high, abs=0.015)


def test_mean_interval_is_students():
    data = rng(3).exponential(size=7)
    ours = st.mean_interval(data, 0.9)
    low, high = scipy.stats.t.interval(0.9, 6, loc=data.mean(), scale=scipy.stats.sem(data))
    assert (ours.estimate, ours.low, ours.high) == pytest.approx((data.mean(), low, high))
    assert np.isnan(st.mean_interval(np.array([2.0])).low)


def test_strata_are_resampled_among_themselves():
    # Constant tasks at 0 and 100 leave nothing to vary; pooled resampling would mix them and give a wide interval.
    tasks = [np.zeros(6), np.full(6, 100.0)]
    stratified = st.bootstrap(tasks, st.mean, rng=rng())
    assert (stratified.low, stratified.high) == (50.0, 50.0)
    pooled = st.bootstrap([np.concatenate(tasks)], st.mean, rng=rng())
    assert pooled.high - pooled.low > 20


def test_same_generator_same_interval():
    data = [rng(5).normal(size=30)]  # of few runs the ends are runs themselves
    assert st.bootstrap(data, rng=rng(1)) == st.bootstrap(data, rng=rng(1))
    assert st.bootstrap(data, rng=rng(1)) != st.bootstrap(data, rng=rng(2))


def test_one_run_has_an_estimate_and_no_interval():
    interval = st.bootstrap([np.array([3.0])], rng=rng())
    assert interval.estimate == 3.0
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)
    _, low, high = st.bootstrap_curve(np.ones((1, 4)), rng=rng())
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_curve_bands_equal_pointwise_bootstraps(monkeypatch):
    curves = rng(2).normal(size=(7, 5)).cumsum(axis=1)
    centre, low, high = st.bootstrap_curve(curves, rng=rng(9), reps=500)
    for t in range(5):  # whole curves share the resampled seeds, so each point equals a bootstrap with that generator
        point = st.bootstrap([curves[:, t]], rng=rng(9), reps=500)
        assert (centre[t], low[t], high[t]) == pytest.approx((point.estimate, point.low, point.high), abs=1e-14)
    monkeypatch.setattr(st, "BLOCK", 1)  # one point at a time
    assert np.array_equal(np.stack(st.bootstrap_curve(curves, rng=rng(9), reps=500)), np.stack([centre, low, high]))


def test_improvement_counts_wins_and_half_ties():
    x, y = np.array([3.0, 1.0]), np.array([1.0, 2.0])  # 3>1, 3>2, 1=1, 1<2
    assert st.improvement(x, y) == (1 + 1 + 0.5 + 0) / 4
    assert st.improvement(y, x) == 1 - st.improvement(x, y)
    big_x, big_y = rng(1).normal(1, 1, 40), rng(2).normal(0, 1, 30)
    u = scipy.stats.mannwhitneyu(big_x, big_y).statistic
    assert st.improvement(big_x, big_y) == pytest.approx(u / (40 * 30), abs=1e-12)


def test_improvement_interval_separates_different_and_includes_half_for_equal_laws():
    better = st.probability_of_improvement(rng(1).normal(2, 1, 12), rng(2).normal(0, 1, 12))
    assert better.low > 0.6
    equal = st.probability_of_improvement(rng(3).normal(0, 1, 12), rng(4).normal(0, 1, 12))
    assert equal.low < 0.5 < equal.high


def test_an_improvement_of_all_over_all_still_has_an_interval():
    """Newcombe's equation by hand at p = 1, n = m = 5: 1 - q = z sqrt(v(q)); symmetric at 1/2."""
    sure = st.probability_of_improvement(np.arange(5.0) + 10, np.arange(5.0))
    assert (sure.estimate, sure.high) == (1.0, 1.0)
    q = sure.low
    v = q * (1 - q) / 25 * (1 + 4 * (1 - q) / (2 - q) + 4 * q / (1 + q))
    assert 1 - q == pytest.approx(st.normal_quantile(0.975) * np.sqrt(v), abs=1e-9)
    assert 0.5 < q < 0.7
    none = st.probability_of_improvement(np.arange(5.0), np.arange(5.0) + 10)
    assert (none.low, none.high) == pytest.approx((0.0, 1.0 - q))
    assert np.isnan(st.probability_of_improvement(np.ones(1), np.zeros(1)).low)


def test_unsolved_runs_count_at_the_cap_and_the_median_says_when_it_is_censored():
    solved = np.array([True, True, True, False, False])
    summary = st.solve_summary(np.array([900.0, 1000.0, 1200.0, 5000.0, 5000.0]), solved)
    assert (summary.n, summary.solved, summary.median, summary.median_censored) == (5, 3, 1200.0, False)
    assert (summary.low, summary.low_censored, summary.high, summary.high_censored) == (900.0, False, 5000.0, True)
    assert str(summary) == "3/5 solved, median 1200 (range 900 to ≥ 5000)"
    worse = st.solve_summary(np.array([900.0, 1000.0, 5000.0, 5000.0, 5000.0]), np.array([True, True, 0, 0, 0]))
    assert worse.median_censored
    assert "median ≥ 5000" in str(worse)


def test_small_caps_censor_the_median_although_they_lie_below_it():
    # Caps of 100: the two unsolved runs may have needed anything above 100, so 500 is only a lower bound.
    summary = st.solve_summary(np.array([100.0, 100.0, 500.0, 600.0]), np.array([False, False, True, True]))
    assert summary.median == 300.0
    assert summary.median_censored
    assert summary.low_censored


def test_even_number_of_runs_with_one_middle_run_unsolved_is_censored():
    summary = st.solve_summary(np.array([10.0, 20.0, 50.0, 50.0]), np.array([True, True, False, False]))
    assert summary.median == 35.0
    assert summary.median_censored


def test_wilson_by_hand_and_at_the_ends():
    z2 = 1.959963984540054**2
    share = st.wilson(0.5, 10)
    half = np.sqrt(z2) * np.sqrt(0.25 / 10 + z2 / 400) / (1 + z2 / 10)
    assert (share.estimate, share.low, share.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    none, all_ = st.wilson(0.0, 20), st.wilson(1.0, 20)
    assert (none.low, none.high) == pytest.approx((0.0, z2 / (20 + z2)))
    assert (all_.low, all_.high) == pytest.approx((20 / (20 + z2), 1.0))


def test_wilson_covers_a_share_as_often_as_it_says():
    hits = rng(1).binomial(50, 0.1, size=4000) / 50
    covered = np.mean([st.wilson(float(p), 50).low <= 0.1 <= st.wilson(float(p), 50).high for p in hits])
    assert 0.93 < covered < 0.99


def test_crossed_intervals_resample_the_runs_of_both_sides_and_not_the_cells():
    """A row effect of deviation 1 over 8 rows: standard error 1/sqrt(8), however many columns there are."""
    effect = rng(2).normal(size=8)
    table = np.repeat(effect[:, None], 50, axis=1)
    found = st.crossed(table, rng=rng(), reps=4000)
    assert found.estimate == pytest.approx(effect.mean())
    student = scipy.stats.t.ppf(0.975, 7) * scipy.stats.sem(effect)
    assert (found.high - found.low) / (2 * student) == pytest.approx(1.0, abs=0.1)
    cells = st.bootstrap([table.ravel()], st.mean, rng=rng())  # negative control: far too narrow
    assert cells.high - cells.low < 0.3 * (found.high - found.low)
    assert np.isnan(st.crossed(np.ones((1, 1)), rng=rng()).low)


def test_area_and_profile_by_hand():
    assert st.area_under_curve(np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0, 1.0])) == (0.5 + 2.0) / 3
    assert st.area_under_curve(np.array([4.0]), np.array([7.0])) == 7.0
    assert st.performance_profile(np.array([0.1, 0.5, 0.9, 0.9]), np.array([0.0, 0.5, 0.9])).tolist() == [1.0, 0.5, 0.0]


def test_loglog_slope_is_exact_on_power_laws():
    x = np.array([1.0, 2.0, 5.0, 30.0])
    y = np.stack([3 * x**-0.5, 7 * x**2])
    assert slopes.loglog_slope(x, y) == pytest.approx([-0.5, 2.0], abs=1e-12)


def test_slope_intervals_cover_the_exponent_and_exclude_others():
    x = np.geomspace(10, 1000, 12)
    noise = np.exp(rng(4).normal(0, 0.1, size=(10, 12)))
    fit = slopes.slope_interval(x, x**0.5 * noise)
    assert fit.low < 0.5 < fit.high
    assert fit.high - fit.low < 0.1
    groups = [v * np.exp(rng(i).normal(0, 0.1, 9)) for i, v in enumerate(x**2)]
    power = slopes.power_fit(x, groups, rng=rng())
    assert power.low < 2.0 < power.high
    assert power.low > 1.8


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: st.bootstrap([np.array([])], rng=rng()), "list of runs"),
        (lambda: st.bootstrap([np.array([1.0, np.nan])], rng=rng()), "NaN"),
        (lambda: st.bootstrap([np.ones(3)], rng=rng(), level=1.0), "level"),
        (lambda: st.bootstrap([np.ones(3)], rng=rng(), reps=0), "reps"),
        (lambda: slopes.loglog_slope(np.array([1.0, 2.0]), np.array([0.0, 1.0])), "positive"),
        (lambda: slopes.loglog_slope(np.array([2.0, 2.0]), np.array([1.0, 1.0])), "different x"),
        (lambda: st.area_under_curve(np.array([1.0, 1.0]), np.array([0.0, 1.0])), "increase"),
        (lambda: st.wilson(1.5, 10), "share"),
        (lambda: st.crossed(np.zeros((0, 2)), rng=rng()), "table"),
        (lambda: st.solve_summary(np.ones(3), np.ones(2, dtype=bool)), "flags"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(RlcError, match=words):
        call()
