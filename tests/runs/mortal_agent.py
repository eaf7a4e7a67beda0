"""A user's file: the agent of `tiny_agent.py`, which obeys files beside this one that order its death, once each.

`kill-run-<seed>` ends the run's process by kill -9, `kill-parent-<seed>` the process that started it (a Ray worker).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tiny_agent import Tiny, TinyConfig  # a copy beside this file

from rl_contrastive.registry import register

HERE = Path(__file__).parent


@register("agent", "mortal", TinyConfig)
class Mortal(Tiny):
    """Tiny, until it is told to die."""

    def __init__(self, env, config, *, seed=0):
        super().__init__(env, config, seed=seed)
        self.number = seed

    def update(self):
        if self.version == 20:
            self._obey("kill-run", os.getpid())
            self._obey("kill-parent", os.getppid())
        return super().update()

    def _obey(self, name, process):
        order = HERE / f"{name}-{self.number}"
        if order.exists():
            order.unlink()
            os.kill(process, signal.SIGKILL)
