"""Building blocks that model files compose: arrays in, arrays out. They know no config, checkpoint or network.

What is here: token batches (token_batch.py), linear layers and embedding tables (linear.py), attention and its
variants, feed-forward blocks, norms, the encoder stack (encoder.py), poolers and heads. Which of them a model uses is
decided in mlx_hf_bridge/models/, one file for each model type.
"""
