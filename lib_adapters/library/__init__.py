"""The library of adapters: an index of folders, companion files, and thumbnails."""

from lib_adapters.library.library import AdapterLibrary
from lib_adapters.library.records import Changes, FileInfo, Progress

__all__ = ["AdapterLibrary", "Changes", "FileInfo", "Progress"]
