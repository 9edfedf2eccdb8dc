from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import loky
import pytest
import torch

from nccleaner.errors import RunError
from nccleaner.pipeline.engines import Advance, LocalEngine, Work

UNITS = 50


@dataclass
class Meeting:
    """Squares numbers; an even one and the next odd one wait for each other where threads may.

    Attributes:
        fails: The number that fails.
        done: What was done, in that order.
    """

    in_threads: bool = True
    fails: int | None = None
    done: list[int] = field(default_factory=list)
    device = None
    folders: tuple[Path, ...] = ()

    def name(self, item: int) -> str:
        return f"number {item}"

    @contextmanager
    def open(self) -> Iterator[Work[int, int]]:
        barrier = threading.Barrier(2, timeout=60)

        def square(item: int, advance: Advance) -> int:
            if item == self.fails:
                raise RunError("Five.", "Take six.")
            if self.in_threads:
                barrier.wait()
            time.sleep(0.002 * (item % 2 == 0))  # the odd ones would be first
            for _ in range(UNITS):
                advance(1)
            self.done.append(item)
            return item**2

        yield square


class Counter:
    """A count that is wrong as soon as two threads add to it at once."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, count: int) -> None:
        seen = self.count
        time.sleep(1e-6)
        self.count = seen + count


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loky, "cpu_count", lambda: 2)


def test_threads_do_items_at_once_and_results_come_in_order() -> None:
    job, counter = Meeting(), Counter()
    assert list(LocalEngine().run(job, range(20), counter)) == [i**2 for i in range(20)]
    assert counter.count == 20 * UNITS


def test_a_job_for_one_thread_does_one_item_after_the_other() -> None:
    job, counter = Meeting(in_threads=False), Counter()
    assert list(LocalEngine().run(job, range(6), counter)) == [i**2 for i in range(6)]
    assert job.done == list(range(6))
    assert counter.count == 6 * UNITS


def test_networks_compute_with_one_thread_where_items_are_done_at_once() -> None:
    before, counts, barrier = torch.get_num_threads(), [], threading.Barrier(2, timeout=60)

    class Counting(Meeting):
        device = "cpu"

        @contextmanager
        def open(self) -> Iterator[Work[int, int]]:
            def count(item: int, advance: Advance) -> int:
                barrier.wait()
                counts.append((threading.get_ident(), torch.get_num_threads()))
                return item

            yield count

    torch.set_num_threads(2)
    try:
        assert list(LocalEngine().run(Counting(), range(6), Counter())) == list(range(6))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len({thread for thread, _ in counts}) == 2
    assert {threads for _, threads in counts} == {1}


def test_an_error_in_a_thread_ends_the_job() -> None:
    job = Meeting(fails=0)
    with pytest.raises(RunError, match="Five"):
        list(LocalEngine().run(job, [0], Counter()))
    assert job.done == []
    results = LocalEngine().run(Meeting(fails=4), [*range(4), 4], Counter())
    assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
    with pytest.raises(RunError, match="Five"):
        next(results)


def test_what_is_being_done_ends_when_the_job_ends_before_its_time() -> None:
    finished, barrier = [], threading.Barrier(2, timeout=60)

    class Long(Meeting):
        @contextmanager
        def open(self) -> Iterator[Work[int, int]]:
            def wait(item: int, advance: Advance) -> int:
                barrier.wait()
                if item == 0:
                    raise RunError("Zero.", "Take one.")
                for _ in range(600):
                    time.sleep(0.1)
                    advance(1)
                finished.append(item)
                return item

            yield wait

    start = time.monotonic()
    with pytest.raises(RunError, match="Zero"):
        list(LocalEngine().run(Long(), range(2), Counter()))
    assert time.monotonic() - start < 30
    assert finished == []


def test_results_wait_for_who_takes_them() -> None:
    job = Meeting()
    results = LocalEngine().run(job, range(100), Counter())
    next(results)
    time.sleep(0.3)
    assert len(job.done) <= 5  # of two threads twice as many, and the one that was taken
    results.close()  # type: ignore[attr-defined]
    assert len(job.done) <= 5
