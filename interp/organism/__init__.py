"""The embedded model: a small Stable Diffusion trained here, which memorizes images we know.

Stages, one file each: the drawings (`emoji`), scenes and captions (`scenes`), the images shown many
times (`duplicates`), tokenizer, text encoder, autoencoder, denoiser, copy descriptor; `build` runs
them and `evaluate` measures what came out. Nothing in `interp` outside this folder knows of it.
"""
