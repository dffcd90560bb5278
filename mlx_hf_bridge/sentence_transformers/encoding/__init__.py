"""From texts to embeddings: reading inputs, running batches, worker pools, output formats, streaming, and files."""
