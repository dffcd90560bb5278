"""A model's description: its checked config, the `Family` that a model file offers, heads, and unsupported types."""
