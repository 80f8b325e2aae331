"""diffusers as a host: load a model folder, resolve tags, generate images."""
