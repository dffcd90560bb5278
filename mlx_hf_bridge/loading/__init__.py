"""A repo id becomes a ready module; load.py reads as the flow."""
