"""The kept pairs of a real fit, exported in every format and read back."""

import hashlib
import json
import shlex
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from embedding_reader import EmbeddingReader
from open_clip_train.data import expand_urls
from open_clip_train.params import parse_args
from wdsreading import read_tars

import nccleaner
from nccleaner.errors import InputError, RunError, ShardError, UsageError
from nccleaner_cli.main import cli


def kept_rows(run: Path) -> list[dict]:
    paths = sorted((run / "clean" / "manifest").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def tars(fitted, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "tars"
    before = contents(fitted.shards)
    result = nccleaner.export(fitted.run, out, samples_per_shard=50)
    assert contents(fitted.shards) == before
    assert result.pairs == fitted.purged.summary.kept
    assert result.parts == -(-result.pairs // 50) > 1
    return out


def test_the_tars_hold_the_kept_pairs_and_no_others(fitted, tars, clipart):
    own = {row.key: row for row in clipart.rows}
    samples = read_tars(tars)
    kept = kept_rows(fitted.run)
    assert len(samples) == len(kept)
    for sample, row in zip(samples, kept, strict=True):
        fields = json.loads(sample["json"])
        assert fields == row
        assert sample["jpg"] == own[row["key"]].image
        assert sample["txt"].decode() == own[row["key"]].caption


def test_the_same_call_again_writes_nothing_anew(fitted, tars):
    before = {path: path.stat().st_mtime_ns for path in tars.glob("*.tar")}
    nccleaner.export(fitted.run, tars, samples_per_shard=50)
    assert {path: path.stat().st_mtime_ns for path in tars.glob("*.tar")} == before


def test_a_folder_of_another_export_is_refused(fitted, tars):
    with pytest.raises(InputError, match="other arguments"):
        nccleaner.export(fitted.run, tars, samples_per_shard=51)
    with pytest.raises(InputError, match="other arguments"):
        nccleaner.export(fitted.run, tars, format="datacomp", samples_per_shard=50)


def test_after_another_purge_the_folder_is_refused_and_after_the_same_one_not(
    fitted, tars, tmp_path
):
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(fitted.run, run)
    shutil.copytree(tars, out)
    nccleaner.purge(run)
    nccleaner.export(run, out, samples_per_shard=50)
    assert contents(out) == contents(tars)
    nccleaner.purge(run, keep_fraction=0.3)
    with pytest.raises(InputError, match="other arguments"):
        nccleaner.export(run, out, samples_per_shard=50)


def test_datacomp_takes_the_kept_pairs_by_their_uids(fitted, tars, tmp_path):
    result = nccleaner.export(fitted.run, tmp_path / "subset", format="datacomp")
    subset = np.load(tmp_path / "subset" / "uids.npy")
    assert result.derived_uids == fitted.purged.summary.samples  # these shards have none
    kept = {row["uid"] for row in kept_rows(fitted.run)}
    rejected = {
        uid
        for path in (fitted.run / "clean" / "rejected").glob("*.parquet")
        for uid in pq.read_table(path)["uid"].to_pylist()
    }

    def takes(uid: str) -> int:
        # `resharder.py` of DataComp: "u8,u8", searched by halving.
        number = np.array([divmod(int(uid, 16), 2**64)], np.dtype("u8,u8"))[0]
        left, right = (np.searchsorted(subset, number, side) for side in ("left", "right"))
        return int(right - left)

    assert [takes(uid) for uid in sorted(kept)] == [1] * len(kept)
    assert not any(takes(uid) for uid in rejected)
    # What the tars say of themselves is what the resharder looks for.
    assert all(takes(json.loads(sample["json"])["uid"]) for sample in read_tars(tars))


def test_clip_retrieval_reads_embeddings_whose_products_are_the_similarities(fitted, tmp_path):
    out = tmp_path / "embeddings"
    nccleaner.export(fitted.run, out, format="clip-retrieval")
    kept = kept_rows(fitted.run)
    vectors = []
    for name in ("img_emb", "text_emb"):
        reader = EmbeddingReader(
            embeddings_folder=str(out / name),
            metadata_folder=str(out / "metadata"),
            meta_columns=["shard", "key"],
            file_format="parquet_npy",
        )
        ((embeddings, metadata),) = reader(batch_size=1000, show_progress=False)
        assert list(zip(metadata["shard"], metadata["key"], strict=True)) == [
            (row["shard"], row["key"]) for row in kept
        ]
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=2e-3)
        vectors.append(np.array(embeddings))
    products = (vectors[0] * vectors[1]).sum(1)
    np.testing.assert_allclose(products, [row["similarity"] for row in kept], atol=2e-3)
    index = faiss.IndexFlatIP(vectors[0].shape[1])
    index.add(vectors[0])
    assert index.ntotal == len(kept)

    whole = contents(out)
    (out / "metadata" / "metadata_1.parquet").unlink()  # interrupted before the last part was whole
    nccleaner.export(fitted.run, out, format="clip-retrieval")
    assert contents(out) == whole


def take_from_summary(run, pairs):
    path = run / "clean" / "summary.json"
    summary = json.loads(path.read_text())
    summary["samples"] -= pairs
    summary["kept"] -= pairs
    path.write_text(json.dumps(summary))


def test_a_shard_without_kept_pairs_has_no_part(fitted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(fitted.run, run)
    scores = {path.stem: pq.read_table(path) for path in (run / "scores").glob("*.parquet")}
    best = {name: max(s["similarity"].drop_null().to_pylist()) for name, s in scores.items()}
    first, second = sorted(best, key=lambda name: -best[name])
    nccleaner.purge(run, threshold=(best[first] + best[second]) / 2, by="similarity")
    # The trusted pairs stay whatever their scores; here they are taken out by hand.
    path = run / "clean" / "manifest" / f"{second}.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 0), path)
    take_from_summary(run, len(table))

    result = nccleaner.export(run, tmp_path / "out", format="clip-retrieval")
    assert result.parts == 1
    assert [path.name for path in (tmp_path / "out" / "img_emb").iterdir()] == ["img_emb_0.npy"]
    assert set(pq.read_table(tmp_path / "out" / "metadata")["shard"].to_pylist()) == {first}


def test_a_shard_that_changed_since_the_purge_is_refused(fitted, tmp_path):
    run, shards = tmp_path / "run", tmp_path / "shards"
    shutil.copytree(fitted.run, run)
    shutil.copytree(fitted.shards, shards)
    description = run / "run.json"
    description.write_text(description.read_text().replace(str(fitted.shards), str(shards)))
    scored = run / "scores.json"
    scored.write_text(scored.read_text().replace(str(fitted.shards), str(shards)))
    nccleaner.export(run, tmp_path / "ok")  # copytree keeps the times
    path = shards / "00001.tar"
    path.write_bytes(path.read_bytes()[:-10_000])
    with pytest.raises(ShardError, match=r"00001 at .* has changed"):
        nccleaner.export(run, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))


def test_what_is_missing_is_said(fitted, tmp_path):
    with pytest.raises(RunError, match="nccleaner fit"):
        nccleaner.export(tmp_path, tmp_path / "out")
    run = tmp_path / "run"
    shutil.copytree(fitted.run, run)
    manifest = run / "clean" / "manifest" / "00001.parquet"
    manifest.unlink()
    with pytest.raises(RunError, match=r"summary\.json counts"):
        nccleaner.export(run, tmp_path / "out")
    (run / "clean" / "summary.json").unlink()
    with pytest.raises(RunError, match="no finished purge"):
        nccleaner.export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_kept_is_nothing_to_export(fitted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(fitted.run, run)
    for path in (run / "clean" / "manifest").glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.slice(0, 0), path)
        take_from_summary(run, len(table))
    with pytest.raises(InputError, match="kept no pairs"):
        nccleaner.export(run, tmp_path / "out")


def test_it_is_never_written_among_the_shards(fitted):
    with pytest.raises(UsageError, match="never written"):
        nccleaner.export(fitted.run, fitted.shards / "out")
    assert not (fitted.shards / "out").exists()


@pytest.mark.parametrize(("format_", "size"), [("tar", 1), ("webdataset", 0), ("csv", -1)])
def test_arguments_that_make_no_sense_are_refused(fitted, tmp_path, format_, size):
    with pytest.raises(UsageError):
        nccleaner.export(fitted.run, tmp_path / "out", format=format_, samples_per_shard=size)


def test_a_folder_with_other_things_is_refused(fitted, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        nccleaner.export(fitted.run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def run_command(fitted, out, *options):
    return CliRunner().invoke(cli, ["export", str(out), "--run", str(fitted.run), *options])


@pytest.mark.parametrize(
    ("options", "files"),
    [
        (["--samples-per-shard", "50"], "*.tar"),
        (["--samples-per-shard", "1000"], "*.tar"),
        (["--format", "csv"], "pairs.tsv"),
    ],
)
def test_the_command_says_how_open_clip_trains_on_it(fitted, tmp_path, options, files):
    out = tmp_path / "cleaned pairs"
    done = run_command(fitted, out, *options)
    assert done.exit_code == 0
    program, *arguments = shlex.split(done.stdout.splitlines()[-1])
    assert (program, arguments[:2]) == ("python", ["-m", "open_clip_train.main"])
    args = parse_args(arguments[2:])
    assert sorted(expand_urls(args.train_data)[0]) == sorted(map(str, out.glob(files)))
    assert (args.csv_img_key, args.csv_caption_key, args.csv_separator) == (
        "filepath",
        "title",
        "\t",
    )


def test_the_command_warns_of_uids_that_the_shards_do_not_have(fitted, tmp_path):
    done = run_command(fitted, tmp_path / "out", "--format", "datacomp", "--json", "--quiet")
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert (result["format"], result["parts"]) == ("datacomp", 1)
    assert result["pairs"] == fitted.purged.summary.kept
    assert "the resharder does not find" in " ".join(done.stderr.split())


def test_a_command_that_fails_says_what_to_do(fitted, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    done = run_command(fitted, tmp_path)
    assert done.exit_code == 1
    assert "Next: Name a new folder" in done.stderr
    assert run_command(fitted, tmp_path / "out", "--samples-per-shard", "0").exit_code == 2
