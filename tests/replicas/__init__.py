"""Tiny replicas of public checkpoints: the layout of each repo at a fraction of its size, with random weights.

checkpoints.yaml lists the repos; `build` writes a replica, `compare` loads it as a user would and compares the results
with those of the reference. `PYTHONPATH=tests python -m replicas` does so for every row and rewrites the table that
`mlx-hf-bridge models --checkpoints` prints.
"""
