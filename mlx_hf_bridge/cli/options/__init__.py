"""The options of every command, one file each: `command` describes them. Nothing here computes, so that --help is fast.

The module of the same name in `mlx_hf_bridge.cli` does the work, in `run(args)`.
"""
