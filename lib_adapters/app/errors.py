"""Descriptions of errors for users of the commands and of the stand-alone page."""

from __future__ import annotations

import torch

from lib_adapters.errors import AdapterError


def describe_error(error: BaseException) -> tuple[str, int]:
    """Return the message and the exit code for an exception; users never see a traceback."""
    if isinstance(error, KeyboardInterrupt):
        return "Stopped.", 130
    if isinstance(error, AdapterError):
        return str(error), 2
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return "There is not enough memory for this.", 2
    if isinstance(error, OSError):
        return f"{error.filename or 'The system'}: {error.strerror or error}.", 2
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"This needs the package {package}, which is not installed here (pip install {package}).", 2
    reason = " ".join(str(error).split())[:300]
    return f"Unexpected {type(error).__name__}: {reason} (LIB_ADAPTERS_DEBUG=1 shows where).", 2
