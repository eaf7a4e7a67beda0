"""Deep Contrastive-UCB in a run folder: checkpoints that cost what is new, the same bytes as whole states."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from agents_common import batches, same

from rl_contrastive import registry
from rl_contrastive.cli import main
from rl_contrastive.config import from_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.checkpoint import load_state, read_state, save_state
from rl_contrastive.runs.load import load_agent
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, build, read_config, read_summary, resume, run, run_folder

VARIANTS = [{}, {"alpha": 0.5}, {"storage": "mapped"}, {"bonus": {"kind": "elliptical"}, "alpha": 0.5}]
LEARNER = {"batch_size": 8, "encoder": {"hidden": [16]}, "representation": {"dim": 8, "hidden": 16}}


def sea(seed=0, **options):
    """14 entries a batch: the ring of 100 is overwritten from the 8th batch on."""
    entry, _ = registry.get("env", "deep-sea")
    env = entry.factory(from_dict(entry.config, {"size": 6}), 2)
    agent, _ = registry.get("agent", "contrastive-ucb-deep")
    learner = {**LEARNER, **options.pop("learner", {})}
    values = {"batch": 2, "warm_start": 30, "capacity": 100, "train_every": 6, "learner": learner, **options}
    return agent.factory(env, from_dict(agent.config, values), seed=seed)


def everything(agent):
    """The whole state, wherever its replay is kept."""
    folder, agent._folder = agent._folder, None
    state = agent.state_dict()
    agent._folder = folder
    return state


@pytest.mark.parametrize("options", VARIANTS, ids=["plain", "priorities", "mapped", "elliptical"])
def test_saved_to_a_folder_it_goes_on_as_from_a_whole_state(options, tmp_path):
    straight, kept = sea(**{**options, "storage": "memory"}), sea(**options)
    batches(straight, 0, 12)
    kept.persist_in(tmp_path / "replay")
    for k in range(12):
        batches(kept, k, 1)
        if k in (2, 3, 7, 9):  # a checkpoint; after two of them the process is killed
            save_state(tmp_path, kept.state_dict())
        if k in (3, 9):
            kept = sea(**options)
            kept.persist_in(tmp_path / "replay")
            kept.load_state_dict(load_state(tmp_path))
    assert straight.rebuilt_at > 30  # keys were written anew on the way, or this says little of them
    assert same(everything(kept), everything(straight))
    assert kept.bonus.keys.tobytes() == straight.bonus.keys.tobytes()


def test_the_checkpoint_is_that_of_the_state_not_of_the_saves_before(tmp_path):
    for name, due in (("often", range(10)), ("once", [9])):
        agent = sea(alpha=0.5)
        agent.persist_in(tmp_path / name / "replay")
        for k in range(10):
            batches(agent, k, 1)
            if k in due:
                save_state(tmp_path / name, agent.state_dict())
    assert len(list((tmp_path / "often" / "replay").iterdir())) > len(list((tmp_path / "once" / "replay").iterdir()))
    assert (tmp_path / "often" / "state.npz").read_bytes() == (tmp_path / "once" / "state.npz").read_bytes()


def test_a_whole_state_may_be_loaded_into_a_folder(tmp_path):
    """A checkpoint of a run without a folder; nothing of an older log there gets into it."""
    whole, kept = sea(seed=1), sea()
    batches(whole, 0, 9)
    kept.persist_in(tmp_path)
    batches(kept, 0, 3)
    kept.state_dict()
    kept.load_state_dict(whole.state_dict())
    state = kept.state_dict()
    assert "entries" not in state["replay"]
    assert "keys" not in state["bonus"]
    again = sea()
    again.persist_in(tmp_path)
    again.load_state_dict(state)
    assert same(everything(again), whole.state_dict())


def test_a_checkpoint_writes_what_is_new(tmp_path):
    """Two episodes of 6 steps after 300: bytes of the files that were not there before, and of the state itself."""
    agent = sea(capacity=20_000, growth=10.0, train_every=50)
    agent.persist_in(tmp_path / "replay")
    batches(agent, 0, 150)
    save_state(tmp_path, agent.state_dict())
    first = {path.name: path.stat().st_size for path in (tmp_path / "replay").iterdir()}
    state = (tmp_path / "state.npz").stat().st_size
    batches(agent, 150, 1)
    save_state(tmp_path, agent.state_dict())
    new = {path.name: path.stat().st_size for path in (tmp_path / "replay").iterdir() if path.name not in first}
    after = (tmp_path / "state.npz").stat().st_size
    assert sorted(name.split("-")[0] for name in new) == ["cursor", "keys", "segment"]
    keys = 2 * 4 * 4 + 8  # two actions, four tilings, the row's number
    entry = 8 + 4 + 8 + 1 + 4
    assert sum(first.values()) > 150 * 14 * (entry + keys)
    # Zip and npy headers take some 250 bytes an array, of which there are 12 and 2.
    assert sum(new.values()) < 14 * (entry + keys) + 5000
    assert abs(after - state) < 500  # the networks, the counts; nothing that grows with the entries


@pytest.fixture
def config():
    options = {"warm_start": 20, "capacity": 200, "train_every": 5, "storage": "mapped", "learner": LEARNER}
    return RunConfig(
        agent="contrastive-ucb-deep",
        env="deep-sea",
        agent_config=options,
        env_config={"size": 5},
        budget=Budget(episodes=24, eval_every=6, eval_episodes=2),
        checkpoint_seconds=0.0,
        tensorboard=False,
    )


def part_of(config, out, batches_before=10):
    stop = iter([False] * (batches_before - 1))
    run(config, out, should_stop=lambda: next(stop, True))
    return run_folder(out, config)


def test_damaged_or_missing_files_are_one_sentence(tmp_path, config):
    folder = part_of(config, tmp_path)
    replay = folder / "replay"
    files = {path: path.read_bytes() for path in replay.iterdir()}
    assert not list(replay.glob("observations*"))

    def complaint():
        agent, _, _ = build(read_config(folder))
        agent.persist_in(replay)
        with pytest.raises(RlcError) as caught:
            agent.load_state_dict(load_state(folder / "checkpoint")["agent"])
        return str(caught.value)

    for kind in ("segment", "keys", "cursor"):
        path = max(replay.glob(f"{kind}-*"))
        path.write_bytes(files[path][:-30])
        assert f"{path} is corrupt or no" in complaint()
        path.unlink()
        assert complaint() == f"replay log: cannot read {path}: No such file or directory."
        path.write_bytes(files[path])
    path = min(replay.glob("segment-*"))
    path.unlink()
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(RlcError, match=rf"cannot read {re.escape(str(path))}: No such file or directory"):
        resume(folder)
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    path.write_bytes(files[path])
    assert resume(folder)["status"] == "finished"
    run(config, tmp_path / "whole")
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        assert (run_folder(tmp_path / "whole", config) / name).read_bytes() == (folder / name).read_bytes()


def test_a_damaged_checkpoint_falls_back_to_the_one_before_with_its_replay(tmp_path, config):
    def interrupt(progress):
        if progress.episodes == 15:
            raise KeyboardInterrupt

    run(config, tmp_path / "part", on_progress=interrupt)
    folder, whole = run_folder(tmp_path / "part", config), run_folder(tmp_path / "whole", config)
    newest = folder / "checkpoint" / "state.npz"
    totals = [entries_at(newest.with_name(name)) for name in ("state.npz", "previous.npz")]
    assert totals == [15 * 6, 14 * 6]  # two checkpoints of two moments
    newest.write_bytes(newest.read_bytes()[:-40])
    assert resume(folder)["status"] == "finished"
    run(config, tmp_path / "whole")
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        assert (whole / name).read_bytes() == (folder / name).read_bytes()


def entries_at(path):
    """Entries at a checkpoint."""
    return read_state(path)["agent"]["replay"]["total"]


def test_a_trained_agent_plays_without_its_replay(tmp_path, config):
    run(config, tmp_path)
    folder = run_folder(tmp_path, config)
    assert read_summary(folder)["status"] == "finished"
    learnt, _ = load_agent(folder)
    shutil.rmtree(folder / "replay")
    agent, _ = load_agent(folder)
    assert not len(agent.replay.ring.obs)  # no room was made for what is not there
    obs = np.arange(5)
    for explore in (False, True):
        np.testing.assert_array_equal(agent.policy(obs, 0, explore=explore), learnt.policy(obs, 0, explore=explore))
    for call in (lambda: agent.begin(1), agent.state_dict):
        with pytest.raises(RlcError, match="loaded without its replay, so it can only play"):
            call()


def test_mapped_observations_need_a_folder(tmp_path):
    agent = sea(storage="mapped")
    with pytest.raises(RlcError, match=r"storage mapped needs a folder: call persist_in"):
        agent.begin(2)
    agent.persist_in(tmp_path)
    batches(agent, 0, 1)
    assert isinstance(agent.replay.ring.obs.base, np.memmap)
    with pytest.raises(RlcError, match="only before there are any"):
        agent.persist_in(tmp_path / "other")


@pytest.mark.slow
def test_the_command_line_goes_on_plays_and_reports(tmp_path, config, capsys):
    pytest.importorskip("pygame")
    config = replace(config, env="gym:FrozenLake-v1", env_config={})  # it can be drawn
    folder = part_of(config, tmp_path / "runs")
    assert main(["resume", str(folder)]) == 0
    assert main(["replay", str(folder), "--out", str(tmp_path / "episode.gif")]) == 0
    assert (tmp_path / "episode.gif").stat().st_size > 0
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "page")]) == 0
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    capsys.readouterr()
