"""Deprecated module for `export_metal`, which moved to `mlx_hf_bridge.conversion.metal_export`."""

from mlx_hf_bridge.conversion.metal_export import export_metal as export_metal
