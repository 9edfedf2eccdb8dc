"""Opens files wherever fsspec reaches, with nccleaner's errors instead of each storage's own.

A URL goes in; a seekable binary file comes out, or a `ShardError` that says what the storage said.
Damage inside a file is not looked at here.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import fsspec

from nccleaner.errors import ShardError

BUFFER_BYTES = 1 << 20

# What fsspec sees a chain of storages in, for example `simplecache::s3://bucket/00000.tar`.
_CHAIN = "::"

_ABSENT_STATUSES = (403, 404, 410)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns whatever a storage raises into a `ShardError` about `url`."""
    try:
        yield
    except ShardError:
        raise
    # Every storage raises the errors of its own client: aiohttp's, botocore's, OSError.
    except Exception as error:
        # fsspec answers any failure over HTTP with FileNotFoundError; the cause says what it was.
        cause = error.__cause__ or error
        raise ShardError(
            f"{url} cannot be read: {type(cause).__name__}: {cause}.",
            "Check that it exists, that it may be read, and that the storage answers.",
        ) from error


def is_http(url: str) -> bool:
    """Whether `url` is on a web server, which can neither list nor (always) seek."""
    return url.startswith(("http://", "https://"))


def refuse_chain(url: str) -> None:
    """Refuses a URL by which fsspec would reach one storage through another.

    Names of shards come from listings and from run directories, which strangers may have made. With
    `::` in it, a name becomes a chain, and that may end in the files of this machine.

    Raises:
        ShardError: It is such a chain.
    """
    if _CHAIN in url:
        raise ShardError(
            f"{url} is a chain of storages, as it holds {_CHAIN}; those are not opened.",
            "Name the storage itself, without a cache before it; unpack an archive that holds "
            "shards; rename a file that is called so.",
        )


def locate(url: str) -> tuple[Any, str]:
    """Resolves `url` to an fsspec file system and the path in it.

    Raises:
        ShardError: It is a chain of storages, or there is no such storage.
    """
    refuse_chain(url)
    options = {}
    if is_http(url):
        from aiohttp import ClientTimeout

        # aiohttp's own limit of five minutes for a whole request is too short for a large shard.
        options["client_kwargs"] = {"timeout": ClientTimeout(total=None, sock_read=120)}
    with storage_errors(url):
        fs, path = fsspec.core.url_to_fs(url, **options)
    return fs, path


def open_binary(url: str) -> io.BufferedReader:
    """Opens `url` for reading, seekable.

    A file on a web server is first copied to an unnamed temporary file: servers may know no ranges,
    and close a connection on which features are computed between two reads.

    Raises:
        ShardError: If the storage fails, here or in any later read of the file.
    """
    fs, path = locate(url)
    with storage_errors(url), ExitStack() as on_failure:
        if is_http(url):
            file = on_failure.enter_context(tempfile.TemporaryFile())
            fs.get_file(path, file)
            file.seek(0)
            on_failure.pop_all()
        else:
            file = fs.open(path, "rb")
    return io.BufferedReader(_StorageFile(file, url), BUFFER_BYTES)


def list_folder(fs: Any, path: str) -> list[dict[str, Any]]:
    """Lists what is in a folder: fsspec's `name`, `type`, `size` and more of each.

    Raises:
        ShardError: If the storage fails.
    """
    with storage_errors(path):
        entries = fs.ls(path, detail=True)
    # Object stores list a folder among what it holds.
    return [entry for entry in entries if entry["name"].rstrip("/") != path.rstrip("/")]


def file_info(fs: Any, path: str) -> dict[str, Any] | None:
    """What fsspec tells of a file; None where there is none.

    Raises:
        ShardError: If the storage fails.
    """
    with storage_errors(path):
        try:
            entry: dict[str, Any] = fs.info(path)
        except FileNotFoundError as error:
            # Over HTTP any failure is this one. Public buckets answer 403 for what is not there.
            if getattr(error.__cause__, "status", 404) in _ABSENT_STATUSES:
                return None
            raise
    return entry if entry["type"] != "directory" else None


def read_bytes(url: str) -> bytes:
    """Reads the whole of `url`.

    Raises:
        ShardError: If the storage fails.
    """
    fs, path = locate(url)
    with storage_errors(url):
        return bytes(fs.cat_file(path))


class _StorageFile(io.RawIOBase):
    """A file whose failures are `ShardError`s, so that they are not taken for damaged content."""

    def __init__(self, file: IO[bytes], url: str) -> None:
        self._file = file
        self._url = url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        with storage_errors(self._url):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any, /) -> int:
        with storage_errors(self._url):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
