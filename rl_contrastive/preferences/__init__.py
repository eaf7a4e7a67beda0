"""Preference and contrastive policy objectives, one family a file, beside the exact optima they are judged by.

    from rl_contrastive.preferences import DPO, Completions, CoPG, optimum

Every name can be imported from here, on first use: this import alone loads no torch.
"""

from __future__ import annotations

from typing import Any

NAMES: dict[str, tuple[str, ...]] = {
    "base": (
        "Completions",
        "GroupObjective",
        "PairObjective",
        "PairWeight",
        "Pairs",
        "PreferenceResult",
        "Regulariser",
        "RewardTransform",
        "load_state",
        "mean_rows",
        "save_state",
    ),
    "data": ("LabelConfig", "PairIndex", "Pool", "draw_pairs", "joined", "label", "mixture", "pool", "take", "wins"),
    "exact": ("divergence", "optimum", "policy_value", "regret", "regularised_value", "soft_optimal"),
    "groups": (
        "AWR",
        "GRPO",
        "PPO",
        "RLOO",
        "AWRConfig",
        "BestOfN",
        "BestOfNConfig",
        "CoPG",
        "CoPGConfig",
        "GRPOConfig",
        "PPOConfig",
        "RLOOConfig",
        "Reinforce",
        "ReinforceConfig",
    ),
    "labels": ("Labeller", "LabelsConfig", "pair_up"),
    "masks": ("MaPO", "MaPOConfig", "SparsePO", "SparsePOConfig", "TDPO", "TDPOConfig", "activation_mask"),
    "pairwise": (
        "CDPO",
        "DPO",
        "IPO",
        "RPO",
        "CDPOConfig",
        "DPOConfig",
        "HyPO",
        "HyPOConfig",
        "IPOConfig",
        "RPOConfig",
        "margins",
        "online_kl",
    ),
    "regularise": ("NLL", "OnlineKL", "Regularised"),
    "rewards": (
        "BTConfig",
        "BradleyTerry",
        "Flip",
        "FlipConfig",
        "Margin",
        "MarginConfig",
        "RewardLoss",
        "RewardResult",
        "Smoothed",
        "SmoothedConfig",
        "Strength",
        "bottom",
        "contrastive_term",
        "meta_term",
        "strength",
    ),
    "transforms": ("GCPO", "GRACE", "GCPOConfig", "GRACEConfig"),
    "weights": ("SemDPO", "SemDPOConfig"),
    "worlds": (
        "Autoregressive",
        "CoverageBandit",
        "Language",
        "Listed",
        "Tables",
        "bandit",
        "bins_bandit",
        "coverage_bandit",
        "gridworld",
        "language",
        "low_rank",
        "random_bandit",
    ),
}
"""File -> the public names in it."""
_HOME = {name: file for file, names in NAMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; it has {', '.join(__all__)}.")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
