"""A prompt as the model reads it: categories, embeddings, donors, prompt files, and HTML."""
