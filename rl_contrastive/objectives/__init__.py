"""Contrastive objectives, one family a file; `make(name)` builds a registered one from its config's values, and
`make_view(name)` a loss of embeddings.

    from rl_contrastive.objectives import InfoNCE, NTXent, NTXentConfig, Views

Every loss and its config can be imported from here, on first use: this import alone loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_contrastive.registry import build

if TYPE_CHECKING:
    from rl_contrastive.objectives.base import Objective
    from rl_contrastive.objectives.views import ViewObjective

NAMES: dict[str, tuple[str, ...]] = {
    "augmenters": ("Augmenters", "AugmentersConfig", "MCLRec", "MCLRecConfig", "TurnsConfig", "take_turns"),
    "base": ("Contrast", "NoOptions", "Objective", "ObjectiveResult", "Sizes"),
    "binary": ("NCE", "Logistic", "LogisticConfig"),
    "compositional": ("MECO", "KeyedMECO", "MECOConfig"),
    "graph": ("LightGCL", "LightGCLConfig", "SVDView", "SVDViewConfig"),
    "heads": ("Gate", "GateConfig", "ShuffledWhitening", "WhiteningConfig"),
    "labelled": ("SupCon", "SupConConfig", "SupReMix", "SupReMixConfig"),
    "learned": ("CMIM", "CMIMConfig", "MIM", "MIMConfig"),
    "memory": ("BECLR", "BECLRConfig", "DyCEConfig", "DyCEMemory"),
    "multi_view": ("CACR", "CACRConfig", "MVDHEL", "MVDHELConfig", "MVInfoNCE", "MVInfoNCEConfig"),
    "pairwise": ("DCL", "DCLConfig", "DCLW", "DCLWConfig", "NTXent", "NTXentConfig"),
    "robust": ("ISogCLR", "ISogCLRConfig"),
    "samplers": (
        "HardTopK",
        "HardTopKConfig",
        "PropensityConfig",
        "PropensitySampler",
        "SemanticConfig",
        "SemanticNeighbours",
        "SimCTG",
        "SimCTGConfig",
    ),
    "separated": ("SepCLR", "SepCLRConfig", "SimLAP", "SimLAPConfig"),
    "softmax": ("InfoNCE", "InfoNCEConfig", "MLE"),
    "spectral": ("Spectral",),
    "transport": ("OpTA", "OpTAConfig", "log_sinkhorn"),
    "views": ("ViewObjective", "Views"),
    "weighted": (
        "DCLScores",
        "DCLScoresConfig",
        "DCLWScores",
        "DCLWScoresConfig",
        "Hard",
        "HardConfig",
        "Reweighted",
        "ReweightedConfig",
    ),
}
"""File -> the public names in it."""
_HOME = {name: file for file, names in NAMES.items() for name in names}
__all__ = sorted([*_HOME, "make", "make_view"])


def make(name: str, options: Any = None) -> Objective:
    """The objective `name` with its config or values of it, e.g. make("infonce", {"temperature": .5})."""
    objective: Objective = build("objective", name, options)
    return objective


def make_view(name: str, options: Any = None) -> ViewObjective:
    """The loss of embeddings `name`, e.g. make_view("nt-xent", {"temperature": .5})."""
    objective: ViewObjective = build("view-objective", name, options)
    return objective


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
