"""The `MLXAutoModel` surface: transformers-style loading, calling, configuring, saving and publishing of models."""
