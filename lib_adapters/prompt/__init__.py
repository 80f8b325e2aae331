"""Prompt text to tags; knows nothing of tensors, files or models."""
