"""rl_contrastive: contrastive representation learning in online reinforcement learning.

    from rl_contrastive import make_agent, make_env, train

What is listed here is the public API, imported on first use; everything else may move. To read the code, start with
`rl_contrastive.spec` (the contracts), `rl_contrastive.agents.contrastive_ucb` (the paper's Algorithm 1) and
`rl_contrastive.runs.loop` (how a run goes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_contrastive.analysis.compare import compare as compare
    from rl_contrastive.api import load as load
    from rl_contrastive.api import make_agent as make_agent
    from rl_contrastive.api import make_env as make_env
    from rl_contrastive.api import make_objective as make_objective
    from rl_contrastive.api import names as names
    from rl_contrastive.api import options as options
    from rl_contrastive.api import train as train
    from rl_contrastive.errors import RlcError as RlcError
    from rl_contrastive.registry import register as register
    from rl_contrastive.runs.budget import Budget as Budget
    from rl_contrastive.spec import Agent as Agent
    from rl_contrastive.spec import Env as Env
    from rl_contrastive.spec import EnvSpec as EnvSpec
    from rl_contrastive.spec import ExactModel as ExactModel
    from rl_contrastive.spec import Transition as Transition

__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(["load", "make_agent", "make_env", "make_objective", "names", "options", "train"], "api"),
    **dict.fromkeys(["Agent", "Env", "EnvSpec", "ExactModel", "Transition"], "spec"),
    "Budget": "runs.budget",
    "RlcError": "errors",
    "compare": "analysis.compare",
    "register": "registry",
}
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: `import rl_contrastive` alone loads neither numpy nor torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'rl_contrastive' has no attribute '{name}'; it has {', '.join(sorted(_HOME))}.")
    from importlib import import_module

    value = getattr(import_module(f"rl_contrastive.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
