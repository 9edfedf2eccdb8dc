"""`search` against a brute-force ranking."""

from __future__ import annotations

import json

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

import nccleaner
from nccleaner.errors import InputError, RunError, ShardError, UsageError


def test_a_kept_pair_is_found_by_its_own_halves_with_its_similarity(fitted, clipart, tmp_path):
    images = {row.key: row for row in clipart.rows}
    for path in sorted((fitted.run / "clean" / "manifest").glob("*.parquet")):
        row = pq.read_table(path).slice(3, 1).to_pylist()[0]
        own = images[row["key"]]
        file = tmp_path / f"{row['key']}.jpg"
        file.write_bytes(own.image)

        by_text = {hit.row: hit for hit in nccleaner.search(fitted.run, own.caption, count=999)}
        by_image = {hit.row: hit for hit in nccleaner.search(fitted.run, file, count=999)}

        for hits, modality in ((by_text, "image"), (by_image, "text")):
            hit = hits[row["row"]]
            # Encoded alone, the query's feature differs by what the encoder rounds.
            assert hit.product == pytest.approx(row["similarity"], abs=1e-2)
            assert (hit.shard, hit.key, hit.caption) == (row["shard"], row["key"], own.caption)
            assert hit.modality == modality


def test_hits_come_best_first_and_all_of_them_at_most(fitted):
    hits = nccleaner.search(fitted.run, "a red bird", count=10_000)
    products = [hit.product for hit in hits]

    assert len(hits) == fitted.purged.summary.kept
    assert products == sorted(products, reverse=True)
    assert nccleaner.search(fitted.run, "a red bird", count=5) == hits[:5]


def test_an_image_is_nearest_to_itself(fitted, clipart, tmp_path):
    row = pq.read_table(fitted.run / "clean" / "manifest" / "00000.parquet").to_pylist()[0]
    index = faiss.read_index(str(fitted.run / "clean" / "index" / "text.faiss"))
    file = tmp_path / "query.jpg"
    file.write_bytes(next(r.image for r in clipart.rows if r.key == row["key"]))

    best = nccleaner.search(fitted.run, file, count=1)[0]

    images = faiss.read_index(str(fitted.run / "clean" / "index" / "image.faiss"))
    query = images.reconstruct(row["row"])
    products = index.reconstruct_n(0, index.ntotal) @ query
    assert best.row == int(np.argmax(products))


@pytest.mark.parametrize(
    ("query", "count", "error"),
    [("", 1, UsageError), ("  ", 1, UsageError), ("a", 0, UsageError), ("no.jpg", 1, InputError)],
)
def test_queries_that_make_no_sense_are_refused(fitted, query, count, error):
    with pytest.raises(error):
        nccleaner.search(fitted.run, query, count=count)


def test_a_file_that_is_no_image_is_refused(fitted, tmp_path):
    (tmp_path / "query.png").write_text("<html>")

    with pytest.raises(InputError, match="undecodable_image"):
        nccleaner.search(fitted.run, tmp_path / "query.png")
    with pytest.raises(InputError):
        nccleaner.search(fitted.run, tmp_path)


def test_any_text_is_a_query(fitted):
    for text in ("日本語", "\x00", "a" * 100_000, "..", "<b>", "\udcff"):
        assert len(nccleaner.search(fitted.run, text, count=1)) == 1


def test_a_folder_without_a_run_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="nccleaner fit"):
        nccleaner.search(tmp_path, "a bird")


def test_a_pair_of_the_shards_is_looked_up_like_its_image(fitted, clipart, tmp_path):
    for folder in ("manifest", "rejected"):
        paths = (fitted.run / "clean" / folder).glob("*.parquet")
        row = next(row for path in paths for row in pq.read_table(path).to_pylist())
        file = tmp_path / "query.jpg"
        file.write_bytes(next(r.image for r in clipart.rows if r.key == row["key"]))

        name = f"{row['shard']}/{row['key']}"
        by_name = nccleaner.search(fitted.run, name, count=999)
        by_image = {hit.row: hit for hit in nccleaner.search(fitted.run, file, count=999)}

        for hit in by_name:
            assert hit.product == pytest.approx(by_image[hit.row].product, abs=1e-2)
        if folder == "manifest":
            own = next(hit for hit in by_name if hit.key == row["key"])
            assert own.product == pytest.approx(row["similarity"], abs=1e-3)


def test_a_pair_that_is_not_there_is_said_and_other_texts_with_a_slash_are_texts(fitted):
    with pytest.raises(InputError, match="no pair 'nobody': it has no such key"):
        nccleaner.search(fitted.run, "00001/nobody")
    assert nccleaner.search(fitted.run, "cats/dogs", count=1)[0].modality == "image"
    assert nccleaner.search(fitted.run, "00001/", count=1)[0].modality == "image"


def test_a_page_shows_what_was_found(fitted, tmp_path):
    hits = nccleaner.search(
        fitted.run, "a <b>red</b> bird", count=7, html=tmp_path / "f" / "o.html"
    )
    page = (tmp_path / "f" / "o.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/jpeg;base64,') == len(hits) == 7
    assert "a &lt;b&gt;red&lt;/b&gt; bird" in page
    assert all(f"{hit.shard}/{hit.key}" in page for hit in hits)


def test_a_page_of_shards_that_changed_is_refused(fitted, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for path in fitted.run.iterdir():
        (run / path.name).symlink_to(path)
    description = json.loads((fitted.run / "run.json").read_text())
    for shard in description["shards"]:
        shard["version"] = "0"
    (run / "run.json").unlink()
    (run / "run.json").write_text(json.dumps(description))
    scores = json.loads((fitted.run / "scores.json").read_text())
    for shard in scores["shards"]:
        shard["version"] = "0"
    (run / "scores.json").unlink()
    (run / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(ShardError):
        nccleaner.search(run, "a bird", html=tmp_path / "found.html")
    assert not (tmp_path / "found.html").exists()
