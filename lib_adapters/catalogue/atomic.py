"""Files that others read are replaced whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from lib_adapters.errors import AdapterError
from lib_adapters.filesystem import replace_with_retry


def write(path: Path, content: bytes, *, lasting: bool = True) -> None:
    """A link stays a link; a file that was there keeps its permissions. `lasting`: also when the power goes off."""
    target = Path(os.path.realpath(path))
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".lycoris-")
    except OSError as error:
        raise AdapterError(f"{path.name} cannot be written: {error.strerror or error}.") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(_mode(target))
        replace_with_retry(temporary, target)
    except OSError as error:
        raise AdapterError(f"{path.name} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):  # gone, or as write-protected as what it was to replace
            temporary.unlink()


def _mode(target: Path) -> int:
    """What a new file would get, is known to the process only by asking for it; 0o644 does for everybody."""
    try:
        return target.stat().st_mode & 0o777
    except OSError:
        return 0o644
