"""The kept pairs as a set, to filter the original shards while training, without a copy of them.

    keep = KeepSet("my-run")
    ("00012", "000120042") in keep
    webdataset.WebDataset("shards/{00000..00099}.tar").select(keep)
    dataset.filter(keep)                                    # Hugging Face datasets
    table.filter(keep.mask(table["shard"], table["key"]))   # pyarrow
    pyarrow.parquet.read_table("shards/00012.parquet", filters=keep.expression("00012"))

The set is a sorted array of 128-bit hashes in a file beside the manifests, mapped into memory: 16
bytes a pair, shared by all processes of a machine. That among m samples looked up any is taken
wrongly for one of n kept pairs has a probability of at most m n / 2^128: below 10^-20 for a
billion samples and a billion pairs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import starmap
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.data.members import readable_name
from nccleaner.errors import InputError, RunError
from nccleaner.files import refuse_links
from nccleaner.identity import hash_pair, hash_pairs
from nccleaner.output.manifests import manifest_paths, read_manifest, read_manifests
from nccleaner.output.summary import SUMMARY_NAME
from nccleaner.output.uids import to_numbers, write_sorted

# The tar in a URL, or in the command of webdataset's `pipe:`; what follows it may be anything.
_TAR = re.compile(r"""([^/\\\s'"]+)\.(?:tar|tgz)\b""", re.IGNORECASE)


class KeepSet:
    """The pairs that a purge kept.

    The first one that is made after a purge writes the set's file into the run, in time and not
    in memory proportional to the number of pairs; those that follow only map it. Pickling passes
    the place of the file on, and the copy refuses to open when the run was purged again since.

    A pair is its shard and key. Where a key repeats in a shard, at most one of the samples is kept,
    and the set cannot tell the others from it.

    Args:
        run: The run directory, or the `--output` folder of the purge.

    Raises:
        RunError: No purge was finished here, or the set's file can be neither read nor written.
    """

    def __init__(self, run: str | Path) -> None:
        self._run = Path(run)
        clean = self._run / "clean"
        if not (clean / SUMMARY_NAME).exists():
            raise RunError(f"{clean} holds no finished purge.", "Run `nccleaner purge` first.")
        manifests = manifest_paths(clean)
        self._manifests = {path.stem: path for path in manifests}
        self._version = _version(manifests)
        self._hashes = _read(write_keepset(clean))  # [pairs], sorted

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, pair: tuple[str, str]) -> bool:
        shard, key = pair
        return bool(self.mask([shard], [key])[0])

    def __call__(self, sample: Mapping[str, object]) -> bool:
        """Tells whether a sample is kept.

        Args:
            sample: As webdataset yields it, with `__url__` and `__key__`; or any row with `shard`
                and `key`.

        Raises:
            InputError: The sample names neither.
            RunError: The sample's shard was not part of the purge: nobody decided on it.
        """
        shard, key = _name(sample)
        self._check_purged(shard)
        return (shard, key) in self

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        return _reopen, (self._run, self._version)

    def mask(self, shards: Iterable[str], keys: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Tells for n pairs, named by shard and key, which of them are kept.

        Args:
            shards: n names of shards; a column of pyarrow will do.
            keys: n keys.

        Returns:
            A mask [n].
        """
        hashes = _hash(_strings(shards), _strings(keys))
        if not len(self._hashes):
            return np.zeros(len(hashes), bool)
        places = np.searchsorted(self._hashes, hashes)
        found: npt.NDArray[np.bool_] = self._hashes[places.clip(max=len(self) - 1)] == hashes
        return found

    def expression(self, shard: str) -> pc.Expression:
        """The filter with which pyarrow reads only the kept rows of a Parquet file.

        Args:
            shard: Name of the shard that the file is of; its rows tell no more than their `key`.

        Returns:
            An expression over the column `key`. It holds the keys of the shard's kept pairs.

        Raises:
            RunError: The shard was not part of the purge, or the run was purged again since.
        """
        self._check_purged(shard)
        self._check_version(_version(manifest_paths(self._run / "clean")))
        batches = read_manifest(self._manifests[shard], ["key"])
        keys = [str(key) for batch in batches for key in batch["key"].to_pylist()]
        return pc.field("key").isin(pa.array(keys, pa.string()))

    def _check_purged(self, shard: str) -> None:
        if shard not in self._manifests:
            raise RunError(
                f"Shard {shard!r} was not purged in {self._run}; it knows "
                f"{len(self._manifests)} others, {min(self._manifests)!r} for one.",
                "Purge it too, or filter only the shards that were purged.",
            )

    def _check_version(self, version: str) -> None:
        if version != self._version:
            raise RunError(
                f"{self._run} was purged again after this KeepSet was made.", "Make a new KeepSet."
            )


def _reopen(run: Path, version: str) -> KeepSet:
    keep = KeepSet(run)
    keep._check_version(version)
    return keep


def _version(manifests: Sequence[Path]) -> str:
    """Names the state of the manifests: it changes whenever one is written again."""
    stats = [(path.name, path.stat()) for path in manifests]
    text = "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_keepset(clean: Path) -> Path:
    """Writes the file of the set, unless it is there.

    Args:
        clean: The folder that holds `manifest/`.

    Returns:
        The file.

    Raises:
        RunError: Nothing was purged here yet, the file cannot be written, or there are links in
            the run.
    """
    path = clean / f"keepset-{_version(manifest_paths(clean))}.npy"
    if not path.exists():
        refuse_links(clean.parent)
        _write(clean, path)
    return path


def _write(clean: Path, path: Path) -> None:
    hashes = (
        to_numbers(hash_pairs(batch["shard"], batch["key"]))
        for batch in read_manifests(clean, ["shard", "key"])
    )
    try:
        write_sorted(hashes, path)
        for old in set(clean.glob("keepset-*.npy")) - {path}:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"Cannot write {path}: {error}.", "Make a KeepSet once where the run can be written."
        ) from error


def _read(path: Path) -> npt.NDArray[np.void]:
    try:
        hashes: npt.NDArray[np.void] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}", "Remove it: it is made anew.") from error
    return hashes


def _hash(shards: Iterable[str], keys: Iterable[str]) -> npt.NDArray[np.void]:
    # webdataset leaves bytes that are no UTF-8 as Python reads them; manifests write them out.
    written = map(readable_name, keys)
    return to_numbers(b"".join(starmap(hash_pair, zip(shards, written, strict=True))))


def _name(sample: Mapping[str, object]) -> tuple[str, str]:
    """The shard and the key of a sample, as webdataset or a table tells them."""
    if "__key__" in sample and "__url__" in sample:
        url = str(sample["__url__"])
        tars = _TAR.findall(url)
        return tars[-1] if tars else PurePosixPath(url).stem, str(sample["__key__"])
    if "shard" in sample and "key" in sample:
        return str(sample["shard"]), str(sample["key"])
    raise InputError(
        f"A sample needs `__url__` and `__key__`, or `shard` and `key`; it has {sorted(sample)}.",
        "Filter before these fields are dropped.",
    )


def _strings(column: Iterable[str]) -> Iterable[str]:
    # The items of a pyarrow array are not strings but scalars.
    return column.to_pylist() if hasattr(column, "to_pylist") else column
