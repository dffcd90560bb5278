"""A replacement of transformers.models.bert for transformers' pipeline files."""
