"""What the package knows about an architecture: its config class, its `Family`, its heads, and unsupported types.

A file of mlx_hf_bridge/models/ combines these for one model_type. Nothing here computes; the modules are in layers/.
"""
