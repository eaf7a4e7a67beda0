"""TensorBoard: histograms that an agent offers are written, survive a kill, and leave the run's record as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rl_contrastive import registry
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, resume, run, run_folder
from rl_contrastive.runs.tensorboard import BINS, Board


@pytest.fixture
def config(config) -> RunConfig:
    """Without the import of the tiny agent's file, which would make its class anew."""
    return replace(config, imports=())


@pytest.fixture
def offering(tiny, monkeypatch) -> list[int]:
    """The tiny agent with a histogram of its table; the list grows with each call."""
    calls: list[int] = []

    def histograms(self):
        calls.append(self.version)
        return {"q": self.Q, "row": self.Q[0, 0]}

    entry = registry.get("agent", "tiny")[0]
    showing = type("Showing", (entry.factory,), {"histograms": histograms})
    monkeypatch.setitem(registry._ENTRIES, ("agent", "tiny"), replace(entry, factory=showing))
    return calls


def read(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), size_guidance={"histograms": 0})
    board.Reload()
    return board


def files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("metrics.jsonl", "checkpoint/state.npz")]


def test_events_are_written_and_readable(tmp_path, config, offering):
    run(replace(config, tensorboard=True), tmp_path)
    folder = run_folder(tmp_path, config)
    board = read(folder / "tensorboard")
    assert set(board.Tags()["histograms"]) == {"histograms/q", "histograms/row"}
    events = board.Histograms("histograms/q")
    assert [event.step for event in events] == [8, 16, 24, 32, 40]
    assert len(offering) == 5  # once an evaluation
    assert len(events[0].histogram_value.bucket) == BINS
    assert events[0].histogram_value.num == 4 * 6 * 3  # H + 1 steps, S, A
    q = read_state(folder)["agent"]["Q"]
    last = events[-1].histogram_value
    assert last.sum == pytest.approx(q.sum())
    assert (last.min, last.max) == (q.min(), q.max())


def read_state(folder: Path):
    from rl_contrastive.runs.checkpoint import load_state

    return load_state(folder / "checkpoint")


def test_the_record_has_the_same_bytes_and_nobody_is_asked_where_tensorboard_is_off(tmp_path, config, offering):
    run(config, tmp_path / "off")
    assert offering == []
    off = run_folder(tmp_path / "off", config)
    assert not (off / "tensorboard").exists()
    run(replace(config, tensorboard=True), tmp_path / "on")
    assert len(offering) == 5
    assert files(run_folder(tmp_path / "on", config)) == files(off)


def test_agents_without_histograms_have_scalars_alone(tmp_path, config):
    run(replace(config, tensorboard=True), tmp_path)
    assert read(run_folder(tmp_path, config) / "tensorboard").Tags()["histograms"] == []


def test_a_resumed_run_keeps_what_is_before_its_checkpoint_and_makes_the_rest_again(tmp_path, config, offering):
    stop = iter([False] * 4)
    run(replace(config, tensorboard=True), tmp_path, should_stop=lambda: next(stop, True))
    folder = run_folder(tmp_path, config)
    (old,) = (folder / "tensorboard").iterdir()
    before = [event.step for event in read(folder / "tensorboard").Histograms("histograms/q")]
    assert 0 < len(before) < 5
    # An evaluation behind the checkpoint, and the half record of a kill.
    board = Board(folder / "tensorboard", [{"episodes": before[-1]}])
    board.histograms(before[-1] + 1, {"q": np.ones(3)})
    board.close()
    (old,) = (folder / "tensorboard").iterdir()
    # Length, checksum, and the beginning of a summary of 127 bytes.
    old.write_bytes(old.read_bytes() + b"\x90\x00\x00\x00\x00\x00\x00\x00" + b"some" + b"\x2a\x7fabc")
    resume(folder)
    events = read(folder / "tensorboard").Histograms("histograms/q")
    assert [event.step for event in events] == [8, 16, 24, 32, 40]
    # As if nothing had happened.
    run(replace(config, tensorboard=True), tmp_path / "whole")
    whole = read(run_folder(tmp_path / "whole", config) / "tensorboard").Histograms("histograms/q")
    assert [event.histogram_value for event in events] == [event.histogram_value for event in whole]


def written(tmp_path: Path, **arrays: np.ndarray):
    board = Board(tmp_path, [])
    board.histograms(1, arrays)
    board.close()
    return read(tmp_path)


def test_bars_by_hand(tmp_path):
    # 0, 1, ..., 64 on [0, 64] in 64 bars: one each, and the largest value belongs to the last bar.
    value = written(tmp_path, x=np.arange(65.0)).Histograms("histograms/x")[0].histogram_value
    assert list(value.bucket) == [1.0] * 63 + [2.0]
    assert list(value.bucket_limit) == list(range(1, 65))
    assert (value.min, value.max, value.num, value.sum, value.sum_squares) == (0, 64, 65, 2080, 89440)


def test_equal_nearly_equal_no_and_not_finite_values(tmp_path):
    near = np.nextafter(1.0, 2.0)
    board = written(
        tmp_path,
        equal=np.full((2, 3), 0.5),
        near=np.array([1.0, near, near]),
        none=np.zeros(0),
        broken=np.array([1.0, np.nan, np.inf, 3.0]),
        lost=np.array([np.nan]),
    )
    assert set(board.Tags()["histograms"]) == {f"histograms/{name}" for name in ("equal", "near", "broken")}
    equal = board.Histograms("histograms/equal")[0].histogram_value
    assert (list(equal.bucket), list(equal.bucket_limit)) == ([6.0], [0.5])
    assert sum(board.Histograms("histograms/near")[0].histogram_value.bucket) == 3
    broken = board.Histograms("histograms/broken")[0].histogram_value
    assert (broken.min, broken.max, broken.num) == (1.0, 3.0, 2.0)
    missing = {name: board.Scalars(f"histograms/{name}_not_finite")[0].value for name in ("broken", "lost")}
    assert missing == {"broken": 2.0, "lost": 1.0}


DEEP = {
    "warm_start": 30,
    "capacity": 500,
    "learner": {"batch_size": 8, "encoder": {"hidden": [16]}, "representation": {"dim": 8, "hidden": 16}},
}
WITHOUT_FEATURES = {**DEEP, "learner": {"batch_size": 8, "encoder": {"hidden": [16]}}}


# 12 episodes of 6 visits; 8 coordinates of each.
SIZES = {"bonus": 72, "features": 72 * 8, "singular_values": 8}


@pytest.mark.parametrize(
    ("agent", "names"), [("contrastive-ucb-deep", {"bonus", "features", "singular_values"}), ("rnd-dqn", {"bonus"})]
)
def test_histograms_of_the_deep_agents_leave_their_runs_as_they_are(agent, names, tmp_path):
    config = RunConfig(
        agent,
        "deep-sea",
        agent_config=DEEP if agent == "contrastive-ucb-deep" else WITHOUT_FEATURES,
        env_config={"size": 6},
        budget=Budget(episodes=12, eval_every=4, eval_episodes=5),
        checkpoint_seconds=0.0,
        tensorboard=False,
    )
    run(config, tmp_path / "off")
    run(replace(config, tensorboard=True), tmp_path / "on")
    on, off = (run_folder(tmp_path / name, config) for name in ("on", "off"))
    assert files(on) == files(off)
    board = read(on / "tensorboard")
    assert set(board.Tags()["histograms"]) == {f"histograms/{name}" for name in names}
    for name in names:
        last = board.Histograms(f"histograms/{name}")[-1]
        assert last.step == 12
        assert last.histogram_value.num == SIZES[name]
        assert last.histogram_value.min >= 0 or name == "features"
    assert board.Histograms("histograms/bonus")[-1].histogram_value.max > 0


def test_histograms_of_the_deep_agent_by_hand(make_agent):
    agent = make_agent("contrastive-ucb-deep", "deep-sea", env={"size": 6}, **DEEP)
    agent.learn(10, eval_episodes=2)
    visits, given = agent.replay.visits(), agent.histograms()
    phi = agent.learner.features.phi(agent.replay.observations(visits), agent.replay.actions(visits))
    np.testing.assert_allclose(given["features"], phi)
    eigenvalues = np.linalg.eigvalsh(phi.T @ phi / 60)[::-1]
    np.testing.assert_allclose(given["singular_values"] ** 2, eigenvalues, rtol=1e-6, atol=1e-9)
    counted = agent.bonus.taken(visits, agent.replay.actions(visits))
    np.testing.assert_array_equal(given["bonus"], counted)


def test_histograms_of_many_visits_are_of_an_even_spread(make_agent):
    agent = make_agent("contrastive-ucb-deep", "deep-sea", env={"size": 50}, **{**DEEP, "capacity": 4000})
    agent.config = replace(agent.config, warm_start=10**6)
    agent.learn(60, eval_episodes=2)
    visits, some = agent.replay.visits(), agent._some(2048)
    assert (len(visits), len(some)) == (3000, 2048)
    assert (some[0], some[-1]) == (visits[0], visits[-1])
    assert set(np.diff(np.searchsorted(visits, some))) == {1, 2}
    assert len(agent.histograms()["bonus"]) == 2048


def test_budgets_in_steps_are_drawn_over_steps(tmp_path, config, offering):
    run(replace(config, tensorboard=True, budget=Budget(steps=100, eval_every_steps=50)), tmp_path)
    folder = run_folder(tmp_path, config)
    steps = [json.loads(line)["env_steps"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    board = read(folder / "tensorboard")
    assert [event.step for event in board.Scalars("run/episodes")] == steps
    assert [event.step for event in board.Histograms("histograms/q")] == steps


FEATURES = {
    "table": ("contrastive-ucb", "low-rank", {"num_states": 8, "horizon": 3, "rank": 2}, {}),
    "vector": ("contrastive-ucb", "combination-lock", {"horizon": 3, "num_actions": 2}, {}),
    "latent": ("contrastive-ucb", "combination-lock", {"horizon": 3, "num_actions": 2}, {"representation": "latent"}),
    "ridge": ("contrastive-lsvi", "combination-lock", {"horizon": 3, "num_actions": 2}, {}),
    "game": ("contrastive-ucb-game", "low-rank-game", {"num_states": 6, "horizon": 2, "rank": 2}, {}),
    "deep": ("contrastive-ucb-deep", "deep-sea", {"size": 4}, {"warm_start": 40, "batch": 10}),
}


@pytest.mark.parametrize("case", FEATURES)
def test_numbers_of_features_are_shown_and_change_no_record(tmp_path, case):
    agent, env, world, options = FEATURES[case]
    budget = Budget(episodes=120, eval_every=60, eval_episodes=10)
    config = RunConfig(agent, env, agent_config={"batch": 20, **options}, env_config=world, seed=3, budget=budget)
    shown = replace(config, tensorboard=True, label="shown")
    summaries = [run(replace(config, tensorboard=False), tmp_path), run(shown, tmp_path)]
    assert [summary["status"] for summary in summaries] == ["finished", "finished"]
    plain, looked = (run_folder(tmp_path, c) / "metrics.jsonl" for c in (config, shown))
    assert plain.read_bytes() == looked.read_bytes()
    board = read(run_folder(tmp_path, shown) / "tensorboard")
    tags = {tag.removeprefix("features/") for tag in board.Tags()["scalars"] if tag.startswith("features/")}
    assert {"alignment", "phi_uniformity", "phi_rank", "psi_uniformity", "psi_rank"} <= tags
    assert ({"phi_tolerance", "psi_tolerance"} <= tags) == (case in ("table", "game"))
    for tag in tags:
        assert all(np.isfinite(event.value) for event in board.Scalars(f"features/{tag}")), tag


def test_numbers_of_features_survive_a_resume(tmp_path):
    board = Board(tmp_path, [])
    for count in (10, 20):
        board.features(count, {"phi_rank": 0.1 * count})
    board.close()
    Board(tmp_path, [{"episodes": 10}]).close()
    assert [(e.step, round(e.value, 3)) for e in read(tmp_path).Scalars("features/phi_rank")] == [(10, 1.0)]
