"""Scripts that measure the figures of README.md and docs/; each runs as `python -m benchmarks.<name>`."""
