"""Encoders without a file in `models/`: transformers' torch module is traced once, and its graph runs on MLX.

`conversion` exports and checks a module (torch is needed), `passes/` simplify the graph, `serial` reads and writes
graph.json, `interpreter` and `ops/` run it, and `model` makes it look like any other model here. docs/tracing.md
describes the whole.
"""
