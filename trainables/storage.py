"""Where bytes lie: in a folder (local, NFS) or under a prefix of an S3-style store, `s3://bucket/prefix`. The only place that knows.

A place in a folder is a pathlib.Path, as ever. One in a store is a StorePath, which has those methods of a Path that a storage needs, so
that nobody above asks which of the two it has. What the two guarantee alike: a file that `write_atomically` returned from is complete
and stored, a reader sees the old one or the new one, and a storage that is gone for some seconds is waited for."""

from __future__ import annotations

import errno
import fnmatch
import io
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from trainables.errors import StorageError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""How long a storage that does not answer is waited for."""

MOST_NAME_BYTES = 200
"""Of a name that files are made of. File systems take 255, and `.removing-NAME` or NAME-t0003-e12.safetensors are longer."""
MOST_FILE_NAME_BYTES, MOST_PATH_BYTES = 255, 4095

_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNRESET}
REFUSED_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_PASSING_WORDS = re.compile(r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING|HTTP status (5\d\d|429)")
_PLAIN_NAME = re.compile(r"[^./\\:\x00-\x1f][^/\\:\x00-\x1f]*")
_Result = TypeVar("_Result")


class Stat(NamedTuple):
    """What is known of a stored file, under the names of os.stat_result."""

    st_size: int
    st_mtime: float  # by the store's clock


class StorePath:
    """A key of an S3-style store, or the prefix of many. There are no folders in a store: a prefix is one while something is below it.

    The endpoint is $AWS_ENDPOINT_URL or, like the region, in the query: s3://bucket/prefix?endpoint_override=...&scheme=http&region=...
    Keys are the environment's ($AWS_ACCESS_KEY_ID ..., a profile, the machine's role), never the address's: what is no secret can be printed."""

    def __init__(self, uri: str) -> None:
        """Raises:
        StorageError: no bucket, credentials in the address, or a query that pyarrow does not know."""
        parts = urlsplit(uri)
        if "@" in uri.partition("?")[0] or ":" in parts.netloc:  # a secret may have a slash, and then end the netloc; do not repeat it
            raise StorageError(
                "An address is printed and recorded, so it holds no credentials and has no `@`, but the one that was given does. "
                "Use s3://bucket/prefix, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        if parts.scheme != "s3" or not parts.netloc:
            raise StorageError(f"A storage is a folder or s3://bucket/prefix, but it is {uri!r}.")
        self._bucket, self._query = parts.netloc, parts.query
        self._parts = tuple(part for part in parts.path.split("/") if part)
        if ".." in self._parts:
            raise StorageError(f"An address of a store has no `..`, but it is {uri!r}.")

    # ---- names, without a request

    def __truediv__(self, below: str | os.PathLike[str]) -> StorePath:
        return self._with((*self._parts, *(part for part in str(below).split("/") if part)))

    def __str__(self) -> str:
        return f"s3://{self.key}" + (f"?{self._query}" if self._query else "")

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __lt__(self, other: StorePath) -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def key(self) -> str:
        """Bucket and key, as pyarrow's filesystem takes them."""
        return "/".join((self._bucket, *self._parts))

    @property
    def name(self) -> str:
        return self._parts[-1] if self._parts else self._bucket

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def parent(self) -> StorePath:
        return self._with(self._parts[:-1])

    def with_name(self, name: str) -> StorePath:
        return self.parent / name

    def absolute(self) -> StorePath:
        return self

    resolve = absolute

    # ---- requests

    @property
    def filesystem(self) -> FileSystem:
        return _filesystem(self._bucket, self._query)

    def exists(self) -> bool:
        return self._info().type.name != "NotFound"

    def is_file(self) -> bool:
        return self._info().type.name == "File"

    def is_dir(self) -> bool:
        return self._info().type.name == "Directory"

    def stat(self) -> Stat:
        """Raises:
        FileNotFoundError: there is no such file."""
        info = self._info()
        if info.type.name != "File":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return _stat(info)

    def iterdir(self) -> Iterator[StorePath]:
        yield from (path for path, _ in self.children())

    def children(self) -> list[tuple[StorePath, Stat]]:
        """What is directly below, files and prefixes, by name; of one listing."""
        return sorted(((self / info.base_name, _stat(info)) for info in self._listing(recursive=False)), key=lambda child: child[0].name)

    def folders(self) -> list[StorePath]:
        """The prefixes directly below, but hidden ones, by name; of one listing."""
        found = [info.base_name for info in self._listing(recursive=False) if info.type.name == "Directory"]
        return sorted(self / name for name in found if not name.startswith("."))

    def glob(self, pattern: str) -> Iterator[StorePath]:
        """As of Path, one level for each part of the pattern; `*` alone is a wildcard."""
        first, _, rest = pattern.partition("/")
        found = (child for child in self.iterdir() if fnmatch.fnmatchcase(child.name, first)) if "*" in first else iter([self / first])
        for child in found:
            if rest:
                yield from child.glob(rest)
            elif "*" in first or child.exists():
                yield child

    def rglob(self, pattern: str) -> Iterator[StorePath]:
        """Everything below whose name has the pattern, of one listing."""
        for info in self._listing(recursive=True):
            if fnmatch.fnmatchcase(info.base_name, pattern):
                yield self / info.path.removeprefix(self.key)

    def read_bytes(self) -> bytes:
        return self._patiently(self._read)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """To be read, from memory."""
        assert mode == "rb", mode  # written is with write_bytes alone, which is at once
        return io.BytesIO(self.read_bytes())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """One object at once: nobody sees half of it."""
        self._patiently(lambda: self._put(content))

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.write_bytes(text.encode(encoding))

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._patiently(lambda: self.filesystem.delete_file(self.key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Nothing to do: prefixes come and go with what is below them."""

    # ---- private

    def _with(self, parts: tuple[str, ...]) -> StorePath:
        made = object.__new__(StorePath)
        made._bucket, made._query, made._parts = self._bucket, self._query, parts
        return made

    def _patiently(self, do: Callable[[], _Result]) -> _Result:
        return patiently(do, str(self))

    def _info(self) -> FileInfo:
        return self._patiently(lambda: self.filesystem.get_file_info(self.key))

    def _listing(self, *, recursive: bool) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        return self._patiently(lambda: self.filesystem.get_file_info(FileSelector(self.key, allow_not_found=True, recursive=recursive)))

    def _read(self) -> bytes:
        with self.filesystem.open_input_stream(self.key) as stream:
            return stream.read()

    def _put(self, content: bytes) -> None:
        # Leaving the block completes the upload whatever happened inside, so nothing but one write may happen there.
        with self.filesystem.open_output_stream(self.key) as stream:
            stream.write(content)


Place = Path | StorePath


def place(where: str | os.PathLike[str] | StorePath) -> Place:
    """The place of that name.

    Raises:
        StorageError: an address that is neither a folder nor of a store that is known, or longer than any file system takes."""
    if isinstance(where, StorePath):
        return where
    if isinstance(where, str) and "://" in where:
        return StorePath(where)
    path = home_expanded(where)
    _require_short(path)
    return path


def home_expanded(path: str | os.PathLike[str]) -> Path:
    """The path with a leading `~` or `~user` replaced by that home; as it is where there is none.

    Shells leave `~` alone in `--storage=~/sweeps` and in `--set subject=~/photos`."""
    return Path(os.path.expanduser(path))  # Path.expanduser raises for a user that there is not


def require_plain_name(name: str, what: str) -> str:
    """The name, which becomes that of one file or folder in a storage and must not lead out of it.

    Raises:
        StorageError: it does, or it is longer than MOST_NAME_BYTES."""
    if not _PLAIN_NAME.fullmatch(name):
        raise StorageError(
            f"{what} names files, so it has no slash, backslash or colon and begins with no dot, but it is "
            f"{_shortened(name)!r}. Rename it."
        )
    if (n_bytes := len(os.fsencode(name))) > MOST_NAME_BYTES:
        raise StorageError(
            f"{what} names files, so it has at most {MOST_NAME_BYTES} bytes, but {_shortened(name)!r} has {n_bytes}. "
            "Use a shorter one."
        )
    return name


def _require_short(path: Path) -> None:
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > MOST_FILE_NAME_BYTES or len(os.fsencode(path)) > MOST_PATH_BYTES:
        raise StorageError(
            f"A path has at most {MOST_PATH_BYTES} bytes, and each name in it at most {MOST_FILE_NAME_BYTES}, but "
            f"{_shortened(str(path))!r} has {len(os.fsencode(path))} and {longest}. Use a shorter one."
        )


def _shortened(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:40]}...{name[-10:]}"


def write_atomically(path: Place, write: Callable[[IO[bytes]], Any], *, last_in_folder: bool = True) -> None:
    """The file at `path`, complete and stored when this returns. A reader sees the old one or the new one.

    Of several files in one folder, only the last need make the renames last: last_in_folder=False saves the rest of them.

    Raises:
        OSError: it cannot be written; nothing is left behind."""
    if isinstance(path, StorePath):
        buffer = io.BytesIO()
        write(buffer)
        path.write_bytes(buffer.getvalue())
    else:
        patiently(lambda: _write_and_rename(path, write, last_in_folder), str(path))


def folders_in(folder: Place) -> list[Place]:
    """The folders directly below, but hidden ones, by name; none where it is not there."""
    if isinstance(folder, StorePath):
        return folder.folders()
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def bytes_in(folder: Place) -> int:
    """What the files directly below take."""
    if isinstance(folder, StorePath):
        return sum(stat.st_size for _, stat in folder.children())
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)


def remove_tree(folder: Place) -> None:
    """Forget a folder and all that is in it. One that is not there is no error."""
    if isinstance(folder, StorePath):
        for file in [path for path in folder.rglob("*") if path.is_file()]:
            file.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def patiently(
    do: Callable[[], _Result], where: str, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> _Result:
    """What `do` returns, tried again for PATIENCE_S while the storage does not answer. A full disk, or a refusal, is not waited for.

    Raises:
        OSError: as `do` does, in one line."""
    started, wait_s = clock(), 0.5
    while True:
        try:
            result = do()
        except OSError as error:
            if not _is_passing(error) or clock() - started >= PATIENCE_S:
                raise _in_one_line(error) from error
            if wait_s == 0.5:
                logger.warning(f"{where} does not answer ({reason_of(error)}); trying again for {PATIENCE_S:.0f} s")
            sleep(wait_s)
            wait_s = min(2 * wait_s, 8.0)
        else:
            if wait_s > 0.5:
                logger.warning(f"{where} answers again after {clock() - started:.0f} s")
            return result


def refused_write(error: BaseException | None) -> OSError | None:
    """The refusal behind an error of a disk that is full, over its quota or read-only: nothing can be written until somebody makes room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in REFUSED_WRITES:
            return error
        error = error.__cause__
    return None


def line_of(error: OSError) -> str:
    """One line for an error that nothing below has put into words: the file, what happened, and the way out."""
    named = error.filename if isinstance(error.filename, (str, bytes, os.PathLike)) else None
    file = "a file or folder" if named is None else _shortened_path(os.fsdecode(named))
    way_out = {
        errno.EACCES: "Change its permissions, or use another place.",
        errno.EPERM: "Change its permissions, or use another place.",
        errno.EROFS: "Use another place.",
        errno.ENOSPC: "Make room.",
        errno.EDQUOT: "Make room.",
        errno.ENOENT: "Check the spelling.",
        errno.ENOTDIR: "Check the spelling.",
        errno.ENAMETOOLONG: "Use a shorter name.",
    }.get(error.errno or 0, "Check that it is what its name says, and its disk.")
    return f"Files must be usable, but {file} is not: {reason_of(error)}. {way_out}"


def reason_of(error: OSError) -> str:
    """What happened, without the numbers that only a store's operator could use."""
    if error.strerror and not error.strerror.startswith("[Errno"):
        return error.strerror
    text = re.sub(r"\s*\(Request ID: [^)]*\)|; Details: .*|AWS Error \w+ during |curlCode: \d+, ", "", str(error))
    return " ".join(text.split()).rstrip(".")


# ---- private


def _shortened_path(path: str) -> str:
    return path if len(path) <= 300 else f"{path[:120]}...{path[-60:]}"


def _filesystem(bucket: str, query: str) -> FileSystem:
    # Looked up each time, as a path travels to other processes and its filesystem need not.
    if (bucket, query) not in _FILESYSTEMS:
        import pyarrow as pa
        from pyarrow.fs import FileSystem

        # The region is asked of the bucket's endpoint, so a store that is away is waited for here, too. Small objects are one PUT.
        uri = f"s3://{bucket}?{query}&allow_delayed_open=true" if query else f"s3://{bucket}?allow_delayed_open=true"
        try:
            _FILESYSTEMS[bucket, query] = patiently(lambda: FileSystem.from_uri(uri)[0], f"s3://{bucket}")
        except (pa.ArrowInvalid, OSError) as error:
            raise StorageError(f"A store's address must be one that pyarrow can open, but s3://{bucket} is not: {str(error).splitlines()[0]}.") from error
    return _FILESYSTEMS[bucket, query]


_FILESYSTEMS: dict[tuple[str, str], Any] = {}


def _stat(info: FileInfo) -> Stat:
    return Stat(info.size or 0, info.mtime.timestamp() if isinstance(info.mtime, datetime) else 0.0)


def _is_passing(error: OSError) -> bool:
    return error.errno in _PASSING or (error.errno is None and bool(_PASSING_WORDS.search(str(error))))


def _in_one_line(error: OSError) -> OSError:
    if error.errno is not None:
        return error
    return OSError(errno.EIO, reason_of(error)) if _is_passing(error) else OSError(errno.EACCES, reason_of(error))


def _write_and_rename(path: Path, write: Callable[[IO[bytes]], Any], last_in_folder: bool) -> None:
    # The dot hides it from readers; pyarrow and glob("*.parquet") of ours pass it over.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if last_in_folder:
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True) if _exists(temporary) else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    """Make the renames in it last over a crash of the machine; some network file systems refuse it, and then it is not needed."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
