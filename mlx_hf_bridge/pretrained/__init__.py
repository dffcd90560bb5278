"""The `MLXAutoModel` API: loading, calling, configuring, saving and publishing models as transformers does."""
