"""Writes a run that looks finished, of made-up pairs: what scoring and purging are measured on.

    python benchmarks/generated.py runs/1M --pairs 1000000 --no-scores    # to be scored
    python benchmarks/generated.py runs/10M --pairs 10000000 --no-features  # to be purged

Shards of 10,000 samples with the columns of img2dataset and a `uid`, features of the widths of the
embedded encoders, and a scorer of the default size that was judged but not trained. A third of the
captions belong to other images; one sample in a hundred is no pair. Tars and images are not made:
scoring, `purge` and `index` never read them. One shard is in memory at a time, and the same
arguments give the same bytes but for the place of the run, which names the shards.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from nccleaner.config import RunConfig
from nccleaner.data.features import part_fingerprint
from nccleaner.files import PARQUET_OPTIONS, write_json
from nccleaner.pipeline.backbones import limits_of
from nccleaner.pipeline.labelled import LABEL_SCHEMA
from nccleaner.pipeline.results import FitResult, Reading
from nccleaner.pipeline.scored import SCHEMA, write_scores
from nccleaner.pipeline.training import build_architecture
from nccleaner.pipeline.workspace import RunDescription, Workspace, add_inputs
from nccleaner.purify.canonical import CanonicalView
from nccleaner.purify.fit_judge import fit_judge
from nccleaner.purify.frozen import Frozen, FrozenEvidence, FrozenPool
from nccleaner.purify.heads import Prior
from nccleaner.purify.judge import Judges
from nccleaner.purify.scoring import Scorer
from nccleaner.records import OK, UNDECODABLE_IMAGE, Shard, ShardReport
from nccleaner.train.networks import build_networks
from nccleaner.train.pairs import Features, Pairs

SHARD_SAMPLES = 10_000
IMAGE_WIDTH, TEXT_WIDTH = 1280, 384
MISMATCHED, REJECTED = 1 / 3, 0.01
TRUSTED = 1_000
_LATENT = 64
_JUDGED = 4_096
_WORDS, _CAPTION_WORDS = 5_000, 10
_ENCODER = "generated"

Numbers = npt.NDArray[np.float32]


class Samples(NamedTuple):
    """What is made up of the n samples of a shard.

    Attributes:
        is_pair: [n].
        matched: [n], whether the caption belongs to the image.
        columns: What img2dataset would know, n rows.
    """

    is_pair: npt.NDArray[np.bool_]
    matched: npt.NDArray[np.bool_]
    columns: pa.Table


@dataclass(frozen=True)
class GeneratedRun:
    """A run directory to be.

    Attributes:
        root: The directory.
        pairs: Samples of all shards; a few of them are no pairs.
        config: Settings of the fit.
    """

    root: Path
    pairs: int
    config: RunConfig

    @property
    def workspace(self) -> Workspace:
        """The paths in it."""
        return Workspace(self.root)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Shards that are not there."""
        folder = self.root.absolute() / "shards"
        count = -(-self.pairs // SHARD_SAMPLES)
        return tuple(
            Shard(f"{number:05d}", str(folder / f"{number:05d}.tar"), "webdataset", size_bytes=1)
            for number in range(count)
        )

    def write(self, *, features: bool, scores: bool) -> None:
        """Writes it.

        Args:
            features: Whether to fill the features; else they are zeros that take no space.
            scores: Whether to make up scores.
        """
        shards = self.shards
        identity = make_scorer(self.config).save(self.workspace.scorer)
        pool = self._write_labels()
        self._write_description(len(pool))
        for number, shard in enumerate(shards):
            count = min(SHARD_SAMPLES, self.pairs - number * SHARD_SAMPLES)
            samples = make_samples(number, count)
            self._write_part(shard, number, samples, features=features)
            if scores:
                first, end = np.searchsorted(
                    pool, [number * SHARD_SAMPLES, (number + 1) * SHARD_SAMPLES]
                )
                fitted = np.zeros(count, bool)
                fitted[pool[first:end] - number * SHARD_SAMPLES] = True
                table = make_scores(shard.name, number, samples, fitted=fitted)
                write_scores(table, self._scores_path(shard), shard, identity)
        if scores:
            add_inputs(self.workspace, shards)

    def _scores_path(self, shard: Shard) -> Path:
        return self.workspace.scores / f"{shard.name}.parquet"

    def _write_labels(self) -> npt.NDArray[np.int64]:
        """Draws the pool and the trusted pairs; returns the places of the pool, which ascend."""
        draw = np.random.default_rng(1)
        trusted = np.unique(draw.integers(self.pairs, size=min(TRUSTED, self.pairs // 20)))
        places = np.unique(draw.integers(self.pairs, size=self.config.train.max_pairs))
        places = np.setdiff1d(places, trusted)
        belief = np.full(len(places), 1 - MISMATCHED, np.float32)
        pool = pa.table(
            [_shards_of(places), _keys_of(places), belief], names=["shard", "key", "belief"]
        )
        columns = [_shards_of(trusted), _keys_of(trusted), np.ones(len(trusted), np.int8)]
        _write_table(pool, self.workspace.pool)
        _write_table(pa.table(columns, schema=LABEL_SCHEMA), self.workspace.trusted)
        return places

    def _write_description(self, pool: int) -> None:
        reading = Reading(len(self.shards), self.pairs, self.pairs, {}, {})
        result = FitResult(
            run=self.root,
            reading=reading,
            trusted={"meta": TRUSTED, "probe": 0, "held_out": 0, "sample": 0},
            trusted_problems=(),
            warning="",
            pool=pool,
            epochs=0,
            best_epoch=0,
            held_out_auroc=0.5,
            probe_auroc=0.5,
            exchanged=0,
            noise_rate=MISMATCHED,
            training_s=0.0,
            seconds=0.0,
        )
        RunDescription(
            config=self.config,
            shards=self.shards,
            trusted=Path("trusted.csv"),
            image_encoder=_ENCODER,
            text_encoder=_ENCODER,
            device="cpu",
            result={**asdict(result), "run": str(self.root)},
        ).write(self.workspace.description)

    def _write_part(self, shard: Shard, number: int, samples: Samples, *, features: bool) -> None:
        folder = self.workspace.features / shard.name
        folder.mkdir(parents=True, exist_ok=True)
        is_pair, columns = samples.is_pair, samples.columns
        pairs, count = int(is_pair.sum()), len(is_pair)
        rows = np.where(is_pair, np.cumsum(is_pair) - 1, -1).astype(np.int32)
        table = pa.table(
            {
                "key": columns["key"],
                "status": _status(is_pair),
                "detail": pa.array([""] * count),
                "caption": columns["caption"],
                "uid": columns["uid"],
                "url": columns["url"],
                "image_sha256": columns["sha256"],
                "image_row": rows,
                "text_row": rows,
            }
        )
        _write_table(table, folder / "samples.parquet")
        _write_table(columns, folder / "metadata.parquet")
        if features:
            made = make_features(number, samples.matched[is_pair])
            for name, rows_of in zip(("image", "text"), made, strict=True):
                np.save(folder / f"{name}.npy", rows_of.astype(np.float16))
        else:
            for name, width in (("image", IMAGE_WIDTH), ("text", TEXT_WIDTH)):
                _write_zeros(folder / f"{name}.npy", (pairs, width))
        rejects = {UNDECODABLE_IMAGE: count - pairs} if pairs < count else {}
        report = ShardReport(shard.name, count, pairs, rejects, "")
        fingerprint = part_fingerprint(shard, _ENCODER, _ENCODER, limits_of(self.config.data))
        lengths = {"image": pairs, "text": pairs}
        write_json(
            {"fingerprint": fingerprint, "lengths": lengths, "report": asdict(report)},
            folder / "part.json",
        )


def make_scorer(config: RunConfig) -> Scorer:
    """Makes a scorer that knows what can be known without training."""
    purify = config.purify
    matched = np.arange(_JUDGED) % 2 == 0
    weights = torch.from_numpy(matched.astype(np.float32))
    features = Features(*(torch.from_numpy(made) for made in make_features(-1, matched)))
    architecture = build_architecture(features, config, pool=_JUDGED)
    identities = torch.arange(_JUDGED)
    pairs = Pairs(identities, identities)
    scorer = Scorer(
        architecture=architecture,
        networks=[build_networks(architecture, seed=seed) for seed in range(2)],
        frozen=FrozenEvidence.fit(
            FrozenPool.of(Frozen(*features, identities)),
            weights=weights,
            references=purify.references,
            neighbours=purify.neighbours,
            shrinkage=purify.shrinkage,
            generator=torch.Generator().manual_seed(0),
        ),
        canonical=CanonicalView.fit(*features, weights=weights, shrinkage=purify.shrinkage),
        siblings=False,
        judges=None,
        tokenizer="",
    )
    scorer.find_alternatives(features, pairs, identities=identities, seed=0)
    evidence = scorer.gather(features, pairs, identities=identities)
    rows = evidence.of_rows(slice(None))
    judge = fit_judge(
        rows,
        evidence.similarity,
        matched,
        pool_evidence=rows,
        priors=[Prior(evidence.proportions()) for _ in rows],
        seed=0,
        noise_rate=MISMATCHED,
    )
    scorer.judges = Judges(judge, judge)
    return scorer


def make_features(seed: int, matched: npt.NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Makes images [n, f] and captions [n, l] of n pairs, which share what they show if matched."""
    basis, draw = np.random.default_rng(0), np.random.default_rng([2, seed + 1])
    shown = draw.standard_normal((len(matched), _LATENT), np.float32)
    others = draw.standard_normal(shown.shape, np.float32)
    told = np.where(matched[:, None], shown, others)
    made = []
    for latent, width in ((shown, IMAGE_WIDTH), (told, TEXT_WIDTH)):
        noise = draw.standard_normal((len(latent), width), np.float32)
        made.append(latent @ basis.standard_normal((_LATENT, width), np.float32) / 8 + noise)
    return made[0], made[1]


def make_samples(number: int, count: int) -> Samples:
    """Makes up the samples of a shard, by its number."""
    draw = np.random.default_rng([3, number])
    places = number * SHARD_SAMPLES + np.arange(count)
    is_pair, matched = draw.random(count) >= REJECTED, draw.random(count) >= MISMATCHED
    words = pa.array([f"word{word:04d}" for word in range(_WORDS)])
    said = (words.take(pa.array(draw.integers(_WORDS, size=count))) for _ in range(_CAPTION_WORDS))
    names = _hex(draw, count, digits=24)
    size = draw.integers(128, 1024, size=(2, count), dtype=np.int32)
    columns = {
        "caption": pc.binary_join_element_wise(*said, " "),
        "url": pc.binary_join_element_wise("https://example.com/images/", names, ".jpg", ""),
        "key": _keys_of(places),
        "status": pa.array(["success"] * count),
        "error_message": pa.nulls(count, pa.string()),
        "width": size[0],
        "height": size[1],
        "original_width": size[0],
        "original_height": size[1],
        "exif": pa.array(["{}"] * count),
        "sha256": _hex(draw, count, digits=64),
        "uid": _hex(draw, count, digits=32),
    }
    return Samples(is_pair, matched, pa.table(columns))


def make_scores(
    shard: str, number: int, samples: Samples, *, fitted: npt.NDArray[np.bool_]
) -> pa.Table:
    """Makes up the scores of a shard: high for most matched pairs, low for most others."""
    draw = np.random.default_rng([4, number])
    count, missing = len(samples.matched), ~samples.is_pair
    corrected = np.where(samples.matched, draw.beta(6, 1.5, count), draw.beta(1, 6, count))
    scores = (corrected - 0.4, corrected, corrected**2 / (corrected**2 + (1 - corrected) ** 2))
    columns = [
        pa.array([shard] * count),
        samples.columns["key"],
        *(pa.array(score.astype(np.float32), mask=missing) for score in scores),
        fitted & samples.is_pair,
        _status(samples.is_pair),
    ]
    return pa.table(columns, schema=SCHEMA)


def _status(is_pair: npt.NDArray[np.bool_]) -> pa.Array:
    return pc.if_else(pa.array(is_pair), OK, UNDECODABLE_IMAGE)


def _shards_of(places: npt.NDArray[np.int64]) -> pa.Array:
    return pc.utf8_lpad(pa.array(places // SHARD_SAMPLES).cast(pa.string()), 5, "0")


def _keys_of(places: npt.NDArray[np.int64]) -> pa.Array:
    return pc.utf8_lpad(pa.array(places).cast(pa.string()), 9, "0")


def _hex(draw: np.random.Generator, count: int, *, digits: int) -> pa.Array:
    text = pa.py_buffer(draw.bytes(count * digits // 2).hex().encode())
    ends = pa.py_buffer(np.arange(0, (count + 1) * digits, digits, dtype=np.int32))
    return pa.StringArray.from_buffers(count, ends, text)


def _write_table(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **PARQUET_OPTIONS)


def _write_zeros(path: Path, shape: tuple[int, int]) -> None:
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2 * shape[0] * shape[1])


def main() -> None:
    """Runs the script."""
    title, _, rest = cast(str, __doc__).partition("\n")
    parser = argparse.ArgumentParser(
        description=title, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a new folder")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--no-features", action="store_true", help="zeros that take no space")
    parser.add_argument("--no-scores", action="store_true", help="leave the scoring to nccleaner")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True)
    start = time.monotonic()
    run = GeneratedRun(arguments.run, arguments.pairs, RunConfig())
    run.write(features=not arguments.no_features, scores=not arguments.no_scores)
    print(f"{arguments.pairs:,} pairs in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
