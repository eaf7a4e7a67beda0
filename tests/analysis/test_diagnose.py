"""`rlc diagnose`: what a run's features show when its policy plays; wrong input is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_contrastive.analysis import watched
from rl_contrastive.analysis.embedding_plot import principal
from rl_contrastive.cli import main
from rl_contrastive.envs.base import BatchEnv
from rl_contrastive.envs.deep_sea import DeepSeaEnv
from rl_contrastive.envs.lock import LockEnv
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, run, run_folder

RUNS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "table": ("contrastive-ucb", "low-rank", {"num_states": 8, "horizon": 3, "rank": 2}, {}),
    "vector": ("contrastive-ucb", "distractor-lock", {"horizon": 3, "num_actions": 2}, {}),
    "pooled": ("contrastive-ucb", "gym:FrozenLake-v1", {"id": "FrozenLake-v1"}, {"pool": True}),
    "game": ("contrastive-ucb-game", "duel-lock", {"horizon": 2, "num_actions": 3}, {}),
    "deep": ("contrastive-ucb-deep", "deep-sea", {"size": 4}, {"warm_start": 40}),
}


def folder_of(tmp_path: Path, case: str) -> Path:
    agent, env, world, options = RUNS[case]
    budget = Budget(episodes=100, eval_every=100, eval_episodes=5)
    agent_config = {"batch": 20, **options}
    config = RunConfig(agent, env, agent_config=agent_config, env_config=world, budget=budget, tensorboard=False)
    assert run(config, tmp_path)["status"] == "finished"
    return run_folder(tmp_path, config)


@pytest.mark.parametrize("case", RUNS)
def test_numbers_and_a_picture(case, tmp_path, capsys):
    folder = folder_of(tmp_path, case)
    words = ["diagnose", str(folder), "--episodes", "20", "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    out = folder / "diagnose"
    assert {p.name for p in out.iterdir()} == {"table.md", "diagnose.json", "embedding.png", "embedding.svg"}
    kinds = {"table": "factor", "vector": "latent state", "pooled": "state", "game": "latent state", "deep": "state"}
    assert result["latents"] == kinds[case]
    spaces = {"table": 3, "vector": 3, "pooled": 1, "game": 2, "deep": 1}[case]
    for side in ("phi", "psi"):
        assert len(result[side]) == 1 + spaces
        assert {"uniformity", "tolerance", "isotropy", "rank", "rank_centred", "hardness"} <= set(result[side]["all"])
        assert all(np.isfinite(value) for numbers in result[side].values() for value in numbers.values())
    assert 0 <= result["phi"]["all"]["alignment"] <= 4
    assert "alignment" not in result["psi"]["all"]
    before = (out / "embedding.svg").read_bytes()
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert (out / "embedding.svg").read_bytes() == before
    assert main([*words[:-1], "--out", str(tmp_path / "there")]) == 0
    assert "| features | step | rows |" in capsys.readouterr().out


def complaint(capsys: Any, words: list[str]) -> str:
    capsys.readouterr()
    assert main(["diagnose", *words]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    return str(shown)


def test_wrong_input_is_a_sentence(tmp_path, capsys):
    folder = folder_of(tmp_path, "table")
    assert "is no run folder" in complaint(capsys, [str(tmp_path)])
    assert "is no run folder" in complaint(capsys, [str(tmp_path / "nothing")])
    assert "episodes" in complaint(capsys, [str(folder), "--episodes", "0"])
    assert "epsilon" in complaint(capsys, [str(folder), "--epsilon", "1.5"])
    assert "temperature" in complaint(capsys, [str(folder), "--temperature", "0"])
    assert "did you mean" in complaint(capsys, [str(folder), "--episode", "3"])
    (tmp_path / "file").write_text("")
    assert "cannot write" in complaint(capsys, [str(folder), "--out", str(tmp_path / "file")])
    (folder / "summary.json").unlink()
    assert main(["diagnose", str(folder), "--episodes", "5"]) == 0  # stopped, with a checkpoint
    for file in (folder / "checkpoint").iterdir():
        file.unlink()
    assert "has no checkpoint" in complaint(capsys, [str(folder)])


def test_an_environment_that_tells_no_latents(tmp_path, capsys, monkeypatch):
    """As rooms of MiniGrid: the base class has the method, which only raises."""
    for case in ("vector", "deep"):
        folder = folder_of(tmp_path, case)
        for env in (LockEnv, DeepSeaEnv):
            monkeypatch.setattr(env, "latent_states", BatchEnv.latent_states)
        monkeypatch.setattr(watched, "exact_model", lambda env: None)
        assert main(["diagnose", str(folder), "--episodes", "5", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["latents"] == {"vector": "", "deep": "state"}[case]
        assert ("tolerance" in result["phi"]["all"]) == (case == "deep")


def test_agents_without_features_are_refused(tmp_path, capsys):
    budget = Budget(episodes=20, eval_every=20, eval_episodes=5)
    world = {"size": 4}
    plain = RunConfig("ucbvi", "deep-sea", agent_config={"batch": 20}, env_config=world, budget=budget)
    run(plain, tmp_path)
    assert "learns no features" in complaint(capsys, [str(run_folder(tmp_path, plain))])
    options = {"batch": 20, "warm_start": 40, "beta": 0.0}
    blind = RunConfig("contrastive-ucb-deep", "deep-sea", agent_config=options, env_config=world, budget=budget)
    run(blind, tmp_path)
    assert "has learned no features" in complaint(capsys, [str(run_folder(tmp_path, blind))])


def test_principal_directions_by_hand():
    x = np.array([[3.0, 0.0, 1.0], [-3.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, -1.0, 1.0]])
    xy, share = principal(x)
    np.testing.assert_allclose(xy, x[:, :2], atol=1e-12)
    np.testing.assert_allclose(share, [0.9, 0.1])
    xy, share = principal(np.full((5, 3), 0.1))
    assert not xy.any()
    assert not share.any()
