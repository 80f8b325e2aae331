"""All errors of the library. Each message is one sentence that names the file or layer and says what to do.

The low level states the fact; the boundary that knows the file and the layer adds them.
"""

from __future__ import annotations


class AdapterError(Exception):
    """Something about an adapter that its user must know."""


class CorruptFile(AdapterError):
    """The file is damaged, incomplete or not what its name says."""


class UnsupportedFile(AdapterError):
    """The file is sound, but belongs somewhere else (a checkpoint, a ControlNet, another tuner ...)."""


class HypernetworkFile(UnsupportedFile):
    """A sound file that is no adapter of weights; whoever serves hypernetworks opens it as one."""


class AestheticFile(UnsupportedFile):
    """A sound file that is no adapter of weights; whoever leads prompts towards pictures opens it."""


class UnknownAlgorithm(AdapterError):
    """No algorithm, or more than one, recognises the tensors of one module."""


class ShapeMismatch(AdapterError):
    """A delta does not have the shape of the weight it was meant for."""


class FamilyMismatch(AdapterError):
    """The file was trained for another base model."""


class BadTag(AdapterError):
    """A tag of the prompt that cannot be read; names the token."""


class InvalidModelFolder(AdapterError):
    """The model folder is missing, incomplete or of another kind."""


def shorten(text: object, max_length: int = 80) -> str:
    """What a file calls something, in a sentence: on one line, and no longer than that."""
    return " ".join(str(text)[:max_length].split())
