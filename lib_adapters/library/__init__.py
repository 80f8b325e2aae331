"""What adapters there are: an index of folders, what lies beside each file, and pictures small enough for a page."""

from lib_adapters.library.library import AdapterLibrary
from lib_adapters.library.records import Changes, FileInfo, Progress

__all__ = ["AdapterLibrary", "Changes", "FileInfo", "Progress"]
