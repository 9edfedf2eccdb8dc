"""`export`: the kept pairs in the formats that trainers and other tools read."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, get_args

from nccleaner.data.locations import refuse_inside_input
from nccleaner.errors import InputError, RunError, UsageError
from nccleaner.files import claim_folder, replace_file
from nccleaner.output.exports.formats import (
    SAMPLES_PER_SHARD,
    ExportFormat,
    Portioned,
    portion_names,
)
from nccleaner.output.exports.kept import KeptPairs, KeptPortions
from nccleaner.output.exports.openclip import ImageFolders
from nccleaner.output.exports.webdataset import TarFolder
from nccleaner.output.summary import Summary, read_summary
from nccleaner.pipeline.backbones import limits_of
from nccleaner.pipeline.engines import Advance, Engine, EngineName, Work, open_engine
from nccleaner.pipeline.occupied import occupied
from nccleaner.pipeline.reporter import Reporter, SilentReporter
from nccleaner.pipeline.results import ExportResult
from nccleaner.pipeline.workspace import RunDescription, Workspace, known_shards

_UIDS = "uids.npy"
# Hidden, and no `.json`: img2dataset and `datasets` take every JSON file for one of theirs.
_ARGUMENTS = ".nccleaner-export"
_IN_PORTIONS: tuple[ExportFormat, ...] = ("webdataset", "csv")


def export(
    run: str | Path,
    out: str | Path,
    *,
    format: ExportFormat = "webdataset",  # noqa: A002 - the word that users know it by
    samples_per_shard: int = SAMPLES_PER_SHARD,
    output: str | Path | None = None,
    engine: EngineName = "local",
    reporter: Reporter | None = None,
) -> ExportResult:
    """Writes the kept pairs for the next training run; the same purge gives the same bytes.

    After an interruption the same call goes on where it stopped.

    Args:
        run: A run directory that was purged.
        out: A local folder that is missing, empty, or left by the same call.
        format: `webdataset` (tars), `csv` (a table for open_clip, and images), `clip-retrieval`
            (embeddings) or `datacomp` (`uids.npy`).
        samples_per_shard: Pairs in a tar, or in a folder of images; the other formats have none.
        output: Results of another data set; None for the run directory.
        engine: `local`, or `ray` for a cluster.
        reporter: Hears of progress.

    Raises:
        UsageError: No such format or engine, a number below 1, or `out` among the shards.
        RunError: Nothing was purged yet, what was is no longer whole, or another process is at work
            in `out`.
        InputError: Nothing was kept, or `out` holds something else.
        ShardError: A shard has changed since it was purged, or its storage failed.
    """
    start = time.monotonic()
    if format not in get_args(ExportFormat) or samples_per_shard < 1:
        raise UsageError(
            f"There is no format {format!r} with {samples_per_shard} samples in a shard.",
            f"Use one of {', '.join(get_args(ExportFormat))}, and a number of at least 1.",
        )
    reporter, out = reporter or SilentReporter(), Path(out)
    purged = _Purged.open(run, output)
    pairs = purged.pairs
    refuse_inside_input([kept.shard for kept in pairs.shards], out)
    claim_folder(out, _ARGUMENTS, _describe(pairs, format, samples_per_shard))
    with occupied(out):
        if format == "datacomp":
            parts = _copy_uids(purged, out)
        elif format == "clip-retrieval":
            from nccleaner.pipeline.embedding import write_embeddings
            from nccleaner.pipeline.score import Scoring

            with open_engine(engine) as opened:
                scoring = Scoring.open(run, output, opened)
                parts = write_embeddings(scoring, pairs, out.absolute(), reporter)
        else:
            folder = (
                TarFolder(out.absolute()) if format == "webdataset" else ImageFolders(out.resolve())
            )
            with open_engine(engine) as opened:
                parts = write_portions(
                    folder, pairs, samples_per_shard, engine=opened, reporter=reporter
                )
    return ExportResult(
        folder=out,
        format=format,
        pairs=len(pairs),
        parts=parts,
        derived_uids=purged.summary.derived_uids,
        seconds=time.monotonic() - start,
    )


def write_portions(
    folder: Portioned, pairs: KeptPairs, size: int, *, engine: Engine, reporter: Reporter
) -> int:
    """Writes all pairs; portions that are there already stay.

    Args:
        folder: Where, and in which format.
        pairs: What to write.
        size: Pairs in each portion but the last.
        engine: Does the work.
        reporter: Hears of progress.

    Returns:
        The number of portions.

    Raises:
        ShardError: A shard has changed since it was purged, or its storage failed.
    """
    job = _WritingOfPortions(folder, pairs, size)
    names = portion_names(len(pairs), size)
    todo = [_Portion(n, name) for n, name in enumerate(names) if not folder.has(name)]
    left = sum(min(size, len(pairs) - portion.number * size) for portion in todo)
    with reporter.stage(f"Writing {folder.format}", len(pairs), "pairs") as advance:
        advance(len(pairs) - left)
        for _ in engine.run(job, todo, advance):
            pass
    folder.finish(names, pairs)
    return len(names)


class _Portion(NamedTuple):
    """A portion of an export, by its number, from 0, and its name."""

    number: int
    name: str


@dataclass(frozen=True, slots=True)
class _WritingOfPortions:
    """Writes a portion.

    Attributes:
        folder: Where, and in which format.
        pairs: All that are exported.
        size: Pairs in each portion but the last.
    """

    folder: Portioned
    pairs: KeptPairs
    size: int

    @property
    def folders(self) -> tuple[Path, ...]:
        """The manifests, and where portions appear."""
        return self.pairs.shards[0].manifest.parent, self.folder.portions

    @property
    def device(self) -> None:
        """It has no networks."""

    @property
    def in_threads(self) -> bool:
        """Portions follow each other in the shards."""
        return False

    def name(self, item: _Portion) -> str:
        """Names a portion."""
        return f"portion {item.name} of the export"

    @contextmanager
    def open(self) -> Iterator[Work[_Portion, None]]:
        """Begins to read."""
        portions = KeptPortions(self.pairs, size=self.size)
        digits = len(str(self.size - 1))

        def write(portion: _Portion, advance: Advance) -> None:
            pairs = portions.read(portion.number)
            self.folder.write(portion.name, pairs, digits=digits, progress=advance)

        yield write


@dataclass(frozen=True)
class _Purged:
    """What a purge left, whole.

    Attributes:
        clean: Where it is.
        summary: What its `summary.json` says.
        pairs: The pairs that it kept.
    """

    clean: Path
    summary: Summary
    pairs: KeptPairs

    @staticmethod
    def open(run: str | Path, output: str | Path | None) -> _Purged:
        """Opens the results of a run, or those in the `output` folder."""
        workspace = Workspace(Path(run))
        target = Workspace(Path(output)) if output is not None else workspace
        description = RunDescription.read(workspace.description)
        summary = read_summary(target.summary)
        pairs = KeptPairs(
            target.clean.absolute(),
            shards=known_shards(workspace, target, description),
            limits=limits_of(description.config.data),
        )
        if len(pairs) != summary.kept:
            raise RunError(
                f"The manifests in {target.clean} list {len(pairs)} pairs, and {target.summary} "
                f"counts {summary.kept}.",
                "Run `nccleaner purge` again.",
            )
        if not len(pairs):
            raise InputError(
                f"The purge in {target.clean} kept no pairs.",
                "Run `nccleaner purge` with a lower cut-off.",
            )
        return _Purged(target.clean, summary, pairs)


def _describe(pairs: KeptPairs, name: ExportFormat, samples_per_shard: int) -> str:
    """All that decides what is written, as text."""
    arguments = {
        "format": name,
        "samples_per_shard": samples_per_shard if name in _IN_PORTIONS else None,
        "kept": pairs.identity(),
        "shards": [asdict(kept.shard) for kept in pairs.shards],
    }
    return json.dumps(arguments, indent=1) + "\n"


def _copy_uids(purged: _Purged, out: Path) -> int:
    with replace_file(out / _UIDS) as temporary:
        shutil.copyfile(purged.clean / _UIDS, temporary)
    return 1
