"""What the commands give back: plain records, the same for the library and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nccleaner.data.downloading import DownloadReport
from nccleaner.data.trusted import RowProblem
from nccleaner.evaluate.detection import DetectionMetrics
from nccleaner.evaluate.retrieval import RetrievalMetrics
from nccleaner.output.exports.formats import ExportFormat
from nccleaner.output.index.building import IndexReport
from nccleaner.output.summary import Summary


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """What `download` did.

    Attributes:
        folder: The folder of the shards.
        report: What came of the list.
        seconds: Seconds of the whole command.
    """

    folder: Path
    report: DownloadReport
    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading the shards found.

    Attributes:
        shards: Shards read.
        samples: Samples they hold: pairs and rejects.
        pairs: Samples that are pairs.
        rejects: The others, counted by reason.
        problems: What is wrong with a shard as a whole, by its name.
    """

    shards: int
    samples: int
    pairs: int
    rejects: Mapping[str, int]
    problems: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FitResult:
    """What `fit` did.

    Attributes:
        run: The run directory.
        reading: What reading the shards found.
        trusted: Pairs of each part: `meta`, `probe`, `held_out`, and `sample`, set aside.
        trusted_problems: Rows of the trusted file that were skipped, and why.
        warning: What the number of trusted pairs means for the intervals; that scores are hardly
            better than chance; that mismatched pairs are not like exchanged ones; may be empty.
        pool: Pairs that the networks were trained on.
        exchanged: Of these, with another's caption, to calibrate by.
        epochs: Epochs trained.
        best_epoch: The epoch whose snapshot was kept, counted from 1.
        held_out_auroc: On held-out trusted pairs, matched against all other pairings.
        probe_auroc: On the planted probes.
        noise_rate: Estimated share of mismatched pairs in the pool.
        training_s: Seconds of training.
        seconds: Seconds of the whole command.
    """

    run: Path
    reading: Reading
    trusted: Mapping[str, int]
    trusted_problems: Sequence[RowProblem]
    warning: str
    pool: int
    exchanged: int
    epochs: int
    best_epoch: int
    held_out_auroc: float
    probe_auroc: float
    noise_rate: float
    training_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """What `score` did.

    Attributes:
        folder: Where `scores/` is.
        reading: What reading the shards found.
        seconds: Seconds of the whole command.
    """

    folder: Path
    reading: Reading
    seconds: float


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """What `purge` did.

    Attributes:
        folder: The folder `clean/`.
        summary: What is in its `summary.json`.
        seconds: Seconds of the whole command.
    """

    folder: Path
    summary: Summary
    seconds: float


@dataclass(frozen=True, slots=True)
class ReportResult:
    """What `report` did.

    Attributes:
        path: The page.
        size_bytes: Its size.
        seconds: Seconds of the whole command.
    """

    path: Path
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class IndexResult:
    """What `index` did.

    Attributes:
        folder: The folder `clean/index/`.
        report: What was built.
        seconds: Seconds of the whole command.
    """

    folder: Path
    report: IndexReport
    seconds: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A pair that `search` found.

    Attributes:
        row: Its row in the indexes.
        shard: Its shard.
        key: Its key there.
        caption: Its caption.
        product: Inner product with the query, in [-1, 1].
        modality: Which of the pair's halves was compared.
    """

    row: int
    shard: str
    key: str
    caption: str
    product: float
    modality: Literal["image", "text"]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What `export` did.

    Attributes:
        folder: Where it is.
        format: What it is.
        pairs: Pairs in it.
        parts: Tars, folders of images, or files of embeddings that it is divided into.
        derived_uids: Samples that were given a uid, as their shards have none for them: of those
            DataComp's resharder finds none in the shards.
        seconds: Seconds of the whole command.
    """

    folder: Path
    format: ExportFormat
    pairs: int
    parts: int
    derived_uids: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What `evaluate` measured; what was not asked for is None.

    Attributes:
        retrieval: On clean pairs.
        retrieval_in_folds: On the same, the mean over folds of their images.
        detection: Against the truth.
    """

    retrieval: RetrievalMetrics | None
    retrieval_in_folds: RetrievalMetrics | None
    detection: DetectionMetrics | None
