"""What a claim's measurement returns: the claim, what was measured, the verdict, and a control that has to fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """One claim, measured. The claim holds where `passed`; the measurement means something where `control_passed`."""

    name: str
    claim: str
    """The mathematical statement."""
    measurement: str
    """What was computed, with its numbers."""
    expected: str
    """What the claim predicts for it, decided beforehand."""
    passed: bool
    control: str
    """A variant in which the claim must not hold, with its numbers."""
    control_passed: bool
    """The control failed, as it must: the measurement can tell the difference."""
    numbers: dict[str, Any]
    """Everything behind the sentences, as JSON values."""
    plot: str
    """File name of the plot, beside verdict.json."""

    @property
    def ok(self) -> bool:
        """Claim and control both came out as they must."""
        return self.passed and self.control_passed
