"""How well mismatched pairs were found, where it is known which they are.

The positive class is *mismatched* throughout: a true positive is a mismatched pair that was
dropped. Scores say the opposite (higher = cleaner) and are turned round here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nccleaner.errors import InputError

CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True)
class DetectionMetrics:
    """Quality of a decision, and of the scores behind it. All but counts and cut-off in [0, 1].

    What is not defined is None: AUROC where the truth holds one class only; AUPRC and F1 where
    nothing is mismatched.

    Attributes:
        pairs: Pairs that were judged.
        dropped_mismatched: True positives.
        dropped_matched: False positives, the good pairs that were lost.
        kept_mismatched: False negatives.
        kept_matched: True negatives.
        auroc: Chance that a mismatched pair has a lower `corrected_similarity` than a matched one.
        auprc: Average precision of `corrected_similarity`, without interpolation.
        f1: Of the decision made.
        best_f1: Of the best cut-off on `corrected_similarity`, chosen by the truth itself.
        best_cutoff: That cut-off; pairs at it or above are kept.
        calibration_error: Expected calibration error of `clean_probability`: the mean distance in
            15 bins of equal width between it and the share of matched pairs, weighted by pairs.
        noise_rate: True share of mismatched pairs.
        estimated_noise_rate: Mean of 1 − `clean_probability`.
    """

    pairs: int
    dropped_mismatched: int
    dropped_matched: int
    kept_mismatched: int
    kept_matched: int
    auroc: float | None
    auprc: float | None
    f1: float | None
    best_f1: float | None
    best_cutoff: float | None
    calibration_error: float
    noise_rate: float
    estimated_noise_rate: float


def detection_metrics(
    mismatched: npt.ArrayLike,
    *,
    corrected_similarity: npt.ArrayLike,
    clean_probability: npt.ArrayLike,
    kept: npt.ArrayLike,
) -> DetectionMetrics:
    """Compares scores and a decision with the truth (METHOD 5).

    Args:
        mismatched: [n] bool, the truth.
        corrected_similarity: [n], higher = cleaner.
        clean_probability: [n], in [0, 1], higher = cleaner.
        kept: [n] bool, the decision, for example `clean_probability > 0.5`.

    Raises:
        InputError: No pairs, columns of different lengths, or scores that are not finite (rejects
            have none; leave them out).
    """
    truth = np.asarray(mismatched, dtype=bool)
    dropped = ~np.asarray(kept, dtype=bool)
    similarity = np.asarray(corrected_similarity, dtype=np.float64)
    probability = np.asarray(clean_probability, dtype=np.float64)
    _check(truth, dropped, similarity, probability)
    true_positives = int((truth & dropped).sum())
    auroc, auprc = _areas(truth, similarity)
    best_f1, best_cutoff = _best_f1(truth, similarity)
    return DetectionMetrics(
        pairs=truth.size,
        dropped_mismatched=true_positives,
        dropped_matched=int((~truth & dropped).sum()),
        kept_mismatched=int((truth & ~dropped).sum()),
        kept_matched=int((~truth & ~dropped).sum()),
        auroc=auroc,
        auprc=auprc,
        f1=2 * true_positives / int(truth.sum() + dropped.sum()) if truth.any() else None,
        best_f1=best_f1,
        best_cutoff=best_cutoff,
        calibration_error=calibration_error(~truth, probability),
        noise_rate=float(truth.mean()),
        estimated_noise_rate=float(1 - probability.mean()),
    )


def calibration_error(
    matched: npt.NDArray[np.bool_], probability: npt.NDArray[np.float64]
) -> float:
    """Expected calibration error in `CALIBRATION_BINS` bins of equal width (Guo et al. 2017).

    Args:
        matched: [n], the truth.
        probability: [n], in [0, 1], of being matched.

    Returns:
        The distance between mean probability and share of matched pairs, averaged over the pairs;
        in [0, 1], lower is better.
    """
    bins = np.minimum((probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    # Of each bin: n · (share matched − mean probability).
    gaps = np.bincount(bins, weights=matched - probability, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(probability))


def _check(truth: npt.NDArray[np.bool_], *columns: npt.NDArray[np.generic]) -> None:
    shapes = [column.shape for column in (truth, *columns)]
    if truth.ndim != 1 or not truth.size or len(set(shapes)) > 1:
        raise InputError(
            f"Expected truth, decision and scores of the same pairs, found the shapes {shapes}.",
            "Give the truth of the pairs that were scored.",
        )
    if not all(np.isfinite(column).all() for column in columns):
        raise InputError("Found scores that are not finite.", "Leave out samples without scores.")


def _areas(
    truth: npt.NDArray[np.bool_], similarity: npt.NDArray[np.float64]
) -> tuple[float | None, float | None]:
    """Areas under the ROC and the precision-recall curve."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    auroc = float(roc_auc_score(truth, -similarity)) if 0 < truth.sum() < truth.size else None
    auprc = float(average_precision_score(truth, -similarity)) if truth.any() else None
    return auroc, auprc


def _best_f1(
    truth: npt.NDArray[np.bool_], similarity: npt.NDArray[np.float64]
) -> tuple[float | None, float | None]:
    """The highest F1 of all cut-offs, and the cut-off from which on pairs are kept."""
    from sklearn.metrics import precision_recall_curve

    if not truth.any():
        return None, None
    precision, recall, thresholds = precision_recall_curve(truth, -similarity)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    best = int(f1[:-1].argmax())  # the last point is (1, 0) by definition and has no threshold
    # All up to this score are dropped, so the next score is the lowest that is kept. A number in
    # between might round to a wrong side in float32.
    highest_dropped = -thresholds[best]
    above = similarity[similarity > highest_dropped]
    cutoff = above.min() if above.size else np.nextafter(np.float32(highest_dropped), np.float32(2))
    return float(f1[best]), float(cutoff)
