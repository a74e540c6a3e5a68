"""Pipelines that denoise with a transformer: what is known of each family, a file a family."""
