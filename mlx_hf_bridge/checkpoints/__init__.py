"""Reading checkpoints: locating repos, weight files, configs, adapters and model cards."""
