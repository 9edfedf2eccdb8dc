"""What cut-offs cost and promise, from the best evidence that there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from nccleaner.errors import PrecisionError
from nccleaner.output.summary import Choice, Estimate, Promise, Share
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.tally import Tally
from nccleaner.purify.decide import Counts, Cuts, Known, ScoreCounts, cut_at
from nccleaner.purify.judge import Judges
from nccleaner.purify.promise import Refusal, Witness, promise_precision
from nccleaner.purify.shares import LEVEL, Interval

_CHOICES = tuple(tenth / 10 for tenth in range(1, 11))
_FROM_TRUSTED = (
    "trusted pairs, and mismatched ones made by exchanging captions or labelled 0: {} for the "
    "noise rate, {} for the cut-off; assumes that trusted pairs are like the good pairs of the "
    "shards, and the others like the mismatched ones"
)
_FROM_SAMPLE = (
    "the labels of {:,} pairs drawn at random from the shards; exact intervals that assume nothing "
    "else"
)
_DOUBT = (
    "more of these pairs look matched, or more look mismatched, than in any mixture of pairs like "
    "the trusted ones, so they are not alike and the estimates do not hold"
)
_NEAR_MISSES = (
    "the fit found pairs that are like neither trusted nor exchanged ones: captions that are "
    "nearly right, or trusted pairs that are easier than the others"
)
_FROM_POOL = (
    f"clean probabilities that rest on the form of the scores, as {_NEAR_MISSES}; assumes that "
    "trusted pairs are like the good pairs of the shards"
)


class Estimates(NamedTuple):
    """What a decision does; shares of all pairs, those that people labelled among them.

    Attributes:
        before: Share of mismatched pairs among all.
        after: The same among the kept; None where it is not known or none is kept.
        recall: Share of the matched pairs that are kept; None where it is not known.
    """

    before: Estimate
    after: Estimate | None
    recall: Estimate | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the shards' pairs and of the labelled ones.

    Attributes:
        kind: What says which pairs are mismatched.
        source: The same for people.
        witness: The same at work.
        unlabelled: Scores of the pairs that nobody labelled, by standing.
        known: The others.
        doubt: What speaks against the estimates, as a sentence without its end; may be empty.
        promises: Whether it can bound a precision.
    """

    kind: Literal["trusted_pairs", "random_sample"]
    source: str
    witness: Witness
    unlabelled: tuple[ScoreCounts, ...]
    known: Known
    doubt: str = ""
    promises: bool = True

    @staticmethod
    def of(tally: Tally, scoring: Scoring) -> Evidence:
        """Takes a random sample where there is one, else the trusted pairs."""
        sample = tally.by_sample()
        if sample is not None:
            source = _FROM_SAMPLE.format(sample.labelled)
            return Evidence("random_sample", source, sample, tally.unlabelled, tally.known)
        description = scoring.description
        parts = description.result["trusted"]
        trusted = tally.by_trusted(
            scoring.judges,
            labelled=sum(parts[part] for part in ("meta", "probe", "held_out")),
            seed=description.config.seed,
        )
        near_misses = trusted.holds_near_misses()
        source, doubt = _from_trusted(tally, scoring.judges), ""
        if near_misses:
            source, doubt = _FROM_POOL, f"Take the estimates with care: {_NEAR_MISSES}"
        elif trusted.is_contradicted():
            source += f"; but {_DOUBT}"
            doubt = f"Do not trust the estimates: {_DOUBT}"
        return Evidence(
            "trusted_pairs",
            source,
            trusted,
            tally.unlabelled,
            tally.known,
            doubt,
            promises=not near_misses,
        )

    def keeping(self, fraction: float) -> float:
        """Returns the cut-off that keeps about this share of all pairs, in (0, 1].

        Pairs labelled 1 are kept whatever their scores: they count first.
        """
        counts = sum(self.unlabelled[1:], self.unlabelled[0])
        wanted = fraction * (counts.total + sum(self.known)) - self.known.matched
        share = min(max(wanted / max(counts.total, 1), 0.0), 1.0)
        return float(counts.cutoffs([share])[0])

    def promise(self, target: float) -> tuple[float, Promise]:
        """Returns the lowest cut-off that keeps a precision, and what it keeps to.

        Raises:
            PrecisionError: There is none.
        """
        found = promise_precision(self.witness, self.unlabelled, target)
        if isinstance(found, Refusal):
            raise self._refused(found, target)
        return found.cutoff, Promise(target, found.bound, LEVEL)

    def choices(self) -> list[Choice]:
        """Returns what ten cut-offs would do, the most generous first."""
        cuts = cut_at(_CHOICES, self.unlabelled)
        choices = []
        kept = cuts.kept.sum(axis=0) + self.known.matched
        for value, pairs, price in zip(cuts.values, kept, self.witness.prices(cuts), strict=True):
            after, recall = (share and Share(*share) for share in (price.after, price.recall))
            choices.append(Choice(float(value), int(pairs), after, recall))
        return choices[::-1]

    def estimates(self, cutoff: float, kept: Counts) -> Estimates:
        """Returns what a cut-off does.

        Args:
            cutoff: The cut-off.
            kept: [s], how many pairs that nobody labelled it keeps.
        """
        price = self.witness.prices(Cuts(np.array([cutoff]), kept[:, None]))[0]
        before, after, recall = (share and self._estimate(share) for share in price)
        assert before is not None, "a noise rate can always be estimated"
        return Estimates(before, after, recall)

    def _estimate(self, share: Interval) -> Estimate:
        return Estimate(*share, LEVEL, self.source)

    def _refused(self, refusal: Refusal, target: float) -> PrecisionError:
        if not self.promises:
            return PrecisionError(
                f"The trusted pairs can promise nothing: {_NEAR_MISSES}.",
                "Label pairs drawn at random from these shards, and give them with --sample.",
            )
        what = "trusted pairs" if self.kind == "trusted_pairs" else "labels of the random sample"
        message = (
            f"No cut-off is {LEVEL:.0%} sure to keep pairs of which {target * 100:g}% are matched. "
            f"The {refusal.labelled:,} {what} show no more than {refusal.best:.1%}"
        )
        if refusal.needed is None:
            return PrecisionError(
                f"{message}, and no number of pairs like these would do.",
                "Ask for a lower precision; docs/cutoffs.md says what else helps.",
            )
        return PrecisionError(
            f"{message}; about {refusal.needed:,} would do if they are like these.",
            "Label more pairs, or ask for a lower precision.",
        )


def opposite(estimate: Estimate | None) -> Estimate | None:
    """Returns the share of all others."""
    if estimate is None:
        return None
    share = Interval(estimate.value, estimate.low, estimate.high).complement()
    return Estimate(*share, estimate.level, estimate.source)


def _from_trusted(tally: Tally, judges: Judges) -> str:
    """Says which trusted pairs speak for the pairs that are there."""
    fitted, unseen = (counts.total > 0 for counts in tally.unlabelled)
    scored = " and ".join(["the pool's"] * fitted + ["held-out"] * unseen) + " ones"
    rate = f"the scores of {scored}"
    if fitted and judges.fitted.noise is not None:
        rate = f"the frozen evidence of all of them and {rate}"
    return _FROM_TRUSTED.format(rate, scored)
