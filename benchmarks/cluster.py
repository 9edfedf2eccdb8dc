r"""Computes what a job costs on many machines from measured rates, and simulates its queue.

    python benchmarks/cluster.py --pairs 1e8,5e9 --workers 256 --deaths 0.01 \
        --extraction 33 --scoring 2500 --purge 80000

Rates are pairs a second of one worker: of a GPU as `gpu.sh` measures them, of a core or a machine
as `throughput.py` does. A worker takes one shard after the other from a queue. Shards take
different times, log-normally spread; workers die at random, and the shard that one dies with goes
back to the end of the queue. The closed form says how many worker hours this takes, and when the
last shard is done; the simulation does it shard by shard. What is stored is counted from bytes a
pair, measured on finished runs (docs/scale.md).
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from tables import markdown

_HOUR_S = 3600
_EULER = 0.5772
# Stored for a sample or a kept pair, compressed; the columns of the shards themselves come on top.
_SAMPLES_BYTES, _SCORE_BYTES, _MANIFEST_BYTES = 106, 22, 65
_KEEPSET_BYTES, _UIDS_BYTES, _ID_BYTES = 16, 16, 7
_FLOAT16, _FLOAT32 = 2, 4


@dataclass(frozen=True)
class Queue:
    """Shards that workers take one after the other.

    Attributes:
        shards: How many.
        shard_s: Seconds that a worker takes for one, on average.
        spread: Standard deviation of those seconds, as a share of the average.
        workers: How many work at a time.
        deaths: How often a worker dies in an hour of work.
        start_s: Until another has started in its place.
    """

    shards: int
    shard_s: float
    spread: float = 0.0
    workers: int = 1
    deaths: float = 0.0
    start_s: float = 0.0

    @property
    def _sigma(self) -> float:
        """Of the logarithm of a shard's seconds."""
        return math.sqrt(math.log1p(self.spread**2))

    def expected(self) -> Outcome:
        """Returns the closed form.

        A shard of t seconds that is begun anew whenever its worker dies, at the rate r, takes
        (1 / r + start) (exp(r t) - 1) on average (Daly 2006, without checkpoints), here up to the
        second order of r t. When the queue is empty each worker is somewhere in a shard: what is
        left to do then ends when the longest rest does, not after the average one.
        """
        rate = self.deaths / _HOUR_S
        square = self.shard_s**2 * (1 + self.spread**2)
        work = self.shards * self.shard_s
        retried = self.shards * rate * (square / 2 + self.start_s * self.shard_s)
        busy = min(self.workers, self.shards)
        tail = self._longest_rest(busy) - square / self.shard_s / 2 if busy > 1 else 0.0
        deaths = self.shards * rate * self.shard_s
        return Outcome(work, retried, (work + retried) / busy + tail, deaths)

    def simulate(self, seed: int) -> Outcome:
        """Draws when each shard is done and each worker dies, and returns what came of it."""
        draw = np.random.default_rng(seed)
        sigma = self._sigma
        seconds = self.shard_s * draw.lognormal(-(sigma**2) / 2, sigma, self.shards)
        lives = _Lives(draw, self.deaths / _HOUR_S)
        waiting = deque(range(self.shards))
        # When a worker is free, and the shard that it died with.
        events: list[tuple[float, int]] = [(0.0, -1)] * min(self.workers, self.shards)
        idle = done = deaths = 0
        lost_s = end_s = 0.0
        while done < self.shards:
            now, lost = heapq.heappop(events)
            if lost >= 0:
                waiting.append(lost)
                heapq.heappush(events, (now + self.start_s, -1))
                if not idle:
                    continue
                idle -= 1  # one that had nothing left to do takes it
            if not waiting:
                idle += 1
                continue
            shard = waiting.popleft()
            needed, left = float(seconds[shard]), lives.draw()
            if needed <= left:
                done += 1
                end_s = max(end_s, now + needed)
                heapq.heappush(events, (now + needed, -1))
            else:
                deaths += 1
                lost_s += left + self.start_s
                heapq.heappush(events, (now + left, shard))
        return Outcome(float(seconds.sum()), lost_s, end_s, deaths)

    def _longest_rest(self, workers: int) -> float:
        """Returns the longest of the rests of the shards that as many workers are in.

        A rest is longer than x with a probability of E[max(t - x, 0)] / E[t] (renewal theory),
        which for log-normal t is the formula of Black and Scholes; the longest is where that is
        exp(-0.577) of one in all workers.
        """
        sigma, normal = max(self._sigma, 1e-6), NormalDist()

        def surplus(share: float) -> float:
            below = -math.log(share) / sigma - sigma / 2
            longer = normal.cdf(below + sigma) - share * normal.cdf(below)
            return longer - math.exp(-_EULER) / workers

        return self.shard_s * float(brentq(surplus, 1e-9, 1e6))


class Outcome(NamedTuple):
    """What a queue took.

    Attributes:
        work_s: Seconds of all workers for what was of use.
        retried_s: For what was begun and lost, and for starting workers again.
        wall_s: Until the last shard was done.
        deaths: Of workers.
    """

    work_s: float
    retried_s: float
    wall_s: float
    deaths: float

    @property
    def hours(self) -> float:
        """Of all workers."""
        return (self.work_s + self.retried_s) / _HOUR_S


class _Lives:
    """How long workers live on, drawn many at a time; dying does not depend on age."""

    def __init__(self, draw: np.random.Generator, rate: float) -> None:
        self._draw, self._rate = draw, rate
        self._drawn: list[float] = []

    def draw(self) -> float:
        if not self._rate:
            return math.inf
        if not self._drawn:
            self._drawn = self._draw.exponential(1 / self._rate, 10_000).tolist()
        return self._drawn.pop()


@dataclass(frozen=True)
class Storage:
    """What is stored of a pair, in bytes.

    Attributes:
        image_width: Numbers in an image's feature.
        text_width: In a caption's.
        dim: In a vector of the indexes.
        columns: Of the shard's own columns, compressed.
        kept: Share of the pairs that is kept.
    """

    image_width: int = 1280
    text_width: int = 384
    dim: int = 1280
    columns: int = 100
    kept: float = 0.65

    def bytes_per_pair(self) -> dict[str, float]:
        """Returns bytes for each pair that is read, by what they are for."""
        features = _FLOAT16 * (self.image_width + self.text_width)
        codes = min(64, 2 ** (max(self.dim // 4, 1).bit_length() - 1)) + 8
        return {
            "features": features + _SAMPLES_BYTES + self.columns,
            "scores": _SCORE_BYTES,
            "manifests, rejects, keep set": _MANIFEST_BYTES
            + self.columns
            + self.kept * (_KEEPSET_BYTES + _UIDS_BYTES),
            "index flat": self.kept * (2 * _FLOAT32 * self.dim + _ID_BYTES),
            "index ivf-pq": self.kept * (2 * codes + _ID_BYTES),
        }


def main() -> None:
    """Prints the cost of every stage, and what is stored."""
    arguments = _parse()
    storage = Storage(
        arguments.image_width,
        arguments.text_width,
        arguments.dim,
        arguments.columns,
        arguments.kept,
    )
    stages = {name: getattr(arguments, name) for name in ("extraction", "scoring", "purge")}
    rows = []
    for pairs in arguments.pairs:
        for name, rate in stages.items():
            queue = Queue(
                shards=math.ceil(pairs / arguments.shard),
                shard_s=arguments.shard / rate,
                spread=arguments.spread,
                workers=arguments.workers,
                deaths=arguments.deaths,
                start_s=arguments.start,
            )
            rows.append([f"{pairs:,.0f}", name, f"{rate:,g}", *_cells(queue, arguments.seed)])
    heading = "pairs,stage,pairs/s a worker,worker hours,lost %,deaths,wall h,simulated wall h"
    print(markdown([*heading.split(","), "simulated lost %"], rows))
    stored = storage.bytes_per_pair()
    rows = [
        [name, f"{size:,.0f}", *(f"{size * pairs / 1e12:,.3f}" for pairs in arguments.pairs)]
        for name, size in stored.items()
    ]
    totals = [f"TB of {pairs:,.0f}" for pairs in arguments.pairs]
    print("\n" + markdown(["stored", "bytes a pair", *totals], rows))


def _cells(queue: Queue, seed: int) -> list[str]:
    expected, simulated = queue.expected(), queue.simulate(seed)
    return [
        f"{expected.hours:,.1f}",
        f"{100 * expected.retried_s / expected.work_s:.2f}",
        f"{expected.deaths:,.0f}",
        f"{expected.wall_s / _HOUR_S:,.2f}",
        f"{simulated.wall_s / _HOUR_S:,.2f}",
        f"{100 * simulated.retried_s / simulated.work_s:.2f}",
    ]


def _parse() -> argparse.Namespace:
    title, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=title, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pairs", type=_counts, required=True, metavar="N,...", help="how many; 1e8 is allowed")
    add("--workers", type=int, required=True, help="GPUs, or cores, that work at a time")
    for stage in ("extraction", "scoring", "purge"):
        add(
            f"--{stage}",
            type=float,
            required=True,
            metavar="RATE",
            help="pairs a second, one worker",
        )
    add("--shard", type=int, default=10_000, help="pairs in a shard (10,000)")
    add("--spread", type=float, default=0.3, help="of a shard's time: deviation / mean (0.3)")
    add("--deaths", type=float, default=0.0, help="of a worker in an hour (0)")
    add("--start", type=float, default=60.0, help="seconds until it is replaced (60)")
    defaults = Storage()
    add("--image-width", type=int, default=defaults.image_width, help="of features (1280)")
    add("--text-width", type=int, default=defaults.text_width, help="of features (384)")
    add("--dim", type=int, default=defaults.dim, help="of the indexes' vectors (1280)")
    add(
        "--columns", type=int, default=defaults.columns, help="bytes of a shard's own columns (100)"
    )
    add("--kept", type=float, default=defaults.kept, help="share of the pairs (0.65)")
    add("--seed", type=int, default=0)
    return parser.parse_args()


def _counts(text: str) -> Sequence[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
