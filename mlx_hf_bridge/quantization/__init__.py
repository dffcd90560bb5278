"""Low-bit storage: the recipes, what they cost, and which modules they touch."""
