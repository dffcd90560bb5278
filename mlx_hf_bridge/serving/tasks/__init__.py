"""What a server can be asked for: one dataclass for each task, which says how its texts are tokenized and computed."""
