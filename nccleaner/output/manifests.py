"""The manifests: per shard one Parquet file of the kept pairs and one of everything else.

In: the shard's own metadata, its scores and the decision, all one row per sample in the order of
the shard. Out: `manifest/<shard>.parquet` and `rejected/<shard>.parquet`, which together hold
every sample exactly once, in the order of the shard.

A shard's own columns keep their names, types and places; the columns of nccleaner follow. Where a
name is taken (img2dataset has a `status` of its own, LAION a `similarity`), the column of
nccleaner is called `nccleaner_<name>`, and the schema of the file remembers it, so that
`read_manifests` finds it. It also remembers the stamp of what decided its content: files that would
come out the same need not be written again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nccleaner.errors import RunError
from nccleaner.files import PARQUET_OPTIONS, replace_file
from nccleaner.identity import UID_PATTERN, derive_uid
from nccleaner.records import OK

MANIFEST_FOLDER = "manifest"
REJECTED_FOLDER = "rejected"

# Columns that name a sample: where the shard's own column says the same, it serves for ours too.
_NAMING_COLUMNS = ("shard", "key", "uid")
# Where the schema keeps what our columns are called in this file: JSON, ours -> as written.
_NAMES_KEY = b"nccleaner"
# Where the schema keeps the stamp, and what became of the shard as JSON.
_STAMP_KEY, _REPORT_KEY = b"nccleaner.stamp", b"nccleaner.report"


@dataclass(frozen=True, slots=True)
class ManifestReport:
    """What became of one shard.

    Attributes:
        shard: Name of the shard.
        kept: Rows of its manifest.
        dropped: Rows of its rejects, by reason.
        renamed: Columns of nccleaner whose name was taken, and what they are called instead.
        derived_uids: Samples, kept or not, whose uid is derived, as the shard has none for them.
    """

    shard: str
    kept: int
    dropped: Mapping[str, int]
    renamed: Mapping[str, str]
    derived_uids: int


class Written(NamedTuple):
    """What is there of a shard.

    Attributes:
        stamp: Of what decided the content of both files.
        report: What became of the shard.
    """

    stamp: str
    report: ManifestReport


def write_manifest(
    clean: Path,
    *,
    shard: str,
    metadata: pa.Table,
    scores: pa.Table,
    keep: npt.NDArray[np.bool_],
    reasons: pa.ChunkedArray,
    uids: pa.ChunkedArray,
    first_row: int,
    stamp: str,
) -> ManifestReport:
    """Writes one shard's manifest and rejects.

    After an error nothing half-written is there. The manifest gets its name last: a shard is done
    when its manifest is there. While both are exchanged for those of an earlier purge there is no
    manifest, and never one that does not belong to the rejects beside it.

    Args:
        clean: The folder that holds `manifest/` and `rejected/`.
        shard: Name of the shard.
        metadata: The shard's own columns, n rows.
        scores: The score columns, n rows; `shard`, `key` and `status` are among them.
        keep: Which samples are kept, n values. Only pairs can be kept.
        reasons: Why a sample is not kept, n strings; those of kept samples are not looked at.
        uids: The uids of the samples, n strings. One that is no uid is replaced by a derived one.
        first_row: Row of the shard's first kept pair in the FAISS indexes.
        stamp: Differs wherever any of the others does.

    Returns:
        What was kept, dropped, renamed and derived.

    Raises:
        RunError: Metadata, scores and uids are not about the same samples.
    """
    _check_same_samples(shard, metadata, scores, uids)
    uids = _whole_uids(shard, scores["key"], uids)
    rows = np.full(len(keep), -1, np.int64)
    rows[keep] = first_row + np.arange(np.count_nonzero(keep))
    ours = {
        "uid": uids,
        **{name: scores[name] for name in scores.column_names},
        "row": pa.chunked_array([pa.array(rows, mask=~keep)]),
    }
    table, names = _add_columns(metadata.replace_schema_metadata(None), ours)
    kept = table.filter(pa.array(keep))
    dropped = reasons.filter(pa.array(~keep))
    rejected, reject_names = _add_columns(table.filter(pa.array(~keep)), {"reason": dropped})
    _check_partition(scores, keep, kept, dropped)

    report = ManifestReport(
        shard=shard,
        kept=kept.num_rows,
        dropped={count["values"]: count["counts"] for count in dropped.value_counts().to_pylist()},
        renamed={n: written for n, written in (names | reject_names).items() if n != written},
        derived_uids=len(uids) - _count_equal(metadata, "uid", uids),
    )
    written = Written(stamp, report)
    manifest_path, rejected_path = _paths(clean, shard)
    # Left in reverse order: the rejects get their name first.
    with replace_file(manifest_path) as manifest_file, replace_file(rejected_path) as rejected_file:
        with ThreadPoolExecutor(1) as beside:  # most of the time of a purge is compression
            rejecting = beside.submit(
                _write, rejected, rejected_file, names | reject_names, written
            )
            _write(kept, manifest_file, names, written)
            rejecting.result()
        manifest_path.unlink(missing_ok=True)
    return report


def read_written(clean: Path, shard: str) -> Written | None:
    """Tells what is there of a shard; None unless both of its files are, and belong together."""
    found = []
    for path in _paths(clean, shard):
        try:
            notes = pq.read_schema(path).metadata or {}
        except (OSError, pa.ArrowException):
            return None
        if _STAMP_KEY not in notes:
            return None
        found.append((notes[_STAMP_KEY].decode(), notes[_REPORT_KEY]))
    if found[0] != found[1]:
        return None
    stamp, report = found[0]
    return Written(stamp, ManifestReport(**json.loads(report)))


def paths_of_others(clean: Path, shards: Collection[str]) -> list[Path]:
    """Lists the manifests and rejects in `clean` of all shards but these."""
    known = {path for shard in shards for path in _paths(clean, shard)}
    return [
        path
        for folder in (MANIFEST_FOLDER, REJECTED_FOLDER)
        for path in (clean / folder).glob("*.parquet")
        if path not in known
    ]


def manifest_paths(clean: Path) -> list[Path]:
    """Lists the manifests in `clean`, by name of the shard.

    Raises:
        RunError: Nothing was purged here yet.
    """
    paths = sorted((clean / MANIFEST_FOLDER).glob("*.parquet"), key=lambda path: path.stem)
    if not paths:
        raise RunError(f"{clean} holds no manifests.", "Run `nccleaner purge` first.")
    return paths


def read_manifests(clean: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Reads columns of nccleaner from all manifests in `clean`, a batch at a time.

    Args:
        clean: The folder that holds `manifest/`.
        columns: Their names by the contract, for example `key`, whatever they are called in a
            manifest whose shard had taken the name.

    Yields:
        Batches with these columns in this order.

    Raises:
        RunError: Nothing was purged here yet, or a manifest was not written by nccleaner.
    """
    for path in manifest_paths(clean):
        yield from read_manifest(path, columns)


def read_manifest(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Reads columns of nccleaner from one manifest; see `read_manifests`."""
    with pq.ParquetFile(path) as file:
        names = names_in(path, file.schema_arrow)
        written = [names[column] for column in columns]
        for batch in file.iter_batches(columns=written):
            yield batch.select(written).rename_columns(list(columns))


def read_outcomes(clean: Path, shard: str, columns: Sequence[str]) -> pa.Table:
    """Reads columns of nccleaner of all samples of a shard, kept ones first.

    Args:
        clean: The folder that holds `manifest/` and `rejected/`.
        shard: Name of the shard.
        columns: As for `read_manifests`.

    Returns:
        These columns in this order, then `reason`, null where the sample is kept. What names a
        sample is text, whatever its type in the shard.

    Raises:
        RunError: The files were not written by nccleaner.
    """
    tables = []
    for folder in (MANIFEST_FOLDER, REJECTED_FOLDER):
        path = clean / folder / f"{shard}.parquet"
        wanted = [*columns, "reason"] if folder == REJECTED_FOLDER else list(columns)
        with pq.ParquetFile(path) as file:
            names = names_in(path, file.schema_arrow)
            written = [names[column] for column in wanted]
            table = file.read(columns=written).select(written)
        tables.append(
            pa.table(
                {
                    ours: table[own].cast(pa.string()) if ours in _NAMING_COLUMNS else table[own]
                    for ours, own in zip(wanted, written, strict=True)
                }
            )
        )
    return pa.concat_tables(tables, promote_options="default")


def _whole_uids(shard: str, keys: pa.ChunkedArray, uids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Derives those that are none."""
    is_uid = pc.match_substring_regex(uids, f"^{UID_PATTERN}$").fill_null(False)
    if pc.all(is_uid, min_count=0).as_py():
        return uids
    places = np.flatnonzero(~is_uid.to_numpy())
    whole = uids.to_numpy().copy()
    whole[places] = [derive_uid(shard, key) for key in keys.take(places).to_pylist()]
    return pa.chunked_array([pa.array(whole, pa.string())])


def _count_equal(table: pa.Table, name: str, column: pa.ChunkedArray) -> int:
    """Counts the samples of which the table's own column, where it has one, says the same."""
    try:
        equal = pc.equal(table[name].cast(pa.string()), column)
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return 0
    return pc.sum(equal, min_count=0).as_py() or 0


def _add_columns(
    table: pa.Table, ours: Mapping[str, pa.ChunkedArray]
) -> tuple[pa.Table, dict[str, str]]:
    """Appends our columns; returns also what each is called in the result."""
    names = {}
    for name, column in ours.items():
        served = _serve(table, name, column) if name in _NAMING_COLUMNS else None
        if served is not None:
            names[name], table = name, served
        else:
            names[name] = free_name(name, table.column_names)
            table = table.append_column(names[name], column)
    return table, names


def _serve(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table | None:
    """Lets the table's own column `name` serve for `column`, if no value of it says otherwise.

    Its nulls are filled: a sample that is missing in img2dataset's Parquet still has its key.
    """
    if name not in table.column_names:
        return None
    own = table[name]
    try:
        agrees = pc.all(pc.equal(own.cast(pa.string()), column), min_count=0).as_py()
        filled = column.cast(own.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    index = table.column_names.index(name)
    return table.set_column(index, table.schema.field(index), filled) if agrees else None


def free_name(name: str, taken: Collection[str]) -> str:
    """What a column of nccleaner is called where the shards' own are called `taken`."""
    while name in taken:
        name = f"nccleaner_{name}"
    return name


def _paths(clean: Path, shard: str) -> tuple[Path, Path]:
    name = f"{shard}.parquet"
    return clean / MANIFEST_FOLDER / name, clean / REJECTED_FOLDER / name


def _write(table: pa.Table, path: Path, names: Mapping[str, str], written: Written) -> None:
    schema_metadata = {
        _NAMES_KEY: json.dumps(names).encode(),
        _STAMP_KEY: written.stamp.encode(),
        _REPORT_KEY: json.dumps(asdict(written.report)).encode(),
    }
    pq.write_table(table.replace_schema_metadata(schema_metadata), path, **PARQUET_OPTIONS)


def names_in(path: Path, schema: pa.Schema) -> dict[str, str]:
    """What the columns of nccleaner are called in a manifest: by the contract -> as written.

    Raises:
        RunError: The schema is not one that nccleaner wrote.
    """
    names = (schema.metadata or {}).get(_NAMES_KEY)
    if names is None:
        raise RunError(
            f"{path} was not written by `nccleaner purge`.", "Move it out of the folder."
        )
    return dict(json.loads(names))


def _check_same_samples(
    shard: str, metadata: pa.Table, scores: pa.Table, uids: pa.ChunkedArray
) -> None:
    """Raises RunError unless the three tell of the same number of samples, all of `shard`."""
    counts = {"scores": scores.num_rows, "metadata": metadata.num_rows, "uids": len(uids)}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} rows of {name}" for name, count in counts.items())
        raise RunError(
            f"Shard {shard!r}: expected one row per sample everywhere, found {found}.",
            "Its features and its scores come from different runs: delete both and score again.",
        )
    others = set(pc.unique(scores["shard"]).to_pylist()) - {shard}
    if others:
        raise RunError(
            f"Shard {shard!r}: its scores are about {sorted(map(str, others))}.",
            "Delete them and score again.",
        )


def _check_partition(
    scores: pa.Table, keep: npt.NDArray[np.bool_], kept: pa.Table, dropped: pa.ChunkedArray
) -> None:
    """Asserts that every sample is kept or dropped with a reason, and that only pairs are kept."""
    mask = pa.array(keep)
    kept_keys = scores["key"].filter(mask)
    assert kept.num_rows + len(dropped) == scores.num_rows, "a sample is lost"
    assert not {OK, "", None} & set(dropped.unique().to_pylist()), (
        "a sample is dropped without a reason"
    )
    assert pc.all(pc.equal(scores["status"].filter(mask), OK), min_count=0).as_py(), (
        "a reject is kept"
    )
    assert pc.count_distinct(kept_keys).as_py() == kept.num_rows, "kept pairs share a key"
