"""The page in a real browser: files on disk, the real catalogue and routes over them, a page like the host's."""
