"""Blocks that model files compose: arrays in, arrays out. They know no config file, no checkpoint and no network."""
