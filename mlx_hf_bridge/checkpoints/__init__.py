"""Reading what others wrote: locating repos, weight files, configs, adapters and model cards."""
