"""Parts and labelled pairs to the tables that training sees: features, pool, trusted parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from nccleaner.config import RunConfig
from nccleaner.data.features import FeaturePart
from nccleaner.data.split import plant_probes, split_trusted
from nccleaner.encoders.tokens import train_tokenizer
from nccleaner.errors import InputError, TrustedError
from nccleaner.pipeline.labelled import LabelledPair
from nccleaner.records import OK, Shard
from nccleaner.train.pairs import Features, Pairs, TrustedPairs

_MIN_POOL = 20
_MIN_EACH = 2  # matched and mismatched pairs, of which one is scored by what the other taught


@dataclass(frozen=True, slots=True)
class TrainingTables:
    """All that training and calibration need.

    Attributes:
        features: Images and captions, each once; memory-mapped where they are features.
        identities: [images] int64, a number from the content of each image.
        pool: The noisy pairs; the planted probes come last.
        pool_samples: `shard` and `key` of the samples that are in the pool as they are.
        probe_matched: [probes] bool, whether a probe's caption is its own.
        meta: Trusted pairs that guide training.
        held_out: Trusted pairs that choose the snapshot and judge what is not in the pool.
        tokenizer: As JSON text; empty where captions come as features.
        vocabulary: Token ids; 0 where captions come as features.
    """

    features: Features
    identities: Tensor
    pool: Pairs
    pool_samples: pa.Table
    probe_matched: npt.NDArray[np.bool_]
    meta: TrustedPairs
    held_out: TrustedPairs
    tokenizer: str
    vocabulary: int


def build_tables(
    shards: Sequence[Shard],
    parts: Sequence[FeaturePart],
    labelled: Sequence[LabelledPair],
    *,
    config: RunConfig,
    folder: Path,
) -> TrainingTables:
    """Builds the tables.

    Args:
        shards: The input.
        parts: Their features.
        labelled: The trusted pairs.
        config: Seed, shares, caps.
        folder: Where the feature tables are written, to be memory-mapped.

    Raises:
        InputError: The shards hold too few pairs beside the trusted ones.
        TrustedError: The trusted pairs are too alike to make mismatched ones of them.
    """
    labels = [item.pair.label for item in labelled]
    groups = [item.image_sha256 for item in labelled]
    shares = (config.trusted.meta, config.trusted.probe, config.trusted.held_out)
    split = split_trusted(labels, groups=groups, seed=config.seed, shares=shares)
    probes = [labelled[index] for index in split.probe]
    planted = plant_probes(
        [item.pair.label for item in probes],
        [item.pair.caption for item in probes],
        groups=[item.image_sha256 for item in probes],
        seed=config.seed,
    )

    rows = _Rows.choose(shards, parts, labelled, config.train.max_pairs, config.seed)
    if len(rows.captions) < _MIN_POOL:
        raise InputError(
            f"The shards hold {len(rows.captions)} pairs that are not trusted; at least "
            f"{_MIN_POOL} are needed to learn from.",
            "Give more shards, or a smaller trusted file.",
        )
    image_of, images = _factorise([*rows.image_sha256, *groups])
    text_of, texts = _factorise([*rows.captions, *(item.pair.caption for item in labelled)])
    folder.mkdir(parents=True, exist_ok=True)
    image_table = _write_features(folder / "image.npy", rows, parts, labelled, image_of, "image")
    tokenizer, vocabulary = "", 0
    if parts[0].text is None:
        trained = train_tokenizer(texts, vocabulary=config.model.vocabulary)
        tokens = trained.encode(texts, max_tokens=config.model.max_tokens)
        text_table, tokenizer = torch.from_numpy(tokens), trained.to_json()
        vocabulary = trained.vocabulary
    else:
        text_table = _write_features(folder / "text.npy", rows, parts, labelled, text_of, "text")

    count = len(rows.captions)
    noisy = _pairs(image_of[:count], text_of[:count])
    trusted = _pairs(image_of[count:], text_of[count:])
    probe_pairs = trusted.take(torch.from_numpy(split.probe))
    meta = _by_label(trusted, split.meta, labels)
    held_out = _by_label(trusted, split.held_out, labels)
    kept, exchanged = planted.matched.sum(), (~planted.matched).sum()
    if min(kept, exchanged) < _MIN_EACH or not (_differ(meta) and _differ(held_out)):
        raise TrustedError(
            "The trusted pairs have too few different images or captions: no mismatched pairs can "
            "be made of them by exchanging captions.",
            "Add trusted pairs of other images with other captions.",
        )
    own_text = torch.from_numpy(planted.caption_from)
    probe_pairs = Pairs(probe_pairs.image_rows, probe_pairs.text_rows[own_text])
    return TrainingTables(
        features=Features(image_table, text_table),
        identities=torch.tensor([_identity(sha) for sha in images]),
        pool=_joined(noisy, probe_pairs),
        pool_samples=rows.samples_with(
            [item for place, item in enumerate(probes) if planted.caption_from[place] == place]
        ),
        probe_matched=planted.matched,
        meta=meta,
        held_out=held_out,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
    )


def image_identities(sha256: Sequence[str]) -> Tensor:
    """Returns the numbers by which images are told apart, [n] int64, from their digests."""
    return torch.tensor([_identity(digest) for digest in sha256], dtype=torch.int64)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The noisy pairs that were chosen, column by column."""

    part: npt.NDArray[np.int64]
    image_row: npt.NDArray[np.int64]
    text_row: npt.NDArray[np.int64]
    image_sha256: list[str]
    captions: list[str]
    samples: pa.Table

    @staticmethod
    def choose(
        shards: Sequence[Shard],
        parts: Sequence[FeaturePart],
        labelled: Sequence[LabelledPair],
        max_pairs: int,
        seed: int,
    ) -> _Rows:
        total = sum(part.report.pairs for part in parts)
        share = min(1.0, max_pairs / max(total, 1))
        # A copy of a trusted pair under another key would be a trusted pair in the pool.
        trusted = {(item.image_sha256, item.pair.caption) for item in labelled}
        trusted_images = pa.array(sorted({sha for sha, _ in trusted}), pa.string())
        chosen = []
        for index, (shard, part) in enumerate(zip(shards, parts, strict=True)):
            samples = part.samples
            drawn = np.random.default_rng([seed, index]).random(samples.num_rows) < share
            mask = pc.and_(pc.equal(samples["status"], OK), pa.array(drawn))
            table = samples.filter(mask).select(
                ["key", "caption", "image_sha256", "image_row", "text_row"]
            )
            known = pc.is_in(table["image_sha256"], value_set=trusted_images).to_numpy()
            free = np.ones(table.num_rows, dtype=bool)
            for row in np.flatnonzero(known):
                pair = (table["image_sha256"][row].as_py(), table["caption"][row].as_py())
                free[row] = pair not in trusted
            table = table.filter(pa.array(free))
            names = pa.array([shard.name] * table.num_rows, pa.string())
            parts_column = pa.array(np.full(table.num_rows, index), pa.int64())
            chosen.append(table.append_column("shard", names).append_column("part", parts_column))
        joined = pa.concat_tables(chosen)
        return _Rows(
            joined["part"].to_numpy(),
            joined["image_row"].to_numpy().astype(np.int64),
            joined["text_row"].to_numpy().astype(np.int64),
            joined["image_sha256"].to_pylist(),
            joined["caption"].to_pylist(),
            joined.select(["shard", "key"]),
        )

    def samples_with(self, probes: Sequence[LabelledPair]) -> pa.Table:
        """The samples of the pool, and of probes that were planted as the shards have them."""
        inside = [
            {"shard": item.pair.shard, "key": item.pair.key}
            for item in probes
            if item.pair.shard is not None and not item.pair.overrides_caption
        ]
        return pa.concat_tables(
            [self.samples, pa.Table.from_pylist(inside, schema=self.samples.schema)]
        )


def _factorise(values: list[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Numbers values by first appearance."""
    encoded = pa.array(values, pa.string()).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _write_features(
    path: Path,
    rows: _Rows,
    parts: Sequence[FeaturePart],
    labelled: Sequence[LabelledPair],
    row_of: npt.NDArray[np.int64],
    kind: str,
) -> Tensor:
    """Writes one row for each distinct image or caption, and maps the file into memory."""
    width = len(getattr(labelled[0], kind))
    table = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float16, shape=(int(row_of.max()) + 1, width)
    )
    count = len(rows.captions)
    local = rows.image_row if kind == "image" else rows.text_row
    for index, part in enumerate(parts):
        mine = np.flatnonzero(rows.part == index)
        table[row_of[:count][mine]] = getattr(part, kind)[local[mine]]
    for place, item in zip(row_of[count:], labelled, strict=True):
        table[place] = getattr(item, kind)
    return torch.from_numpy(table)


def _identity(sha256: str) -> int:
    return int(sha256[:15], 16)


def _pairs(image_rows: npt.NDArray[np.int64], text_rows: npt.NDArray[np.int64]) -> Pairs:
    return Pairs(torch.from_numpy(image_rows.copy()), torch.from_numpy(text_rows.copy()))


def _joined(first: Pairs, second: Pairs) -> Pairs:
    return Pairs(
        torch.cat([first.image_rows, second.image_rows]),
        torch.cat([first.text_rows, second.text_rows]),
    )


def _by_label(trusted: Pairs, index: npt.NDArray[np.int64], labels: Sequence[int]) -> TrustedPairs:
    matched = np.asarray(labels)[index] == 1
    return TrustedPairs(
        trusted.take(torch.from_numpy(index[matched])),
        trusted.take(torch.from_numpy(index[~matched])),
    )


def _differ(trusted: TrustedPairs) -> bool:
    """Tells whether there are matched pairs and, given or by exchange, mismatched ones."""
    matched, mismatched = trusted
    kinds = min(len(set(rows.tolist())) for rows in (matched.image_rows, matched.text_rows))
    return len(matched) >= _MIN_EACH and (kinds > 1 or len(mismatched) >= _MIN_EACH)
