"""`evaluate`: retrieval on clean pairs, detection against a known truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv

from nccleaner.data.features import FeaturePart
from nccleaner.data.locations import find_shards
from nccleaner.errors import InputError, UsageError
from nccleaner.evaluate.detection import DetectionMetrics, detection_metrics
from nccleaner.evaluate.retrieval import mean_over_folds, retrieval_metrics
from nccleaner.files import read_parquet
from nccleaner.output.keepset import KeepSet
from nccleaner.pipeline.extraction import FeatureStore
from nccleaner.pipeline.reporter import Reporter, SilentReporter
from nccleaner.pipeline.results import EvaluateResult
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.scored import features_of, is_pair, pairs_of
from nccleaner.pipeline.workspace import read_checkpoint
from nccleaner.records import OK, Shard

_Floats = npt.NDArray[np.float32]

_TRUTH_COLUMNS = ("shard", "key", "mismatched")


def evaluate(
    run: str | Path,
    shards: str | Path | Sequence[str | Path] | None = None,
    *,
    folds: int = 1,
    truth: str | Path | None = None,
    output: str | Path | None = None,
    reporter: Reporter | None = None,
) -> EvaluateResult:
    """Measures retrieval on clean pairs, and detection against a truth that is known.

    Args:
        run: A run directory with a finished fit.
        shards: Clean pairs; the captions of an image may be several samples with equal images.
        folds: With 2 or more, retrieval is also measured within each of so many parts of the images
            in their order, and the mean taken: 5 on MS-COCO's test images are its protocol "1K".
        truth: A CSV `shard,key,mismatched` about the scored shards, as `corrupt` writes it. Trusted
            pairs among them are left out: the networks were told about those. What was kept is
            read from `clean/`; where nothing was purged, `clean_probability` > 0.5 decides.
        output: Scores and results of another data set; None for the run directory.
        reporter: Hears of progress.

    Raises:
        UsageError: Neither shards nor truth, or folds of no shards.
        InputError: More folds than images, or the truth cannot be read, or knows none of the scored
            pairs.
        RunError: No finished fit, or another process is at work there.
    """
    if folds < 1 or (folds > 1 and shards is None):
        raise UsageError(
            f"{folds} folds of clean pairs cannot be made.", "Give shards of clean pairs, or 1."
        )
    if shards is None and truth is None:
        raise UsageError(
            "There is nothing to evaluate on.", "Give shards of clean pairs, or --truth CSV."
        )
    reporter = reporter or SilentReporter()
    known = None if truth is None else _read_truth(Path(truth))
    scoring = Scoring.open(run, output)
    retrieval, in_folds = None, None
    clean = [] if shards is None else find_shards(shards)
    with scoring.occupied(clean):
        if clean:
            embedded = _embed_clean(scoring, clean, reporter)
            retrieval = retrieval_metrics(*embedded)
            in_folds = mean_over_folds(*embedded, folds=folds) if folds > 1 else None
        detection = None if known is None else _detection(scoring, known, reporter)
    return EvaluateResult(retrieval, in_folds, detection)


def _embed_clean(
    scoring: Scoring, shards: Sequence[Shard], reporter: Reporter
) -> tuple[_Floats, _Floats, npt.NDArray[np.int64]]:
    """Embeds each image once and each caption, and tells the row of each caption's image.

    Images are in the order in which the shards first show them.
    """
    store = scoring.store
    clean = FeatureStore(
        scoring.target.evaluation,
        store.backbones,
        store.data,
        store.image_encoder,
        store.text_encoder,
    )
    images, texts, digests = [], [], []
    for part in clean.parts(shards, reporter):
        of_images, of_texts = _embed(scoring, part)
        images.append(of_images)
        texts.append(of_texts)
        digests += part.samples.filter(is_pair(part))["image_sha256"].to_pylist()
    if not digests:
        raise InputError("The shards hold no pairs to evaluate on.", "Give other shards.")
    encoded = pa.array(digests, pa.string()).dictionary_encode()
    image_of = encoded.indices.to_numpy().astype(np.int64)
    _, first = np.unique(image_of, return_index=True)
    return np.concatenate(images)[first], np.concatenate(texts), image_of


def _embed(scoring: Scoring, part: FeaturePart) -> tuple[_Floats, _Floats]:
    """Embeds the image and the caption of every pair of a part, [pairs, dim] each."""
    scorer, device = scoring.scorer, scoring.device
    max_tokens = scoring.description.config.model.max_tokens
    features = features_of(part, scorer, device=device, max_tokens=max_tokens)
    pairs = pairs_of(part, scorer, device=device)
    return (
        scorer.embed_images(features.images)[pairs.image_rows].cpu().numpy(),
        scorer.embed_texts(features.texts)[pairs.text_rows].cpu().numpy(),
    )


def _detection(scoring: Scoring, truth: pa.Table, reporter: Reporter) -> DetectionMetrics:
    shards = scoring.inputs()
    scoring.score(shards, reporter)
    trusted = read_checkpoint(scoring.workspace.trusted).select(["shard", "key"])
    keep = KeepSet(scoring.target.root) if scoring.target.summary.exists() else None
    found, told_of, unknown = [], 0, 0
    for shard in shards:
        scores = read_parquet(scoring.scores_path(shard)).replace_schema_metadata(None)
        pairs = scores.filter(pc.equal(scores["status"], OK))
        told = truth.filter(pc.equal(truth["shard"], shard.name)).drop_columns("shard")
        joined = pairs.join(told, "key", join_type="inner")
        told_of, unknown = told_of + len(told), unknown + len(told) - len(joined)
        if scoring.is_of_fit(shard):
            mine = trusted.filter(pc.equal(trusted["shard"], shard.name))["key"].combine_chunks()
            joined = joined.filter(pc.invert(pc.is_in(joined["key"], value_set=mine)))
        found.append(joined)
    table = pa.concat_tables(found)
    if not table.num_rows:
        raise InputError(
            f"None of the {len(truth):,} rows of the truth names a scored, untrusted pair.",
            "Give the truth about these shards.",
        )
    if unknown:
        reporter.warn(
            f"{unknown:,} of {told_of:,} rows of the truth name no pair that was scored: rejects, "
            "or samples of other shards with the same names."
        )
    kept = (
        table["clean_probability"].to_numpy() > 0.5
        if keep is None
        else keep.mask(table["shard"].to_pylist(), table["key"].to_pylist())
    )
    return detection_metrics(
        table["mismatched"].to_numpy().astype(bool),
        corrected_similarity=table["corrected_similarity"].to_numpy(),
        clean_probability=table["clean_probability"].to_numpy(),
        kept=kept,
    )


def _read_truth(path: Path) -> pa.Table:
    if not path.exists():
        raise InputError(f"{path} is not there.", "Check the path.")
    types = {"shard": pa.string(), "key": pa.string(), "mismatched": pa.int8()}
    try:
        table = pv.read_csv(
            path,
            convert_options=pv.ConvertOptions(
                column_types=types, include_columns=list(_TRUTH_COLUMNS)
            ),
        )
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read as a truth: {error}",
            f"Give a CSV with the columns {', '.join(_TRUTH_COLUMNS)}.",
        ) from error
    if not pc.all(pc.is_in(table["mismatched"], value_set=pa.array([0, 1], pa.int8()))).as_py():
        raise InputError(f"{path}: `mismatched` must be 0 or 1.", "Mend the file.")
    return table
