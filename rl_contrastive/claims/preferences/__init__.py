"""Claims of papers on preference and contrastive policy objectives, on worlds whose regularised optimum is exact."""
