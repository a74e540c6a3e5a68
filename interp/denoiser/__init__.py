"""A running denoiser seen from outside: layers, hooks, steps, rows, and what it predicts."""
