"""Inference: texts are tokenized, batched and run through the model, and token embeddings pooled."""
