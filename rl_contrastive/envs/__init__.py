"""Environments. Importing this package makes the native ones known to gymnasium as `rl_contrastive/<name>-v0`.

`gymnasium.make("rl_contrastive.envs:rl_contrastive/combination-lock-v0")` needs no import of ours before it: gymnasium
imports what stands before the colon. The environment's own module is imported when it is made.
"""

import gymnasium
from gymnasium.envs.registration import registry

NATIVE = (
    "combination-lock",
    "deep-sea",
    "dense-lock",
    "distractor-lock",
    "low-rank",
    "needle",
    "probe-action",
    "probe-constant",
    "probe-delay",
    "probe-match",
    "probe-observation",
    "probe-terminal",
    "probe-truncation",
    "swingup",
    "variable-lock",
)
"""Names registered with gymnasium; a test holds this list against the registry."""


for _name in NATIVE:
    _id = f"rl_contrastive/{_name}-v0"
    if _id not in registry:
        gymnasium.register(_id, entry_point="rl_contrastive.envs.adapters.single:make_single", kwargs={"name": _name})
