"""Differences between Windows, macOS and Linux: file names, text encodings, atomic replacement."""

from __future__ import annotations

import codecs
import contextlib
import errno
import locale
import os
import re
import stat
import tempfile
import time
import unicodedata
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Literal, overload

from lib_adapters.errors import AdapterError

MAX_NAME_BYTES = 200  # bytes; file systems take 255, and a picture's ending must fit behind it
MAX_PATH_CHARACTERS = 259  # letters, on Windows as it comes
PATH_TOO_LONG = (
    f"cannot be reached: with its folders its name has more than {MAX_PATH_CHARACTERS} letters; give it a shorter place"
)
NOT_A_REGULAR_FILE = "it is a pipe, a socket or a device, not a file"
RETRY_DELAYS = (0.05, 0.1, 0.2, 0.4)  # seconds
_FORBIDDEN_CHARACTERS = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


def is_portable_name(name: str) -> bool:
    """Can every system have a file or folder of this name? A letter too many is a device or a stream on Windows."""
    ends_well = name.rstrip(". ") == name != ""
    fits = len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES
    return ends_well and fits and not _FORBIDDEN_CHARACTERS.search(name) and not _WINDOWS_DEVICES.fullmatch(name)


def is_path_too_long(path: str, windows: bool = os.name == "nt") -> bool:
    """Windows says of such a file that it is not there, unless long paths are switched on or asked for."""
    return windows and len(path) > MAX_PATH_CHARACTERS and not path.startswith("\\\\?\\")


def nfc(name: str) -> str:
    """macOS takes the letters of a name apart (é is e and an accent), keyboards and other systems do not."""
    return unicodedata.normalize("NFC", name)


def casefold_name(name: str) -> str:
    """Names that differ in case or form alone are one on Windows and macOS, and one to people."""
    if name.isascii():  # most names are; they have one form
        return name.lower().strip()
    return nfc(nfc(name).casefold()).strip()


def decode_text(content: bytes, final: bool = True, fallback_encoding: str = locale.getpreferredencoding(False)) -> str:
    """A text file of anybody's editor. `whole`: its last letter is not cut in two. `old`: what editors here once wrote.

    UTF-8 with or without its mark, also where some of it is damaged; UTF-16 with its mark; else the old one.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    text = codecs.getincrementaldecoder("utf-8-sig")("replace").decode(content, final)
    plainly = "\ufffd" not in text or any("\x7f" < letter != "\ufffd" for letter in text)
    for encoding in () if plainly else (fallback_encoding, "cp1252"):
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode(encoding)
    return text


@overload
def open_regular_file(path: Path) -> BufferedReader: ...
@overload
def open_regular_file(path: Path, buffering: Literal[0]) -> FileIO: ...
def open_regular_file(path: Path, buffering: Literal[-1, 0] = -1) -> BufferedReader | FileIO:
    """Open a regular file for reading; OSError for anything else, because opening a pipe waits for its writer."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, NOT_A_REGULAR_FILE, str(path))
    return path.open("rb", buffering=0) if buffering == 0 else path.open("rb")


def replace_with_retry(temporary: Path, target: Path) -> None:
    """Puts a finished file or folder in its place. Windows refuses while a scanner or a reader still has one open."""
    for pause in RETRY_DELAYS:
        try:
            temporary.replace(target)
            return
        except PermissionError:
            time.sleep(pause)
    temporary.replace(target)


# Files that others read are replaced whole, or not at all.


def atomic_write(path: Path, content: bytes, *, sync: bool = True) -> None:
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
            if sync:
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
