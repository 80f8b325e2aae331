"""A double of the web UI: the host's behaviours that the extension meets, with real models inside."""
