import base64
import io
import json
import re
import shutil
from html import unescape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import Row, make_rows, write_webdataset_shard
from click.testing import CliRunner
from PIL import Image
from reports import HOSTILE

import nccleaner
from nccleaner.data.locations import find_shards
from nccleaner.errors import RunError, ShardError
from nccleaner.pipeline.scored import write_scores
from nccleaner_cli.main import cli


@pytest.fixture(scope="module")
def run(fitted, tmp_path_factory) -> Path:
    """A copy of the run, with its report."""
    folder = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(fitted.run, folder)
    nccleaner.report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run) -> str:
    return (run / "clean" / "report.html").read_text("utf-8")


def table_rows(page: str) -> list[dict[str, str]]:
    table = re.search(r'<table id="pairs".*?</table>', page, re.DOTALL)[0]
    return [
        {
            "decision": re.search(r'decision="(\w+)"', row)[1],
            "caption": unescape(re.search(r'class="caption"[^>]*>(.*?)</p>', row, re.DOTALL)[1]),
            "scores": re.findall(r'data-value="([^"]+)"', row),
            "shard/key": re.search(r"<bdi>(.*?)</bdi>", row)[1],
            "image": re.search(r'src="data:image/jpeg;base64,([^"]+)"', row)[1],
        }
        for row in table.split('<tr role="row" data-')[1:]
    ]


def test_the_table_shows_pairs_as_they_are(run, page, clipart):
    rows = {row.key: row for row in clipart.rows}
    decisions = {}
    for folder, word in (("manifest", "kept"), ("rejected", "dropped")):
        for shard in ("00000", "00001"):
            table = pq.read_table(run / "clean" / folder / f"{shard}.parquet")
            for item in table.to_pylist():
                decisions[f"{shard}/{item['key']}"] = (word, item)
    shown = table_rows(page)
    assert len(shown) == len(decisions) == 240
    for row in shown:
        word, item = decisions.pop(row["shard/key"])
        original = rows[item["key"]]
        assert row["decision"] == word
        assert row["caption"] == original.caption
        assert [float(score) for score in row["scores"]] == [
            item[name] for name in ("clean_probability", "corrected_similarity", "similarity")
        ]
        thumbnail = Image.open(io.BytesIO(base64.b64decode(row["image"])))
        with Image.open(io.BytesIO(original.image)) as image:
            assert max(thumbnail.size) <= 160
            ratio = thumbnail.width / thumbnail.height
            assert ratio == pytest.approx(image.width / image.height, rel=0.05)
    assert not decisions


def test_its_figures_are_those_of_the_summary(run, page):
    summary = json.loads((run / "clean" / "summary.json").read_text())
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert f"Kept {summary['kept']:,} of {summary['samples']:,} samples" in text
    for title, name in (
        ("Mismatched before", "mismatched_before"),
        ("Mismatched among the kept", "mismatched_after"),
        ("Good pairs kept", "recall"),
    ):
        estimate = summary[name]
        low, high = 100 * estimate["low"], 100 * estimate["high"]
        assert f"{title} {estimate['value']:.1%} {low:.1f} to {high:.1f}%" in text
    for choice in summary["cut_offs"]:
        assert f"{choice['value']:.4f} {choice['kept']:,}" in text


def test_the_cut_off_is_drawn_where_it_divides_the_pairs(run, page):
    said = float(re.search(r">cut-off ([\d.]+)</text>", page)[1])
    scores = pa.concat_tables(map(pq.read_table, (run / "scores").glob("*.parquet")))
    corrected = scores["corrected_similarity"].to_numpy()
    kept = scores["clean_probability"].to_numpy() > 0.5
    assert corrected[kept].min() >= said - 0.001
    assert corrected[~kept].max() <= said + 0.001


def test_the_same_purge_gives_the_same_page(run):
    path = run / "clean" / "report.html"
    before = path.read_bytes()
    result = nccleaner.report(run)
    assert result.path == path
    assert result.size_bytes == len(before)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "rule", [{"threshold": 0.0}, {"threshold": 1.0}, {"threshold": 0.3, "by": "similarity"}]
)
def test_a_new_purge_takes_the_report_along(run, tmp_path, rule):
    shutil.copytree(run, tmp_path / "run")
    page = tmp_path / "run" / "clean" / "report.html"
    assert page.exists()
    nccleaner.purge(tmp_path / "run", **rule)
    assert not page.exists(), "a page about an earlier purge"
    nccleaner.report(tmp_path / "run")
    assert len(table_rows(page.read_text("utf-8"))) == 240


def test_rejects_and_hostile_captions_of_another_data_set(run, clipart, tmp_path):
    image = clipart.rows[0].image
    rows = [
        Row(f"{n:09d}", caption.encode(errors="replace").decode(), image)
        for n, caption in enumerate(HOSTILE)
        if len(caption) < 10_000
    ]
    rows += [Row("000000090", "a cat", b"no image"), Row("000000091", "", image)]
    write_webdataset_shard(tmp_path / "shards", "00077", rows)
    output = tmp_path / "out"
    nccleaner.score(run, tmp_path / "shards", output=output)
    nccleaner.purge(run, output=output)
    result = nccleaner.report(run, output=output)
    assert result.path == output / "clean" / "report.html"
    page = result.path.read_text("utf-8")
    assert page.count("<script>") == 1
    shown = {row["caption"] for row in table_rows(page)}
    assert shown == {row.caption for row in rows[:-2]}
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "undecodable image 1" in text
    assert "empty caption 1" in text


def test_without_a_purge_there_is_nothing_to_report(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "clean" / "summary.json").unlink()
    with pytest.raises(RunError, match="no finished purge") as caught:
        nccleaner.report(tmp_path / "run")
    assert "nccleaner purge" in str(caught.value)
    with pytest.raises(RunError, match="no finished fit"):
        nccleaner.report(tmp_path / "nothing")


def test_a_summary_of_another_version_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "clean" / "summary.json"
    summary = json.loads(path.read_text())
    del summary["cut_offs"]
    path.write_text(json.dumps(summary))
    with pytest.raises(RunError, match="of another version: cut_offs"):
        nccleaner.report(tmp_path / "run")


def test_scores_of_another_fit_are_refused(run, tmp_path):
    write_webdataset_shard(tmp_path / "shards", "00000", make_rows(5))
    output = tmp_path / "out"
    nccleaner.score(run, tmp_path / "shards", output=output)
    nccleaner.purge(run, output=output)
    scores = output / "scores" / "00000.parquet"
    (shard,) = find_shards(tmp_path / "shards")
    write_scores(pq.read_table(scores), scores, shard, "another scorer")
    with pytest.raises(RunError, match="another fit"):
        nccleaner.report(run, output=output)


def test_of_many_shards_the_worst_are_listed(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr("nccleaner.pipeline.report._SHARDS_LISTED", 1)
    page = nccleaner.report(tmp_path / "run").path.read_text("utf-8")
    kept = {
        path.stem: pq.read_metadata(path).num_rows / samples
        for path, samples in zip(
            sorted((run / "clean" / "manifest").glob("*.parquet")), (140, 100), strict=True
        )
    }
    listed = re.search(r'<table id="shards".*?</table>', page, re.DOTALL)[0]
    assert re.findall(r"<bdi>(.*?)</bdi>", listed) == [min(kept, key=kept.__getitem__)]
    assert "1 of 2 shards: those" in page


def test_shards_that_changed_are_refused(run, tmp_path):
    write_webdataset_shard(tmp_path / "shards", "00000", make_rows(5))
    output = tmp_path / "out"
    nccleaner.score(run, tmp_path / "shards", output=output)
    nccleaner.purge(run, output=output)
    with (tmp_path / "shards" / "00000.tar").open("ab") as file:
        file.write(b"\0" * 512)
    with pytest.raises(ShardError, match="has changed"):
        nccleaner.report(run, output=output)
    assert not (output / "clean" / "report.html").exists()


def test_the_command_says_where_the_page_is(run):
    done = CliRunner().invoke(cli, ["report", "--run", str(run), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["path"] == str(run / "clean" / "report.html")
    assert result["size_bytes"] == Path(result["path"]).stat().st_size
    assert f"Wrote {result['path']}" in done.stderr
    done = CliRunner().invoke(cli, ["report", "--run", str(run / "nothing")])
    assert done.exit_code == 1
    assert "no finished fit" in done.stderr
