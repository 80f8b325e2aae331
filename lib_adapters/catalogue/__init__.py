"""What adapters there are: an index of folders, what lies beside each file, and pictures small enough for a page."""

from lib_adapters.catalogue.catalogue import Catalogue
from lib_adapters.catalogue.records import About, Changes, Progress

__all__ = ["About", "Catalogue", "Changes", "Progress"]
