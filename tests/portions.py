"""Exports in portions, for the tests of their formats."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from nccleaner.output.exports.formats import Portioned
from nccleaner.output.exports.kept import KeptPairs
from nccleaner.pipeline.engines import LocalEngine
from nccleaner.pipeline.export import write_portions
from nccleaner.pipeline.reporter import SilentReporter


class _Listening(SilentReporter):
    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress = progress

    def stage(
        self, title: str, total: int | None, unit: str
    ) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(self._progress)


def write_all(
    folder: Portioned,
    pairs: KeptPairs,
    *,
    samples_per_shard: int,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    return write_portions(
        folder, pairs, samples_per_shard, engine=LocalEngine(), reporter=_Listening(progress)
    )
