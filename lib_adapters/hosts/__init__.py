"""Where models and prompts come from; only here and in `app` are a host's own modules known."""
