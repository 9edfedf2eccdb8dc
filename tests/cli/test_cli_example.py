from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nccleaner_cli.example import count_rows, read_example, surest_rejects


def test_the_example_is_found_and_counted():
    example = read_example()
    assert example.shards.is_dir()
    assert len(example.truth.read_text().splitlines()) == example.pairs + 1
    assert 0 < example.shuffled < example.pairs
    assert 150 <= example.looked_at < example.pairs


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def reject(key: str, probability: float | None, corrected: float | None, reason: str):
    return {
        "shard": "00000",
        "key": key,
        "title": f"title {key}",
        "caption": f"caption {key}",
        "clean_probability": probability,
        "corrected_similarity": corrected,
        "reason": reason,
    }


def test_rows_are_counted_and_the_surest_rejects_come_first(tmp_path: Path):
    write(tmp_path / "manifest" / "00000.parquet", [{"key": "a"}, {"key": "b"}])
    write(
        tmp_path / "rejected" / "00000.parquet",
        [
            reject("c", 0.4, 0.1, "mismatched"),
            reject("d", 0.0, 0.2, "mismatched"),
            reject("e", None, None, "empty_caption"),
        ],
    )
    write(tmp_path / "rejected" / "00001.parquet", [reject("f", 0.0, 0.1, "mismatched")])
    assert count_rows(tmp_path) == (2, 4)
    assert [found.pair for found in surest_rejects(tmp_path, 2)] == ["00000/f", "00000/d"]
    assert surest_rejects(tmp_path, 1)[0].caption == "caption f"
