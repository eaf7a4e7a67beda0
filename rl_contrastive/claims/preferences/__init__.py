"""Claims of preference and policy objectives, one a file."""
