"""Fuzzing of every reader of files that strangers write: `python -m fuzz --help`; docs/reliability.md has the figures.

`targets/` has one function for each reader, `mutators.py` the changes that get past a format's first check, `worker.py`
the process that runs one target within bounds, `campaign.py` all of them one after another. A finding is an error that
is no BridgeError, an error whose message is long, a crash, a hang, or memory beyond the bound.
"""
