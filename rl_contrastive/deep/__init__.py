"""Deep Contrastive-UCB's parts: replay, networks, representation, and the bridge to Stable-Baselines3."""
