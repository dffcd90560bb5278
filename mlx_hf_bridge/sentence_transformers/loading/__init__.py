"""Loading and saving of sentence-transformers checkpoints: arguments, saved settings, modules.json, ColBERT."""
