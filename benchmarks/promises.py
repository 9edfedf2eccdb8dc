"""How many labelled pairs a promised precision needs, and how often the promise fails.

    python benchmarks/promises.py                # the tables of docs/cutoffs.md; some minutes
    python benchmarks/promises.py --sets 20      # fewer data sets

Made-up pairs, whose truth is known, are judged and cut as those of a run are: evidence of two kinds
from normal distributions, judges fitted to labelled pairs, the rule of `--target-precision`. No
files are read, and the same arguments print the same tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tables import markdown

from nccleaner.purify.by_sample import BySample
from nccleaner.purify.by_trusted import ByTrusted, Standing
from nccleaner.purify.decide import Known, ScoreCounts, cut_at
from nccleaner.purify.fit_judge import fit_judge
from nccleaner.purify.heads import Prior
from nccleaner.purify.judge import Judge
from nccleaner.purify.noise import CUTOFF, NoiseRate, cross_score, estimate_noise_rate
from nccleaner.purify.prices import Price
from nccleaner.purify.promise import Refusal, Witness, promise_precision
from nccleaner.purify.shares import LEVEL, highest_share

Bools = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]

PAIRS = 5_000
# Exchanged: a twentieth of these pairs; the most there are of a pool of 20,000 and more.
EXCHANGED, MOST_EXCHANGED = 250, 1_000
NOISE_RATES = (0.1, 0.5)
TARGETS = (0.8, 0.9, 0.95, 0.98)
# `fit` takes no fewer trusted pairs.
FEWEST_TRUSTED = 20
# What share of the mismatched pairs that a target allows is there.
ALLOWED = {"none": 0.0, "a quarter": 0.25, "half": 0.5}

_SHARES = [step / 100 for step in range(1, 101)]
_NOBODY = Known(0, 0)


class Source(StrEnum):
    """What people labelled, and what says how many pairs are mismatched."""

    SAME = "trusted pairs, noise rate from the same scores"
    OWN = "trusted pairs, noise rate from evidence of its own"
    SAMPLE = "random sample"


class Trial(NamedTuple):
    """Data sets of one kind.

    Attributes:
        source: What people labelled.
        target: The precision that is promised.
        labelled: How many pairs they labelled.
        apart: How many standard deviations the evidence of matched and of mismatched pairs is from
            the middle.
    """

    source: Source
    target: float
    labelled: int
    apart: float


TRIALS = (
    Trial(Source.SAME, 0.9, 200, 1.0),
    Trial(Source.OWN, 0.9, 200, 1.0),
    Trial(Source.SAMPLE, 0.9, 200, 1.0),
    Trial(Source.SAME, 0.9, 200, 1.5),
    Trial(Source.OWN, 0.9, 200, 1.5),
    Trial(Source.SAMPLE, 0.9, 200, 1.5),
    Trial(Source.OWN, 0.95, 200, 1.5),
    Trial(Source.SAMPLE, 0.95, 400, 1.5),
    Trial(Source.OWN, 0.95, 600, 1.2),
)


class DataSet(NamedTuple):
    """Pairs that nobody labelled, and what the labelled ones say of them.

    Attributes:
        scores: [n], corrected similarities.
        truth: [n], whether each is matched.
        counts: The scores, counted.
        witness: What the labelled pairs say.
    """

    scores: Scores
    truth: Bools
    counts: ScoreCounts
    witness: Witness


class Outcome(NamedTuple):
    """What became of a promise.

    Attributes:
        refused: No cut-off could promise it.
        missed: The kept pairs had a lower precision.
        missed_by_estimate: Those of the lowest cut-off had one whose estimate reaches the target.
        covered: Whether the 95 % intervals of what keeping half of the pairs does held the truth:
            of the noise rate, of the mismatched among the kept, of the good pairs kept.
    """

    refused: bool
    missed: bool
    missed_by_estimate: bool
    covered: tuple[bool, bool, bool]


def main() -> None:
    """Prints the tables."""
    title, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=title, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=300, help="data sets for each row (300)")
    sets: int = parser.parse_args().sets
    for name, enough in (
        ("a random sample", sample_is_enough),
        ("trusted pairs", trusted_is_enough),
    ):
        print(f"How many pairs of {name} are enough:\n\n{fewest_table(enough)}\n")
    print(f"How often promises fail, {sets} data sets each:\n\n{failures_table(sets)}")


def fewest_table(enough: Callable[[int, float, float], bool]) -> str:
    """Returns how many labelled pairs each target needs, in Markdown."""
    rows = [
        [f"{target:.2f}".lstrip("0")]
        + [f"{fewest(enough, target, allowed):,}" for allowed in ALLOWED.values()]
        for target in TARGETS
    ]
    return markdown(["P", *ALLOWED], rows)


def fewest(enough: Callable[[int, float, float], bool], target: float, allowed: float) -> int:
    """Returns the smallest number of labelled pairs that is enough; any larger one is too."""
    most = 1
    while not enough(most, target, allowed):
        most *= 2
    few = most // 2
    while most - few > 1:
        middle = (few + most) // 2
        few, most = (few, middle) if enough(middle, target, allowed) else (middle, most)
    return most


def sample_is_enough(labelled: int, target: float, allowed: float) -> bool:
    """Tells whether a random sample reaches the bound where half of the pairs are kept.

    Args:
        labelled: Size of the sample.
        target: The precision.
        allowed: Share of the mismatched pairs that the target allows which is there.
    """
    kept = labelled // 2
    wrong = highest_share(allowed * (1 - target) * kept, kept, miss=1 - LEVEL)
    return bool(wrong <= 1 - target)


def trusted_is_enough(labelled: int, target: float, allowed: float) -> bool:
    """Tells whether trusted pairs reach the bound, by the default split.

    30 % of all pairs are mismatched, six in ten of the good ones kept, and the frozen evidence
    passes 80 % of the good and 15 % of the mismatched pairs. The pool is of 20,000 pairs or more.

    Args:
        labelled: How many trusted pairs.
        target: The precision.
        allowed: Share of the mismatched pairs that the target allows which is there.
    """
    mismatched, good_kept = 0.3, 0.7 * 0.6
    wrong = allowed * (1 - target)
    wrong_kept = good_kept * wrong / (1 - wrong)
    noise = NoiseRate(0.7 * 0.8 + mismatched * 0.15, 0.8, 0.15, labelled)
    miss = (1 - LEVEL) / 2
    reached = wrong_kept / mismatched * MOST_EXCHANGED
    reach = float(highest_share(reached, MOST_EXCHANGED, miss=miss))
    worst = noise.highest(miss=miss) * reach / (good_kept + wrong_kept)
    return labelled >= FEWEST_TRUSTED and worst <= 1 - target


def failures_table(sets: int) -> str:
    """Returns how often the promises of simulated data sets fail, in Markdown."""
    rows = []
    for trial in TRIALS:
        outcomes = [outcome(simulate(trial, seed), trial.target) for seed in range(sets)]
        refused, missed, by_estimate = np.mean([one[:3] for one in outcomes], axis=0)
        covered = np.mean([one.covered for one in outcomes], axis=0)
        rows.append(
            [
                *(trial.source, f"{trial.target:g}", f"{trial.labelled}", f"{trial.apart:.1f}"),
                *(f"{missed:.1%}", f"{by_estimate:.0%}", f"{refused:.0%}"),
                " / ".join(f"{share:.0%}" for share in covered),
            ]
        )
    heading = ["evidence", "P", "labelled", "d", "missed", "by the estimate", "refused", "covered"]
    return markdown(heading, rows)


def simulate(trial: Trial, seed: int) -> DataSet:
    """Makes a data set up, with a noise rate of its own."""
    rng = np.random.default_rng(seed)
    truth = rng.random(PAIRS) > rng.uniform(*NOISE_RATES)

    def evidence(matched: Bools) -> npt.NDArray[np.float64]:
        middle = np.where(matched, trial.apart, -trial.apart)
        return middle[:, None] + rng.normal(size=(len(matched), 2))

    pool = evidence(truth)
    noise = None
    if trial.source == Source.OWN:
        all_trusted = np.ones(trial.labelled, dtype=bool)
        noise = estimate_noise_rate(
            cross_score(evidence(truth), evidence(all_trusted), evidence(~all_trusted), seed=seed)
        )
    probes = np.arange(trial.labelled // 2 + EXCHANGED) < trial.labelled // 2
    judge = fit_judge(
        [evidence(probes)],
        np.zeros(len(probes), np.float32),
        probes,
        pool_evidence=[pool],
        priors=[Prior.equal(pool.shape[1])],
        seed=seed,
        grows=False,
        noise=noise,
    )
    scores = judge.corrected_similarity([pool])
    if trial.source == Source.SAMPLE:
        return sampled(scores, truth, judge, rng.permutation(PAIRS) < trial.labelled)
    counts = counted(scores, judge)
    standing = Standing(judge, PAIRS, float((scores >= CUTOFF).mean()), counts)
    witness = ByTrusted(
        "corrected_similarity", [standing], known=_NOBODY, labelled=trial.labelled, seed=seed
    )
    return DataSet(scores, truth, counts, witness)


def sampled(scores: Scores, truth: Bools, judge: Judge, drawn: Bools) -> DataSet:
    """Returns the pairs that were not drawn, judged by those that were."""
    rest = int((~drawn).sum())
    witness = BySample(scores[drawn], truth[drawn], pairs=rest, known=_NOBODY)
    return DataSet(scores[~drawn], truth[~drawn], counted(scores[~drawn], judge), witness)


def counted(scores: Scores, judge: Judge) -> ScoreCounts:
    """Counts scores as a purge does."""
    counts = ScoreCounts("corrected_similarity")
    counts.add(scores, judge.clean_probability(scores))
    return counts


def outcome(data: DataSet, target: float) -> Outcome:
    """Promises a precision, and looks at the truth."""

    def precision(cutoff: float) -> float:
        return float(data.truth[data.scores >= np.float32(cutoff)].mean())

    found = promise_precision(data.witness, [data.counts], target)
    cuts = cut_at(_SHARES, [data.counts])
    prices = data.witness.prices(cuts)
    fine = [price.after is not None and 1 - price.after.value >= target for price in prices]
    lowest = cuts.values[np.flatnonzero(fine).max()] if any(fine) else None
    half = int(np.argmin(np.abs(cuts.kept[0] - len(data.scores) / 2)))
    return Outcome(
        isinstance(found, Refusal),
        not isinstance(found, Refusal) and precision(found.cutoff) < target,
        lowest is not None and precision(lowest) < target,
        covers(prices[half], data, cuts.values[half]),
    )


def covers(price: Price, data: DataSet, cutoff: float) -> tuple[bool, bool, bool]:
    """Tells which of a price's intervals hold the truth."""
    kept = data.scores >= np.float32(cutoff)
    facts = ((~data.truth).mean(), (~data.truth)[kept].mean(), kept[data.truth].mean())
    before, after, recall = (
        interval is not None and interval.low <= fact <= interval.high
        for interval, fact in zip(price, facts, strict=True)
    )
    return before, after, recall


if __name__ == "__main__":
    main()
