"""Files that disappear or change between two reads, and decoders that the kernel kills."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from builders import jpeg
from PIL import Image
from smallfit import Clipart, read_clipart, tiny

import nccleaner
from nccleaner.data.decoding import DecodePool
from nccleaner.data.images import ImageRejected, decode_image
from nccleaner.errors import NccleanerError, RunError, ShardError
from nccleaner.records import UNDECODABLE_IMAGE, ImageSpec, Limits

SPEC = ImageSpec(size_px=8)
LIMITS = Limits(
    max_image_pixels=10**9, max_caption_chars=100, decode_timeout_s=20, max_member_bytes=1 << 24
)


class At:
    """A reporter that does something once, in a stage whose title starts so, after some progress.

    Args:
        title: How the title starts.
        after: Units that are done before.
        act: What it does.
    """

    def __init__(self, title: str, after: int, act: Callable[[], object]) -> None:
        self._title, self._after, self._act = title, after, act
        self.acted = False

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str):
        """Watches the stage."""
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if title.startswith(self._title) and not self.acted and done >= self._after:
                self.acted = True
                self._act()

        advance(0)
        yield advance

    def note(self, text: str) -> None:
        """Hears nothing."""

    def warn(self, text: str) -> None:
        """Hears nothing."""


@pytest.fixture(scope="module")
def clipart() -> Clipart:
    return read_clipart()


@pytest.fixture(scope="module")
def fitted(clipart, tmp_path_factory) -> Path:
    """Shards, a trusted file, and a run that was purged; and what was exported of it."""
    folder = tmp_path_factory.mktemp("fitted")
    clipart.write_shards(folder / "shards")
    clipart.write_trusted(folder / "trusted.csv")
    nccleaner.fit(folder / "shards", meta=folder / "trusted.csv", run=folder / "run", config=tiny())
    nccleaner.purge(folder / "run")
    nccleaner.export(folder / "run", folder / "exported", samples_per_shard=40)
    return folder


@pytest.fixture
def work(fitted, tmp_path) -> Path:
    """A copy, whose runs know the shards where they were first."""
    return shutil.copytree(fitted, tmp_path / "work")


@pytest.fixture
def shard(fitted):
    """The second shard, which is back afterwards."""
    path = fitted / "shards" / "00001.tar"
    aside = path.with_suffix(".aside")
    shutil.copy2(path, aside)
    yield path
    aside.replace(path)


def outcome(folder: Path) -> dict[str, bytes]:
    """Scores, manifests and rejects."""
    run = folder / "run"
    kinds = ("scores", "clean/manifest", "clean/rejected")
    found = {
        f"{kind}/{path.name}": path.read_bytes()
        for kind in kinds
        for path in sorted((run / kind).iterdir())
    }
    assert not list(folder.rglob(".nccleaner-tmp-*"))
    assert len(found) == 6
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2048])


@pytest.mark.parametrize("change", [Path.unlink, cut], ids=["gone", "changed"])
def test_a_shard_that_goes_between_the_survey_and_its_extraction(
    fitted, work, shard, clipart, change
):
    run = work / "new"
    watch = At("Extracting", 1, lambda: change(shard))
    arguments = {"meta": fitted / "trusted.csv", "run": run, "config": tiny()}
    with pytest.raises(ShardError, match="00001") as caught:
        nccleaner.fit(fitted / "shards", **arguments, reporter=watch)
    assert watch.acted
    assert caught.value.next_step
    assert [path.name for path in (run / "features").iterdir()] == ["00000"]

    shutil.copy2(shard.with_suffix(".aside"), shard)
    result = nccleaner.fit(fitted / "shards", **arguments)
    assert result.reading.samples == 240
    nccleaner.purge(run)
    expected = outcome(fitted)
    for path in (run / "scores").iterdir():
        assert path.read_bytes() == expected[f"scores/{path.name}"]


@pytest.mark.parametrize("change", [Path.unlink, cut], ids=["gone", "changed"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_shard_that_goes_before_or_during_an_export(fitted, work, shard, change, after):
    watch = At("Writing", after, lambda: change(shard))
    out = work / "new"
    with pytest.raises(ShardError, match="00001"):
        nccleaner.export(work / "run", out, samples_per_shard=40, reporter=watch)
    assert watch.acted
    assert not list(out.rglob(".nccleaner-tmp-*"))

    shutil.copy2(shard.with_suffix(".aside"), shard)
    nccleaner.export(work / "run", out, samples_per_shard=40)
    written = {path.name: path.read_bytes() for path in (fitted / "exported").glob("*.tar")}
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == written
    assert len(written) > 2


def test_a_purge_needs_no_shard(fitted, work, shard):
    shard.unlink()
    nccleaner.purge(work / "run")
    assert outcome(work) == outcome(fitted)


@pytest.mark.parametrize("name", ["samples.parquet", "metadata.parquet", "image.npy", "part.json"])
def test_a_part_of_the_features_that_is_gone_is_made_anew(fitted, work, name):
    (work / "run" / "features" / "00001" / name).unlink()
    shutil.rmtree(work / "run" / "clean")
    (work / "run" / "scores" / "00001.parquet").unlink()
    nccleaner.purge(work / "run")
    assert outcome(work) == outcome(fitted)


STAGES = ["Scoring", "Reading scores", "Deciding", "Writing manifests"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["scores/00001.parquet", "features/00001"])
def test_a_file_that_goes_while_a_purge_works(fitted, work, stage, name):
    """It ends in the same result, or in an error, and the next purge in the same result."""
    run, path = work / "run", work / "run" / name
    for scores in (run / "scores").iterdir():
        scores.unlink()
    shutil.rmtree(run / "clean")

    def remove() -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    watch = At(stage, 0, remove)
    said = None
    try:
        nccleaner.purge(run, reporter=watch)
    except RunError as error:
        said = error
    assert watch.acted
    if said is not None:
        assert f"{path} are gone" in said.message
        assert said.next_step.startswith("Run the same command again")
        assert not (run / "clean" / "summary.json").exists()
    nccleaner.purge(run)
    assert outcome(work) == outcome(fitted)


def test_an_image_file_that_goes_between_two_reads(clipart, tmp_path):
    folder = tmp_path / "shards" / "pictures"
    folder.mkdir(parents=True)
    for row in clipart.rows:
        (folder / f"{row.key}.png").write_bytes(row.image)
        (folder / f"{row.key}.txt").write_text(row.caption)
    clipart.write_trusted(tmp_path / "trusted.csv")
    last = sorted(folder.glob("*.png"))[-1]
    content = last.read_bytes()
    watch = At("Extracting", 1, last.unlink)
    arguments = {"meta": tmp_path / "trusted.csv", "run": tmp_path / "run", "config": tiny()}
    with pytest.raises(ShardError, match=last.name):
        nccleaner.fit(tmp_path / "shards", **arguments, reporter=watch)

    last.write_bytes(content)
    assert nccleaner.fit(tmp_path / "shards", **arguments).reading.pairs == 240


def within_bounds(data: bytes, *, spec: ImageSpec, limits: Limits) -> np.ndarray:
    """Decodes where the process may take 200 MB more than it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, resource.RLIM_INFINITY))
    try:
        return decode_image(data, spec=spec, limits=limits)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


def slow(data: bytes, *, spec: ImageSpec, limits: Limits) -> np.ndarray:
    time.sleep(0.05)
    return np.full((1, 1, 3), data[0], np.uint8)


def workers_of(process: int) -> list[int]:
    """The processes that a process has started, of loky."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [pid for pid in map(int, found) if b"popen_loky" in command_of(pid)]


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""  # it ended


@pytest.mark.parametrize("which", ["one", "all"])
def test_workers_that_the_kernel_kills_cost_no_image(which):
    before = set(workers_of(os.getpid()))
    with DecodePool(workers=2, decode=slow) as pool:
        images = ((number, bytes([number])) for number in range(120))
        found, killed = [], []
        for tag, decoded in pool.decode(images, spec=SPEC, limits=LIMITS):
            found.append((tag, int(decoded[0, 0, 0])))
            if tag in (3, 70):
                for pid in sorted(set(workers_of(os.getpid())) - before)[
                    : 1 if which == "one" else 9
                ]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
    assert found == [(number, number) for number in range(120)]
    assert len(killed) >= 2


def test_an_image_that_takes_all_memory_is_the_only_one_rejected():
    data = io.BytesIO()
    Image.new("RGB", (12_000, 12_000)).save(data, "png")  # 432 MB when it is decoded
    with DecodePool(workers=2, decode=within_bounds) as pool:
        images = [(number, data.getvalue() if number == 5 else jpeg()) for number in range(12)]
        found = dict(pool.decode(images, spec=SPEC, limits=LIMITS))
    rejected = {tag: image for tag, image in found.items() if isinstance(image, ImageRejected)}
    assert list(rejected) == [5]
    assert (rejected[5].reason, rejected[5].detail) == (UNDECODABLE_IMAGE, "MemoryError: ")


def test_a_fit_goes_on_when_its_workers_are_killed(fitted, tmp_path):
    """As the kernel does where memory is short."""
    before, ended, killed = set(workers_of(os.getpid())), threading.Event(), []

    def kill() -> None:
        while not ended.wait(2) and len(killed) < 2:
            for pid in sorted(set(workers_of(os.getpid())) - before)[-1:]:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        while True:
            with suppress(NccleanerError):  # killed as they start, they are no images' fault
                nccleaner.fit(
                    fitted / "shards",
                    meta=fitted / "trusted.csv",
                    run=tmp_path / "run",
                    config=tiny(data={"workers": 2}),
                )
                break
    finally:
        ended.set()
        thread.join()
    assert killed
    for shard in ("00000", "00001"):
        for name in ("image.npy", "text.npy", "samples.parquet"):
            ours = tmp_path / "run" / "features" / shard / name
            assert ours.read_bytes() == (fitted / "run" / "features" / shard / name).read_bytes()
