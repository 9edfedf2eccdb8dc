import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from builders import jpeg

from nccleaner.data.decoding import DecodePool
from nccleaner.data.images import ImageRejected, decode_image
from nccleaner.errors import NccleanerError
from nccleaner.records import DECODE_TIMEOUT, UNDECODABLE_IMAGE, ImageSpec, Limits

SPEC = ImageSpec(size_px=8)
LIMITS = Limits(
    max_image_pixels=1_000_000,
    max_caption_chars=1000,
    decode_timeout_s=0.5,
    max_member_bytes=1 << 24,
)
ROOT = Path(__file__).parents[2]


def obedient(data: bytes, *, spec: ImageSpec, limits: Limits) -> np.ndarray:
    """Does what the "image" says."""
    command, _, number = data.decode().partition(" ")
    if command == "reject":
        raise ImageRejected(UNDECODABLE_IMAGE, "as told")
    if command == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if command == "sleep":
        time.sleep(60)
    if command == "hang":  # as compiled code does, which no signal interrupts
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(60)
    if command == "die-sending":
        Connection._send = send_half
    if command == "fail":
        raise ZeroDivisionError
    if command == "die-once":
        try:
            Path(number).unlink()
        except FileNotFoundError:
            return np.zeros((1, 1, 3), np.uint8)
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full((1, 1, 3), int(number), np.uint8)


def send_half(self: Connection, buf: bytes) -> None:
    """Sends a part of a result and ends, as the kernel ends a process where memory is short."""
    os.write(self.fileno(), bytes(buf)[:7])
    os.kill(os.getpid(), signal.SIGKILL)


def report_worker(data: bytes, *, spec: ImageSpec, limits: Limits) -> np.ndarray:
    return np.array([[["torch" in sys.modules, int(os.environ["OMP_NUM_THREADS"])]]], np.uint8)


def fail_to_start(parent: int) -> None:
    raise ZeroDivisionError


def run(pool: DecodePool, commands: list[str | None], limits: Limits = LIMITS) -> list[object]:
    """The number of each "image", its reject reason, or None; checks that tags keep their order."""
    tagged = [(tag, None if text is None else text.encode()) for tag, text in enumerate(commands)]
    results = list(pool.decode(tagged, spec=SPEC, limits=limits))
    assert [tag for tag, _ in results] == list(range(len(commands)))
    return [
        decoded.reason
        if isinstance(decoded, ImageRejected)
        else decoded
        if decoded is None
        else int(decoded[0, 0, 0])
        for _, decoded in results
    ]


@pytest.fixture(scope="module")
def pool():
    with DecodePool(workers=2, decode=obedient) as pool:
        yield pool


@pytest.mark.parametrize("count", [0, 1, 32, 33, 300])
def test_results_come_in_order(pool, count):
    commands = [f"give {i % 256}" for i in range(count)]
    assert run(pool, commands) == [i % 256 for i in range(count)]


def test_rejects_and_gaps_keep_their_place(pool):
    commands = ["give 1", None, "reject", None, "give 2"]
    assert run(pool, commands) == [1, None, UNDECODABLE_IMAGE, None, 2]
    assert run(pool, [None] * 100) == [None] * 100


def test_inline_and_in_workers_give_the_same():
    images = [(i, jpeg(color, shape)) for i, (color, shape) in enumerate([("red", "circle")] * 3)]
    images.append((3, b"no image"))
    inline = list(DecodePool(workers=0).decode(images, spec=SPEC, limits=LIMITS))
    with DecodePool(workers=1) as pool:
        in_workers = list(pool.decode(images, spec=SPEC, limits=LIMITS))
    for (tag, expected), (other_tag, decoded) in zip(inline, in_workers, strict=True):
        assert tag == other_tag
        if isinstance(expected, ImageRejected):
            assert (decoded.reason, decoded.detail) == (expected.reason, expected.detail)
        else:
            assert np.array_equal(decoded, expected)
            assert np.array_equal(decoded, decode_image(images[tag][1], spec=SPEC, limits=LIMITS))


def test_only_the_image_that_kills_the_worker_is_rejected(pool):
    commands = [f"give {i % 256}" for i in range(200)]
    commands[70] = commands[150] = "die"
    expected = [i % 256 for i in range(200)]
    expected[70] = expected[150] = UNDECODABLE_IMAGE
    assert run(pool, commands) == expected


def test_a_death_that_no_image_caused_rejects_none(pool, tmp_path):
    marker = tmp_path / "marker"
    marker.touch()
    assert run(pool, ["give 1"] * 40 + [f"die-once {marker}"]) == [1] * 40 + [0]


def run_pids(pool: DecodePool) -> list[int]:
    assert run(pool, ["give 1"]) == [1]
    return list(pool._executor._processes)


def test_a_worker_that_dies_while_idle_is_replaced(pool):
    (worker, *_) = run_pids(pool)
    os.kill(worker, signal.SIGKILL)
    assert run(pool, ["give 7"] * 40) == [7] * 40


def test_an_image_that_takes_too_long_is_rejected_and_its_batch_is_not():
    with DecodePool(workers=1, decode=obedient) as pool:
        workers = run_pids(pool)
        assert run(pool, ["give 1", "sleep", "give 2"]) == [1, DECODE_TIMEOUT, 2]
        assert run_pids(pool) == workers, "the worker interrupted itself"


def test_a_decoder_that_no_signal_interrupts_is_killed():
    with DecodePool(workers=1, decode=obedient, grace_s=1) as pool:
        start = time.monotonic()
        assert run(pool, ["give 1", "hang", "give 2"]) == [1, DECODE_TIMEOUT, 2]
        assert time.monotonic() - start < 25


@pytest.mark.timeout(60)
def test_a_worker_that_dies_while_it_sends_is_not_waited_for():
    with DecodePool(workers=2, decode=obedient, grace_s=0.5) as pool:
        commands = [f"ok {number}" for number in range(40)]
        results = run(pool, [*commands, "die-sending 40", *commands])
    numbers = [*range(40)]
    assert results == [*numbers, DECODE_TIMEOUT, *numbers]


def test_a_bug_in_the_decoder_is_not_taken_for_a_bad_image(pool):
    with pytest.raises(ZeroDivisionError):
        run(pool, ["fail"])
    assert run(pool, ["give 1"]) == [1]


def test_workers_that_cannot_start_are_an_error_and_not_a_reject(pool, monkeypatch):
    monkeypatch.setattr("nccleaner.data.decoding._prepare_worker", fail_to_start)
    with (
        DecodePool(workers=1, decode=obedient) as broken,
        pytest.raises(NccleanerError, match="die"),
    ):
        run(broken, ["give 1"])


def test_no_more_is_read_than_is_worked_on(pool):
    read = 0

    def images():
        nonlocal read
        for number in range(1000):
            read += 1
            yield number, b"give 1"

    results = pool.decode(images(), spec=SPEC, limits=LIMITS)
    next(results)
    assert read <= 5 * 32
    results.close()
    assert run(pool, ["give 3"]) == [3], "an abandoned run leaves the pool usable"


def test_large_files_make_small_batches(pool):
    read = 0

    def images():
        nonlocal read
        for number in range(100):
            read += 1
            yield number, b"give 1" + b" " * (5 << 20)

    results = pool.decode(images(), spec=SPEC, limits=LIMITS)
    next(results)
    assert read <= 5 * 2
    results.close()


def test_workers_are_light():
    with DecodePool(workers=1, decode=report_worker) as pool:
        ((_, decoded),) = pool.decode([(0, b"")], spec=SPEC, limits=LIMITS)
    has_torch, threads = decoded[0, 0]
    assert not has_torch
    assert threads == 1


SCRIPT = """
import os, sys
from pathlib import Path
from nccleaner.data.decoding import DecodePool
from nccleaner.records import ImageSpec, Limits

print("started", flush=True)
limits = Limits(1_000_000, 1000, 5.0, 1 << 24)
with DecodePool(workers=2) as pool:
    image = Path("image.jpg").read_bytes()
    decoded = list(pool.decode([(i, image) for i in range(80)], spec=ImageSpec(8), limits=limits))
    if "die" in sys.argv:
        print(*pool._executor._processes, flush=True)
        os.kill(os.getpid(), 9)
print(len(decoded), decoded[0][1].shape)
"""


def run_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "image.jpg").write_bytes(jpeg())
    (folder / "script.py").write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, "-W", "error", "script.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_script_needs_no_guard_and_ends_without_a_word(tmp_path):
    done = run_script(tmp_path)
    assert (done.stdout, done.stderr) == ("started\n80 (8, 8, 3)\n", "")
    assert done.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child")
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    done = run_script(tmp_path, "die")
    _, workers = done.stdout.splitlines()
    assert len(workers.split()) == 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers.split()):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.1)
