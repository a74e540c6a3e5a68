"""How pipelines are called, and what is known of those with a transformer, a file a family."""
