"""What claims about preferences share: the seeds of the reported measurement."""

SEEDS = tuple(range(800, 810))
"""Settings were chosen on seeds 0-9."""
MORE_SEEDS = tuple(range(800, 820))
"""Where seeds differ much from each other."""
