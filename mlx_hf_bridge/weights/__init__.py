"""Checkpoint tensor names mapped onto model parameters: validated, fused, merged with LoRA, and assigned."""
