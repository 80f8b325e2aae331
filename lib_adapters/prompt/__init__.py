"""Parsing of tags in prompts; independent of tensors, files and models."""
