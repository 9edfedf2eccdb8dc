"""The manifests: per shard one Parquet file of the kept pairs and one of everything else.

In: the shard's own metadata, its scores and the decision, all one row per sample in the order of
the shard. Out: `manifest/<shard>.parquet` and `rejected/<shard>.parquet`, which together hold
every sample exactly once, in the order of the shard.

A shard's own columns keep their names, types and places; the columns of nccleaner follow. Where a
name is taken (img2dataset has a `status` of its own, LAION a `similarity`), the column of
nccleaner is called `nccleaner_<name>`, and the schema of the file remembers it, so that
`read_manifests` finds it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nccleaner.errors import RunError
from nccleaner.files import PARQUET_OPTIONS, replace_file
from nccleaner.identity import derive_uid, is_uid
from nccleaner.records import OK

MANIFEST_FOLDER = "manifest"
REJECTED_FOLDER = "rejected"

# Columns that name a sample: where the shard's own column says the same, it serves for ours too.
_NAMING_COLUMNS = ("shard", "key", "uid")
# Where the schema keeps what our columns are called in this file: JSON, ours -> as written.
_NAMES_KEY = b"nccleaner"


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


def write_manifest(
    clean: Path,
    *,
    shard: str,
    metadata: pa.Table,
    scores: pa.Table,
    keep: npt.NDArray[np.bool_],
    reasons: Sequence[str],
    uids: Sequence[str | None],
    first_row: int,
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
        reasons: Why a sample is not kept, n values; those of kept samples are not looked at.
        uids: The uids of the samples, n values. One that is no uid is replaced by a derived one.
        first_row: Row of the shard's first kept pair in the FAISS indexes.

    Returns:
        What was kept, dropped, renamed and derived.

    Raises:
        RunError: Metadata, scores and uids are not about the same samples.
    """
    _check_same_samples(shard, metadata, scores, uids)
    keys = scores["key"].to_pylist()
    uids = [
        uid if is_uid(uid) else derive_uid(shard, key) for uid, key in zip(uids, keys, strict=True)
    ]
    rows = np.full(len(keys), -1, np.int64)
    rows[keep] = first_row + np.arange(np.count_nonzero(keep))
    ours = {
        "uid": pa.chunked_array([pa.array(uids, pa.string())]),
        **{name: scores[name] for name in scores.column_names},
        "row": pa.chunked_array([pa.array(rows, mask=~keep)]),
    }
    table, names = _add_columns(metadata.replace_schema_metadata(None), ours)
    kept = table.filter(pa.array(keep))
    dropped = [reason for reason, is_kept in zip(reasons, keep, strict=True) if not is_kept]
    rejected, reject_names = _add_columns(
        table.filter(pa.array(~keep)),
        {"reason": pa.chunked_array([pa.array(dropped, pa.string())])},
    )
    _check_partition(scores, keep, kept, dropped)

    manifest_path = clean / MANIFEST_FOLDER / f"{shard}.parquet"
    rejected_path = clean / REJECTED_FOLDER / f"{shard}.parquet"
    # Left in reverse order: the rejects get their name first.
    with replace_file(manifest_path) as manifest_file, replace_file(rejected_path) as rejected_file:
        _write(kept, manifest_file, names)
        _write(rejected, rejected_file, names | reject_names)
        manifest_path.unlink(missing_ok=True)

    own_uids = metadata["uid"].to_pylist() if "uid" in metadata.column_names else [None] * len(uids)
    return ManifestReport(
        shard=shard,
        kept=kept.num_rows,
        dropped=dict(Counter(dropped)),
        renamed={n: written for n, written in (names | reject_names).items() if n != written},
        derived_uids=sum(own != uid for own, uid in zip(own_uids, uids, strict=True)),
    )


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


def _write(table: pa.Table, path: Path, names: Mapping[str, str]) -> None:
    schema_metadata = {_NAMES_KEY: json.dumps(names).encode()}
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
    shard: str, metadata: pa.Table, scores: pa.Table, uids: Sequence[str | None]
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
    scores: pa.Table, keep: npt.NDArray[np.bool_], kept: pa.Table, dropped: Sequence[str]
) -> None:
    """Asserts that every sample is kept or dropped with a reason, and that only pairs are kept."""
    mask = pa.array(keep)
    kept_keys = scores["key"].filter(mask)
    assert kept.num_rows + len(dropped) == scores.num_rows, "a sample is lost"
    assert not {OK, "", None} & set(dropped), "a sample is dropped without a reason"
    assert pc.all(pc.equal(scores["status"].filter(mask), OK), min_count=0).as_py(), (
        "a reject is kept"
    )
    assert pc.count_distinct(kept_keys).as_py() == kept.num_rows, "kept pairs share a key"
