"""An environment that hangs: with a limit its run fails in a sentence, without one nothing is timed."""

from __future__ import annotations

import signal
import time
from dataclasses import replace

import pytest

from rl_contrastive.envs.low_rank import LowRankEnv
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.rollout import step_limit
from rl_contrastive.runs.run import RunConfig, resume, run, run_folder


@pytest.mark.parametrize("where", ["step", "reset"])
def test_a_hanging_step_fails_the_run_which_can_be_resumed(tmp_path, config, monkeypatch, where):
    count, work = [0], getattr(LowRankEnv, where)

    def hang(self, *args, **keywords):
        count[0] += 1
        if count[0] == 10:
            time.sleep(60)
        return work(self, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(LowRankEnv, where, hang)
        started = time.monotonic()
        summary = run(replace(config, step_seconds=0.3), tmp_path / "a")
        assert time.monotonic() - started < 20
    assert summary["status"] == "failed"
    assert "took longer than step_seconds, 0.3 s" in summary["error"]
    folder = run_folder(tmp_path / "a", config)
    assert resume(folder)["status"] == "finished"
    run(config, tmp_path / "b")
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        assert (folder / name).read_bytes() == (run_folder(tmp_path / "b", config) / name).read_bytes()


def test_it_leaves_no_alarm_behind(config):
    class Env:
        def step(self):
            return "stepped"

        def reset(self):
            return "reset"

    env, before = Env(), signal.getsignal(signal.SIGALRM)
    with step_limit((env,), 5.0):
        assert (env.step(), env.reset()) == ("stepped", "reset")
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
    assert signal.getsignal(signal.SIGALRM) == before


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_limits(seconds):
    with pytest.raises(RlcError, match="step_seconds must be > 0"):
        RunConfig("uniform", "low-rank", step_seconds=seconds)
