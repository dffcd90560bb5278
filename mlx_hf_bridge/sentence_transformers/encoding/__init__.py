"""From texts to embeddings: inputs, batches, result types, worker pools, streams and corpus files."""
