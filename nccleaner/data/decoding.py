"""Decodes images in worker processes that may die or hang without taking the run along.

In: encoded images, each with a tag. Out: the tags with the decoded images, in the same order.
Workers import what decoding needs and no torch, nor a module of the folder that they happen to be
started in, start no threads, and leave `__main__` alone, so that scripts need no
`if __name__ == "__main__"` around their use of nccleaner.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from loky import ProcessPoolExecutor

from nccleaner.allocator import keep_freed_memory
from nccleaner.data.images import ImageRejected, Pixels, decode_image
from nccleaner.errors import NccleanerError
from nccleaner.records import DECODE_TIMEOUT, UNDECODABLE_IMAGE, ImageSpec, Limits

T = TypeVar("T")
Decoded: TypeAlias = Pixels | ImageRejected

# A batch is sent to a worker at once: enough images to hide the cost of sending, bounded in bytes
# as well, so that a shard of huge files does not fill the memory.
_BATCH_IMAGES = 32
_BATCH_BYTES = 8 << 20

# Seconds within which a new process must be ready, on however busy a machine.
_START_S = 120.0

# A worker keeps the memory of an image for the next one, up to 8 million pixels.
_KEPT_BYTES = 32 << 20

_PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h

_ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONSAFEPATH"), "1"
)


class Decode(Protocol):
    """What a worker calls for each image; `images.decode_image` but in tests."""

    def __call__(self, data: bytes, *, spec: ImageSpec, limits: Limits) -> Pixels:
        """Returns the pixels or raises `ImageRejected`."""


@dataclass(slots=True)
class _Batch(Generic[T]):
    """Images on their way; `data` holds None where there is nothing to decode."""

    tags: list[T] = field(default_factory=list)
    data: list[bytes | None] = field(default_factory=list)
    size_bytes: int = 0
    future: Future[list[Decoded]] | None = None
    decoded: list[Decoded] = field(default_factory=list)

    @property
    def images(self) -> list[bytes]:
        return [image for image in self.data if image is not None]

    @property
    def is_full(self) -> bool:
        return len(self.data) >= _BATCH_IMAGES or self.size_bytes >= _BATCH_BYTES

    def add(self, tag: T, image: bytes | None) -> None:
        self.tags.append(tag)
        self.data.append(image)
        self.size_bytes += 0 if image is None else len(image)

    def results(self) -> Iterator[tuple[T, Decoded | None]]:
        decoded = iter(self.decoded)
        for tag, image in zip(self.tags, self.data, strict=True):
            yield tag, None if image is None else next(decoded)


class DecodePool:
    """Worker processes that decode images in order.

        with DecodePool(workers=4) as pool:
            for tag, decoded in pool.decode(tagged_images, spec=spec, limits=limits):
                ...

    The processes start with the first image and stay until the pool is closed. A worker that dies
    takes all others and what they were at along: those images, at most `2 * workers + 1` batches,
    are then decoded one at a time, so that the guilty one is known, and it alone is rejected.

    Args:
        workers: Processes; 0 decodes in this one, without a limit on time and without protection
            against images that crash the decoder.
        decode: Decodes one image; a function at the top level of a module.
        grace_s: Seconds beyond `Limits.decode_timeout_s` before workers are killed. A worker
            interrupts itself at the limit, but only between two calls of compiled code.
    """

    def __init__(
        self, *, workers: int, decode: Decode = decode_image, grace_s: float = 10.0
    ) -> None:
        self._workers = workers
        self._decode = decode
        self._grace_s = grace_s
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, whatever they are at; the next image would start new ones."""
        if self._executor is not None:
            _end_workers(self._executor)
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None

    def decode(
        self, images: Iterable[tuple[T, bytes | None]], *, spec: ImageSpec, limits: Limits
    ) -> Iterator[tuple[T, Decoded | None]]:
        """Decodes images while the caller works on those that came before.

        Args:
            images: Each with a tag of the caller's. They are read ahead by at most `2 * workers
                + 1` batches, whatever their number. An image of None only keeps its place.
            spec: The square that they become.
            limits: What one image may cost; `decode_timeout_s` seconds each.

        Yields:
            The tags in the order given, each with the pixels [size_px, size_px, 3], or why there
            are none, or None where the image was None.

        Raises:
            NccleanerError: The processes cannot be started.
        """
        decode = partial(self._decode, spec=spec, limits=limits)
        if self._workers == 0:
            for tag, image in images:
                yield tag, None if image is None else _decode_one(decode, image)
            return

        limit_s = limits.decode_timeout_s
        batches = _batches(images)
        window: deque[_Batch[T]] = deque()
        try:
            while True:
                while len(window) <= 2 * self._workers and (batch := next(batches, None)):
                    batch.future = self._submit(decode, batch.images, limit_s)
                    window.append(batch)
                if not window:
                    return
                if not _is_done(window[0], limit_s + self._grace_s):
                    self._decode_alone(decode, window, limit_s)
                yield from window.popleft().results()
        finally:
            for batch in window:
                if batch.future is not None:
                    batch.future.cancel()

    def _decode_alone(
        self, decode: partial[Pixels], batches: Iterable[_Batch[Any]], limit_s: float
    ) -> None:
        """Decodes the unfinished batches image by image, after a worker died or hung."""
        unfinished = [batch for batch in batches if not _is_done(batch, 0)]
        self.close()
        for batch in unfinished:
            batch.decoded = [self._decode_suspect(decode, image, limit_s) for image in batch.images]
            batch.future = None

    def _decode_suspect(self, decode: partial[Pixels], image: bytes, limit_s: float) -> Decoded:
        """Decodes an image while no other is being decoded."""
        future = self._submit(decode, [image], limit_s)
        finished, _ = wait([future], limit_s + self._grace_s)
        if not finished:
            self.close()
            return _timed_out(limit_s)
        try:
            (decoded,) = future.result()
        except BrokenExecutor:
            self.close()
            return ImageRejected(UNDECODABLE_IMAGE, "the decoder died")
        return decoded

    def _submit(
        self, decode: partial[Pixels], images: list[bytes], limit_s: float
    ) -> Future[list[Decoded]]:
        if self._executor is None:
            self._start(decode)
        assert self._executor is not None
        try:
            future: Future[list[Decoded]] = self._executor.submit(
                _decode_batch, decode, images, limit_s
            )
        except BrokenExecutor:  # a worker died since; what it was at is found out by `_is_done`
            self.close()
            return self._submit(decode, images, limit_s)
        return future

    def _start(self, decode: partial[Pixels]) -> None:
        """Starts the processes, and waits for one of them to be ready."""
        # loky warns, from a thread of its own, when it replaces a worker that grew, and where it
        # cannot list the children of a worker that it kills; neither is of use to anybody.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"loky\.")
        self._executor = ProcessPoolExecutor(
            self._workers, initializer=_prepare_worker, initargs=(os.getpid(),), env=_ENVIRONMENT
        )
        ready = self._executor.submit(_decode_batch, decode, [], _START_S)
        # Were they unable to start, every image would look guilty.
        if not _is_done(_Batch(future=ready), _START_S):
            self.close()
            raise NccleanerError(
                "The processes that decode images die, or do not answer, without an image.",
                "Look for a limit on memory or processes, or decode without them: 0 workers.",
            )


def _end_workers(executor: ProcessPoolExecutor) -> None:
    """Kills the processes, and lets nobody wait for what one of them has begun to send.

    A worker that is killed while it sends leaves half a message. loky, and who shuts it down, would
    wait for the other half as long as a process has the pipe open: another worker, or this one.
    """
    for process in list((executor._processes or {}).values()):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    if executor._result_queue is not None:
        executor._result_queue._writer.close()


def _batches(images: Iterable[tuple[T, bytes | None]]) -> Iterator[_Batch[T]]:
    batch: _Batch[T] = _Batch()
    for tag, image in images:
        batch.add(tag, image)
        if batch.is_full:
            yield batch
            batch = _Batch()
    if batch.tags:
        yield batch


def _is_done(batch: _Batch[Any], timeout_s: float) -> bool:
    """Waits for a batch; False if it does not come: its worker hangs, or a worker died."""
    if batch.future is None:
        return True
    finished, _ = wait([batch.future], timeout_s)
    if not finished:
        return False
    try:
        batch.decoded = batch.future.result()
    except BrokenExecutor:
        return False
    batch.future = None
    return True


class _TimeIsUpError(BaseException):
    """Not an `Exception`, lest a parser takes it for damage in the file."""


def _prepare_worker(parent: int) -> None:
    """Runs once in each worker; `parent` is the process id of its parent."""
    keep_freed_memory(block_bytes=_KEPT_BYTES)
    signal.signal(signal.SIGALRM, _raise_time_is_up)
    # Ctrl-C reaches the whole group of processes; the parent ends the workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that is killed cannot; without this its workers would wait for it for ever.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _raise_time_is_up(_signal: int, _frame: FrameType | None) -> None:
    raise _TimeIsUpError


def _decode_batch(decode: partial[Pixels], images: list[bytes], limit_s: float) -> list[Decoded]:
    """Runs in a worker."""
    return [_decode_in_time(decode, image, limit_s) for image in images]


def _decode_in_time(decode: partial[Pixels], image: bytes, limit_s: float) -> Decoded:
    try:
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            return _decode_one(decode, image)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeIsUpError:
        return _timed_out(limit_s)


def _decode_one(decode: partial[Pixels], image: bytes) -> Decoded:
    try:
        return decode(image)
    except ImageRejected as rejected:
        # Its traceback, and with it the frames of the decoder, would live as long as the result.
        return rejected.with_traceback(None)


def _timed_out(limit_s: float) -> ImageRejected:
    return ImageRejected(DECODE_TIMEOUT, f"not decoded within {limit_s:g} seconds")
