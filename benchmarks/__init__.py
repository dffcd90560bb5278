"""Scripts that make the figures of README and docs; each runs as `python -m benchmarks.<name>`."""
