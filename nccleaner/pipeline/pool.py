"""Parts and labelled pairs to the tables that training sees: features, pool, trusted parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from nccleaner.config import RunConfig
from nccleaner.data.features import FeatureKind, FeaturePart
from nccleaner.data.split import exchange_some, split_trusted
from nccleaner.encoders.tokens import CaptionTokenizer, train_tokenizer
from nccleaner.errors import InputError, RunError, TrustedError
from nccleaner.files import sync
from nccleaner.pipeline.drawing import PoolRows
from nccleaner.pipeline.labelled import LabelledPair
from nccleaner.records import Shard
from nccleaner.train.pairs import Features, Pairs, TrustedPairs, join_pairs

_FEATURE_FILES = ("image.npy", "text.npy")
_MIN_POOL = 20
_MIN_EACH = 2  # matched and mismatched pairs, of which one is scored by what the other taught


class Tokens(NamedTuple):
    """Captions as token ids.

    Attributes:
        ids: [texts, t] int32, padded on the right with 0.
        tokenizer: What they come from.
    """

    ids: Tensor
    tokenizer: CaptionTokenizer


class Targets(NamedTuple):
    """What reconstruction aims at; its rows are those of the features.

    Attributes:
        images: [images, 64, 64, 3] uint8, memory-mapped; None where it is switched off.
        captions: None where it is switched off.
    """

    images: Tensor | None
    captions: Tokens | None


@dataclass(frozen=True, slots=True)
class TrainingTables:
    """All that training and calibration need.

    Attributes:
        features: Images and captions, each once; memory-mapped where they are features.
        identities: [images] int64, a number from the content of each image.
        pool: The noisy pairs; the probes come last, those that were exchanged after the planted.
        pool_samples: `shard` and `key` of the samples that are in the pool as they are, and their
            `row` in it.
        probe_matched: [probes] bool, whether a probe's caption describes its image.
        probe_exchanged: [probes] bool, whether it is a pair of the shards with another's caption.
        meta: Trusted pairs that guide training.
        held_out: Trusted pairs that choose the snapshot and judge what is not in the pool.
        tokenizer: As JSON text; empty where captions come as features.
        vocabulary: Token ids; 0 where captions come as features.
        targets: Of reconstruction.
    """

    features: Features
    identities: Tensor
    pool: Pairs
    pool_samples: pa.Table
    probe_matched: npt.NDArray[np.bool_]
    probe_exchanged: npt.NDArray[np.bool_]
    meta: TrustedPairs
    held_out: TrustedPairs
    tokenizer: str
    vocabulary: int
    targets: Targets

    def believed_samples(self, belief: npt.NDArray[np.float32]) -> pa.Table:
        """Returns the samples of the pool with how much training believed each.

        Args:
            belief: [pool] in [0, 1].

        Returns:
            `shard`, `key` and `belief`, as `checkpoints/pool.parquet` has them.
        """
        own = belief[self.pool_samples["row"].to_numpy()]
        return self.pool_samples.drop_columns("row").append_column("belief", pa.array(own))

    def has_pairs_of(self, other: TrainingTables) -> bool:
        """Tells whether both have the same pool, row by row, however its features were made."""
        return (
            len(self.pool) == len(other.pool)
            and self.pool_samples.equals(other.pool_samples)
            and np.array_equal(self.probe_matched, other.probe_matched)
        )

    def without_files(self, folder: Path) -> TrainingTables:
        """Returns what is not in the files of `folder`, for a process that maps those itself.

        Reconstruction's targets are left out. The files are on the disk afterwards: the process may
        be on another machine.
        """
        for name in _FEATURE_FILES:
            if (folder / name).exists():
                sync(folder / name)
        nothing = torch.empty(0)
        texts = self.features.texts if self.vocabulary else nothing
        return replace(self, features=Features(nothing, texts), targets=Targets(None, None))

    def with_files(self, folder: Path) -> TrainingTables:
        """Returns them with the files of `folder` mapped into memory again.

        Raises:
            RunError: They are not there.
        """
        images, texts = (folder / name for name in _FEATURE_FILES)
        return replace(
            self,
            features=Features(
                _map_rows(images), self.features.texts if self.vocabulary else _map_rows(texts)
            ),
        )


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
        InputError: The shards hold too few pairs beside the trusted ones, or too few that differ,
            or all images or captions have the same features.
        TrustedError: The trusted pairs are too alike to make mismatched ones of them.
    """
    labels = [item.pair.label for item in labelled]
    groups = [item.image_sha256 for item in labelled]
    shares = (config.trusted.meta, config.trusted.probe, config.trusted.held_out)
    split = split_trusted(labels, groups=groups, seed=config.seed, shares=shares)
    planted = [labelled[index] for index in split.probe]
    planted_matched = np.array([item.pair.label == 1 for item in planted])
    rows = PoolRows.choose(
        shards,
        parts,
        labelled,
        held_out=[groups[index] for index in split.held_out],
        max_pairs=config.train.max_pairs,
        seed=config.seed,
    )
    if len(rows.captions) < _MIN_POOL:
        raise InputError(
            f"The shards hold {len(rows.captions)} pairs that are not trusted; at least "
            f"{_MIN_POOL} are needed to learn from.",
            "Give more shards, or a smaller trusted file.",
        )
    made = exchange_some(
        [*rows.captions, *(item.pair.caption for item in labelled)],
        groups=[*rows.image_sha256, *groups],
        pool=len(rows.captions),
        share=config.purify.exchanged,
        seed=config.seed,
    )
    if len(made.pairs) + (~planted_matched).sum() < _MIN_EACH:
        raise InputError(
            "The pairs of the shards have too few different images or captions: no mismatched "
            "pairs can be made of them by exchanging captions.",
            "Give more shards, or label mismatched pairs too.",
        )
    image_of, images = _factorise([*rows.image_sha256, *groups])
    text_of, texts = _factorise([*rows.captions, *(item.pair.caption for item in labelled)])
    folder.mkdir(parents=True, exist_ok=True)

    def write(kind: FeatureKind | Literal["target"], row_of: npt.NDArray[np.int64]) -> Tensor:
        return _write_rows(folder / f"{kind}.npy", rows, parts, labelled, row_of, kind)

    tokens = None
    if parts[0].text is None or config.train.caption_reconstruction:
        trained = train_tokenizer(texts, vocabulary=config.model.vocabulary)
        ids = trained.encode(texts, max_tokens=config.model.max_tokens)
        tokens = Tokens(torch.from_numpy(ids), trained)
    read = tokens if parts[0].text is None else None

    count = len(rows.captions)
    trusted = _pairs(image_of[count:], text_of[count:])
    own = np.delete(np.arange(count), made.pairs)
    meta = _by_label(trusted, split.meta, labels)
    held_out = _by_label(trusted, split.held_out, labels)
    if planted_matched.sum() < _MIN_EACH or not (_differ(meta) and _differ(held_out)):
        raise TrustedError(
            "The trusted pairs have too few different images or captions: no mismatched pairs can "
            "be made of them by exchanging captions.",
            "Add trusted pairs of other images with other captions.",
        )
    return TrainingTables(
        features=Features(
            write("image", image_of),
            read.ids if read else write("text", text_of),
        ),
        identities=image_identities(images),
        pool=join_pairs(
            _pairs(image_of[own], text_of[own]),
            trusted.take(torch.from_numpy(split.probe)),
            _pairs(image_of[made.pairs], text_of[made.caption_from]),
        ),
        pool_samples=rows.samples_of(own, planted),
        probe_matched=np.append(planted_matched, np.zeros(len(made.pairs), dtype=np.bool_)),
        probe_exchanged=np.arange(len(planted) + len(made.pairs)) >= len(planted),
        meta=meta,
        held_out=held_out,
        tokenizer=read.tokenizer.to_json() if read else "",
        vocabulary=read.tokenizer.vocabulary if read else 0,
        targets=Targets(
            write("target", image_of) if config.train.image_reconstruction else None,
            tokens if config.train.caption_reconstruction else None,
        ),
    )


def image_identities(sha256: Sequence[str]) -> Tensor:
    """Returns the numbers by which images are told apart, [n] int64, from their digests."""
    return torch.tensor([int(digest[:15], 16) for digest in sha256], dtype=torch.int64)


def _factorise(values: list[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Numbers values by first appearance."""
    encoded = pa.array(values, pa.large_string()).dictionary_encode()  # beyond 2 GB of text too
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _write_rows(
    path: Path,
    rows: PoolRows,
    parts: Sequence[FeaturePart],
    labelled: Sequence[LabelledPair],
    row_of: npt.NDArray[np.int64],
    kind: FeatureKind | Literal["target"],
) -> Tensor:
    """Writes one row for each distinct image or caption, and maps the file into memory.

    `kind` is `image` or `target`, which belong to the image, or `text`.
    """
    first = getattr(labelled[0], kind)
    table = np.lib.format.open_memmap(
        path, mode="w+", dtype=first.dtype, shape=(int(row_of.max()) + 1, *first.shape)
    )
    count = len(rows.captions)
    local = rows.text_row if kind == "text" else rows.image_row
    ends = np.searchsorted(rows.part, np.arange(len(parts) + 1))
    for index, closed in enumerate(parts):
        part = closed.unread()  # files that are mapped into memory stay open as long as the part
        mine = slice(ends[index], ends[index + 1])
        wanted = local[mine]
        if kind == "target":
            assert part.target is not None, "parts have targets where they are wanted"
            table[row_of[:count][mine]] = part.target[wanted]
        else:
            table[row_of[:count][mine]] = part.take(kind, wanted)
    for place, item in zip(row_of[count:], labelled, strict=True):
        table[place] = getattr(item, kind)
    if kind != "target":
        _check_different(table, "images" if kind == "image" else "captions")
    return torch.from_numpy(table)


def _check_different(table: npt.NDArray[np.float16], of_what: str) -> None:
    first = table[0].tobytes()
    if len(table) > 1 and all(row.tobytes() == first for row in table):
        raise InputError(
            f"All {len(table)} {of_what} have the same features: nothing can be learned from them.",
            "Check the weights of the encoder, and what it is given.",
        )


def _map_rows(path: Path) -> Tensor:
    try:
        # Copied where it is written to, which it never is: torch warns of what is read-only.
        return torch.from_numpy(np.load(path, mmap_mode="c"))
    except OSError as error:
        raise RunError(
            f"{path} is not there; the first process of this training has written it.",
            "Give a run directory that all machines reach under one name.",
        ) from error


def _pairs(image_rows: npt.NDArray[np.int64], text_rows: npt.NDArray[np.int64]) -> Pairs:
    return Pairs(torch.from_numpy(image_rows.copy()), torch.from_numpy(text_rows.copy()))


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
