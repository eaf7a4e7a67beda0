"""Forward passes and gradients of small networks in numpy: what a CPU spends on them without torch's calls."""
