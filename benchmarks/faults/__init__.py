"""Faults that are caused on purpose: kills, interrupts, exits, broken pools, and hours of mixed calls.

`python -m benchmarks.faults` runs the campaign and prints what was tried and what survived; `python -m benchmarks.soak`
runs mixed calls for as long as asked.
"""
