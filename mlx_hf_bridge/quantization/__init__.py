"""Quantization: recipes, rounding methods, calibration, and the choice of bits for each module; no files on disk."""
