"""Claims of the papers behind the contrastive objectives: set-up, metric, control and bar of each."""
