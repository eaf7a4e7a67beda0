"""Energy models, density exp(f)/Z with Z unknown: objectives, noise laws, samplers, partitions (pure mathematics)."""
