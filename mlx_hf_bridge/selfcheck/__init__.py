"""One command that checks a machine's device: right results against MLX's CPU device, behavior, and speed."""
