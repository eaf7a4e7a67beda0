"""What the tests of matches, best responses and replays share: runs of the tiny game of `tests/tiny_game.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rl_contrastive import registry
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, run, run_folder

GAME = str(Path(__file__).parent / "tiny_game.py")


def fixed_run(
    out: Path,
    label: str,
    *,
    mu: tuple[float, ...] = (1, 1, 1),
    nu: tuple[float, ...] = (1, 1, 1),
    seed: int = 0,
    env: str = "tiny-game",
    agent: str = "tiny-fixed",
    **env_config: Any,
) -> Path:
    """A finished run whose agent plays the weights mu and nu."""
    registry.import_file(Path(GAME))
    weights = {"mu": [float(w) for w in mu], "nu": [float(w) for w in nu]} if agent == "tiny-fixed" else {}
    config = RunConfig(
        agent=agent,
        env=env,
        agent_config={"batch": 2, **weights},
        env_config=env_config,
        seed=seed,
        label=label,
        budget=Budget(episodes=4, eval_every=2, eval_episodes=4),
        tensorboard=False,
        imports=(GAME,),
    )
    summary = run(config, out)
    assert summary["status"] == "finished", summary
    return run_folder(out, config)
