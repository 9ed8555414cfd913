"""Bytes to text and back: encodings, line numbers, gzip, and files that appear whole or not at all.

Knows nothing of what the text means.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, cast

from nomina.environment import give_usual_rights
from nomina.errors import DataError

MAX_LINE_BYTES = 64 * 2**20  # a longer "line" is not a record, but a file without line breaks
_BLOCK_BYTES = 2**20
_WIDE_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class BadLine(NamedTuple):
    """A line that is not UTF-8; its reader knows which record it is a part of."""

    number: int
    reason: str


def take_bad_line(bad: deque[BadLine], last: int) -> BadLine | None:
    """Take the bad lines up to a number away, and return the first of them."""
    first = bad[0] if bad and bad[0].number <= last else None
    while bad and bad[0].number <= last:
        bad.popleft()
    return first


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading; gzip is unpacked, recognised by its content.

    Raises:
        DataError: If there is no such file, or it is a folder.
    """
    try:
        file = path.open("rb")
        is_packed = file.peek(2)[:2] == b"\x1f\x8b"  # not read: a pipe has no way back
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return cast(BinaryIO, _Unpacked(file)) if is_packed else file


class _Unpacked(gzip.GzipFile):
    """What is packed in a file, which is closed with it."""

    def __init__(self, packed: BinaryIO) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()


def check_is_file(path: Path, advice: str) -> None:
    """Check that a file can be read more than once.

    Raises:
        DataError: If it is a pipe or a device: what was read of it is gone.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is a pipe or a device, and can be read only once. {advice}")


def read_head(path: Path, num_bytes: int = 2**16) -> bytes:
    """Return the first bytes of a file, unpacked.

    Raises:
        DataError: If the file cannot be read.
    """
    with open_bytes(path) as file:
        try:
            return file.read(num_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be unpacked: {error}") from error


def read_lines(
    path: Path, bad: deque[BadLine], keep_ends: bool = False
) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a UTF-8 file with their numbers, from 1.

    A byte order mark is left out. Lines end at `\n` or `\r\n`; other line separators of Unicode
    are part of the line.

    Args:
        path: The file; may be gzipped.
        bad: Takes a line that is not UTF-8 before it is yielded with backslashes, for the reader
            to set its record aside.
        keep_ends: Whether the line break stays on the line.

    Raises:
        DataError: If the file is binary or cannot be read, or if a line is longer than
            `MAX_LINE_BYTES`.
    """
    for number, text in read_blocks(path, bad):
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        if keep_ends:
            yield from enumerate([line + "\n" for line in lines], start=number)
        elif "\r" in text:
            yield from enumerate([line.removesuffix("\r") for line in lines], start=number)
        else:
            yield from enumerate(lines, start=number)


def read_blocks(path: Path, bad: deque[BadLine]) -> Iterator[tuple[int, str]]:
    """Yield a UTF-8 file as blocks of whole lines, each with the number of its first line.

    What `read_lines` yields, before it is cut: readers that know how to cut many lines at once are
    several times faster.

    Args:
        path: The file; may be gzipped.
        bad: As in `read_lines`; such a line is a block of its own.

    Raises:
        DataError: As `read_lines`.
    """
    number = 1
    with open_bytes(path) as file:
        while data := _read_block(file, path, number - 1):
            if number == 1:
                check_is_text(path, data)
                data = data.removeprefix(b"\xef\xbb\xbf")
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                for index, line in _decode_each(data, number, bad):
                    yield index, line + "\n"
                number += data.removesuffix(b"\n").count(b"\n") + 1
                continue
            if text:
                yield number, text
            number += text.count("\n")


def _read_block(file: BinaryIO, path: Path, number: int) -> bytes:
    """Read some whole lines at once: much faster than line by line."""
    try:
        data = file.read(_BLOCK_BYTES)
        if data and not data.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
            if len(rest) > MAX_LINE_BYTES:
                number += data.count(b"\n")
                raise DataError(
                    f"{path}:{number + 1}: the line is longer than "
                    f"{MAX_LINE_BYTES // 2**20} MiB. Expected one record a line; is this the right "
                    "format (--from)?"
                )
            data += rest
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot be unpacked: {error}") from error
    return data


def _decode_each(data: bytes, number: int, bad: deque[BadLine]) -> Iterator[tuple[int, str]]:
    """Yield lines of which some are not UTF-8, with their numbers."""
    for index, line in enumerate(data.removesuffix(b"\n").split(b"\n"), start=number):
        try:
            yield index, line.decode("utf-8")
        except UnicodeDecodeError as error:
            bad.append(BadLine(index, _not_utf8(error)))
            yield index, line.decode("utf-8", "backslashreplace")


def read_text(path: Path) -> str:
    """Return a whole UTF-8 file as it stands, line breaks included, without a byte order mark.

    Raises:
        DataError: If the file cannot be read, is binary or not UTF-8; names line and column.
    """
    with open_bytes(path) as file:
        try:
            data = file.read()
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be unpacked: {error}") from error
    check_is_text(path, data)
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: {_not_utf8(error)}") from error


def check_is_text(path: Path, data: bytes) -> None:
    """Check the beginning of a file.

    Raises:
        DataError: If it is UTF-16 or binary.
    """
    if data[:2] in _WIDE_MARKS:
        raise DataError(
            f"{path}:1: the file is UTF-16. Save it as UTF-8, "
            f"or run: iconv -f UTF-16 -t UTF-8 {path.name}"
        )
    zero = data.find(b"\0", 0, 2**20)
    if zero >= 0:
        raise DataError(f"{path}: is a binary file (byte {zero} is zero). Expected text in UTF-8.")


def check_writable(text: str, path: Path, place: str) -> None:
    """Check that a text can stand in a plain text file.

    Raises:
        DataError: If it has a NUL character: the file would be taken for a binary one.
    """
    if "\0" in text:
        raise DataError(
            f"{path}: {place}: the text has a NUL character (position {text.index(chr(0))}), which "
            "a plain text file cannot hold. Write JSON lines (--to nomina)."
        )


def _not_utf8(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    column = error.start - error.object.rfind(b"\n", 0, error.start)
    return (
        f"byte {byte:#04x} in column {column} is not UTF-8 ({error.reason}). Expected UTF-8; "
        "if the file is in an older encoding, run: iconv -f WINDOWS-1252 -t UTF-8"
    )


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that takes its name only when it is complete; `.gz` is packed.

    Raises:
        DataError: If the file cannot be written, or a text has a character that UTF-8 lacks.
    """
    with write_whole_path(path) as temporary, contextlib.ExitStack() as stack:
        if path.suffix == ".gz":
            file = stack.enter_context(gzip.open(temporary, "wt", encoding="utf-8", newline=""))
        else:
            file = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
        try:
            yield cast(IO[str], file)
        except UnicodeEncodeError as error:
            raise DataError(
                f"{path}: a text has half a surrogate pair ({error.object[error.start]!r}), which "
                "no UTF-8 file can hold. Repair the text where it comes from."
            ) from error


@contextlib.contextmanager
def write_whole_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its name at the end, if nothing was raised.

    A link stays a link, and what is no file (a pipe, a device) is written to as it is.

    Raises:
        DataError: If the folder does not exist or cannot be written to.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    path = Path(os.path.realpath(path))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
    os.close(handle)
    try:
        yield Path(name)
        give_usual_rights(Path(name))
        os.replace(name, path)
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder. Give the name of a file.") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


@contextlib.contextmanager
def write_whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the name `path` at the end, if nothing was raised.

    Raises:
        DataError: If `path` exists and is not an empty folder, or cannot be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise DataError(f"{path}: exists already. Give the name of a new or an empty folder.")
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield temporary
        give_usual_rights(temporary)
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
