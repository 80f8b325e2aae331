"""`python -m lib_adapters`."""

from __future__ import annotations

import sys

from lib_adapters.app.main import main

if __name__ == "__main__":
    sys.exit(main())
