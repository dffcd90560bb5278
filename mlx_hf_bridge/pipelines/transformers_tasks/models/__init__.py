"""A replacement of transformers.models for transformers' pipeline files, with the one module that they import."""
