"""Texts or ids become hidden states, vectors or logits."""
