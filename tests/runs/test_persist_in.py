"""Agents that keep large things in a folder of the run: when they are given it, and when it goes away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rl_contrastive import registry
from rl_contrastive.errors import RlcError
from rl_contrastive.runs import sink
from rl_contrastive.runs.folder import RunFolder
from rl_contrastive.runs.loop import train
from rl_contrastive.runs.run import build, prepare, read_summary, resolve, resume, run, run_folder


@pytest.fixture
def config(config):
    """The tiny agent as it is registered: importing its file again would make another class of it."""
    return replace(config, imports=())


@pytest.fixture
def keeper(config, monkeypatch):
    """The agent tiny as one that keeps its table in a file; what is called when, by name."""
    entry, called = registry.get("agent", "tiny")[0], []
    Tiny = entry.factory
    Keeper = type("Keeper", (Tiny,), {})
    monkeypatch.setitem(registry._ENTRIES, ("agent", "tiny"), replace(entry, factory=Keeper))

    def noted(name, work):
        def call(self, *args):
            called.append(name)
            return work(self, *args)

        return call

    def persist_in(self, folder):
        self.folder = folder

    whole_state, load_whole = Tiny.state_dict, Tiny.load_state_dict

    def state_dict(self):
        state = whole_state(self)
        if not hasattr(self, "folder"):
            return state
        self.folder.mkdir(exist_ok=True)
        np.save(self.folder / f"{self.version}.npy", state.pop("Q"))
        return state

    def load_state_dict(self, state):
        load_whole(self, {"Q": np.load(self.folder / f"{state['version']}.npy"), **state})

    Keeper.persist_in = noted("persist_in", persist_in)
    Keeper.begin = noted("begin", lambda self, num_envs: None)
    Keeper.state_dict = noted("state_dict", state_dict)
    Keeper.load_state_dict = noted("load_state_dict", load_state_dict)
    save = sink.save_state
    monkeypatch.setattr(sink, "save_state", lambda *args: (called.append("save"), save(*args)))
    return called


def part_of(config, out, batches=4):
    """A run that is stopped after some batches; its folder."""
    stop = iter([False] * (batches - 1))
    run(config, out, should_stop=lambda: next(stop, True))
    return run_folder(out, config)


def test_the_folder_is_given_first_and_every_checkpoint_asks_once(tmp_path, config, keeper):
    folder = part_of(config, tmp_path)
    ask = ["state_dict", "save"]
    assert keeper == ["persist_in", *(["begin", *ask] * 4), *ask]
    assert sorted(path.name for path in (folder / "replay").iterdir()) == ["1.npy", "2.npy", "3.npy", "4.npy"]
    keeper.clear()
    assert resume(folder)["status"] == "finished"
    assert keeper == ["persist_in", "load_state_dict", *(["begin", *ask] * 6), *ask]
    run(config, tmp_path / "whole")
    whole = run_folder(tmp_path / "whole", config)
    for name in ("metrics.jsonl", "checkpoint/state.npz", "replay/10.npy"):
        assert (whole / name).read_bytes() == (folder / name).read_bytes()


def test_without_a_run_the_state_holds_all(config, keeper):
    agent, env, _ = build(config)
    train(agent, env, episodes=8)
    assert "persist_in" not in keeper
    assert "Q" in agent.state_dict()


def test_agents_that_do_not_ask_get_no_folder(tmp_path, config):
    assert not (part_of(config, tmp_path) / "replay").exists()


def test_what_was_kept_is_one_sentence_when_it_is_lost(tmp_path, config, keeper, monkeypatch):
    folder = part_of(config, tmp_path)
    for path in (folder / "replay").iterdir():
        path.unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RlcError, match="cannot be loaded: FileNotFoundError") as problem:
        resume(folder)
    assert "\n" not in str(problem.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def no_room(self, folder):
        raise RlcError("no room.")

    monkeypatch.setattr(registry.get("agent", "tiny")[0].factory, "persist_in", no_room)
    with pytest.raises(RlcError, match="no room"):
        resume(folder)
    assert run(config, tmp_path / "new")["error"] == read_summary(run_folder(tmp_path / "new", config))["error"]
    assert read_summary(run_folder(tmp_path / "new", config))["error"] == "no room."


def test_it_goes_with_the_run_that_it_belongs_to(tmp_path, config, keeper):
    folder = part_of(config, tmp_path)
    for path in (folder / "checkpoint").iterdir():
        path.unlink()
    (folder / "replay" / "stray").touch()
    resume(folder)  # from the beginning
    assert not (folder / "replay" / "stray").exists()
    (folder / "replay" / "stray").touch()
    prepare(resolve(config), tmp_path, overwrite=True)
    assert not (folder / "replay").exists()
    part_of(config, tmp_path / "b")
    RunFolder(run_folder(tmp_path / "b", config)).discard()
    assert not run_folder(tmp_path / "b", config).exists()
