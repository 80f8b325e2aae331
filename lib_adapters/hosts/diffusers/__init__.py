"""A Stable Diffusion folder in diffusers' format as a host: load it, read tags, draw."""
