"""The features and the bonus for Stable-Baselines3's agents: a features extractor, and a wrapper of any VecEnv.

    ContrastiveExtractor     a pretrained encoder inside an SB3 policy, frozen or fine-tuned   (`sb3_features.py`)
    BonusVecEnv              reward + bonus, of any kind that `deep/bonus_config.py` has       (`sb3_bonus.py`)

`EllipticalBonusVecEnv` is the same wrapper under its older name; with default options the bonus is elliptical.
"""

from __future__ import annotations

from rl_contrastive.bridges.bonus_env_config import BonusEnvConfig
from rl_contrastive.bridges.sb3_bonus import BonusVecEnv
from rl_contrastive.bridges.sb3_features import ContrastiveExtractor, extractor_kwargs, obs_layout

EllipticalBonusConfig = BonusEnvConfig
EllipticalBonusVecEnv = BonusVecEnv

__all__ = [
    "BonusEnvConfig",
    "BonusVecEnv",
    "ContrastiveExtractor",
    "EllipticalBonusConfig",
    "EllipticalBonusVecEnv",
    "extractor_kwargs",
    "obs_layout",
]
