"""Hosts provide models and prompts. Only this package and `app` import a host's modules."""
