"""From parts and trusted pairs to training tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from smallfit import tiny

from nccleaner.data.features import FeaturePart
from nccleaner.data.matching import TrustedPair
from nccleaner.errors import InputError, RunError, TrustedError
from nccleaner.pipeline.labelled import LabelledPair
from nccleaner.pipeline.pool import build_tables, image_identities
from nccleaner.records import OK, Shard, ShardReport

WIDTH = 4


def digest(number: int) -> str:
    return f"{number:064x}"


def square(values: Sequence[int]) -> np.ndarray:
    """Targets of one gray each."""
    return np.tile(np.uint8(values)[:, None, None, None], (1, 64, 64, 3))


def make_part(folder: Path, name: str, samples: Sequence[tuple[str, int, str]]) -> FeaturePart:
    """A part by hand: samples of key, number of the image, caption; image "-1" is a reject.

    The feature and the target of image n are n everywhere, the feature of a caption its length.
    """
    folder = folder / name
    folder.mkdir(parents=True)
    images = sorted({image for _, image, _ in samples if image >= 0})
    texts = sorted({text for _, image, text in samples if image >= 0})
    rows = [
        {
            "key": key,
            "status": OK if image >= 0 else "undecodable_image",
            "caption": text,
            "image_sha256": digest(image) if image >= 0 else None,
            "image_row": images.index(image) if image >= 0 else -1,
            "text_row": texts.index(text) if image >= 0 else -1,
        }
        for key, image, text in samples
    ]
    rows_type = {"image_row": pa.int32(), "text_row": pa.int32()}
    names = list(rows[0])
    columns = [pa.array([row[n] for row in rows], rows_type.get(n, pa.string())) for n in names]
    pq.write_table(pa.table(columns, names=names), folder / "samples.parquet")
    np.save(folder / "image.npy", np.repeat(np.float16(images)[:, None], WIDTH, axis=1))
    lengths = np.float16([len(text) for text in texts])
    np.save(folder / "text.npy", np.repeat(lengths[:, None], WIDTH, axis=1))
    np.save(folder / "target.npy", square(images))
    pairs = sum(image >= 0 for _, image, _ in samples)
    return FeaturePart(folder, ShardReport(name, len(rows), pairs, {}))


def labelled_pair(number: int, text: str, label: int = 1, key: str | None = None) -> LabelledPair:
    return LabelledPair(
        TrustedPair(number, label, text, shard="a" if key else None, key=key),
        digest(number),
        np.full(WIDTH, number, np.float16),
        np.full(WIDTH, len(text), np.float16),
        square([number])[0],
    )


@pytest.fixture
def parts(tmp_path):
    """Two shards; image 5 and its caption are in both, and two samples are rejects."""
    first = [(f"a{n}", n, "x" * (n + 1)) for n in range(60)]
    second = [(f"b{n}", 100 + n, "y" * (n + 100)) for n in range(60)]
    copies = [("copy", 5, "x" * 6), ("other", 5, "another caption"), ("bad", -1, "bad")]
    return [
        make_part(tmp_path, "a", [*first, ("bad", -1, "bad")]),
        make_part(tmp_path, "b", [*second, *copies]),
    ]


SHARDS = [Shard("a", "/a.tar", "webdataset"), Shard("b", "/b.tar", "webdataset")]


@pytest.fixture
def trusted():
    """Images 0 to 29 of the first shard, as they are; two of them are mismatched."""
    return [labelled_pair(n, "x" * (n + 1), label=int(n > 1), key=f"a{n}") for n in range(30)]


def build(parts, trusted, folder, **config):
    return build_tables(SHARDS, parts, trusted, config=tiny(**config), folder=folder / "tables")


def test_no_trusted_pair_is_in_the_pool_but_the_probes(parts, trusted, tmp_path):
    tables = build(parts, trusted, tmp_path)

    probes = len(tables.probe_matched)
    noisy = len(tables.pool) - probes
    inside = tables.pool_samples.to_pylist()[:noisy]
    # 30 trusted ones of the first shard, and the copy of one of them in the second.
    free = {f"a{n}" for n in range(30, 60)} | {f"b{n}" for n in range(60)} | {"other"}
    exchanged = int(tables.probe_exchanged.sum())
    assert {row["key"] for row in inside} < free
    assert len(inside) == len(free) - exchanged
    assert probes - exchanged + sum(map(len, (*tables.meta, *tables.held_out))) == 30
    assert not set(tables.pool_samples["key"].to_pylist()) & {"bad", "copy"}


def test_white_space_around_its_caption_makes_no_pair_of_the_pool_of_a_trusted_one(
    parts, trusted, tmp_path
):
    copies = [("line", 7, "x" * 8 + "\n"), ("space", 9, "  " + "x" * 10)]
    with_copies = [parts[0], make_part(tmp_path / "more", "b", [*copies, ("b0", 100, "y")])]

    tables = build(with_copies, trusted, tmp_path)

    assert not set(tables.pool_samples["key"].to_pylist()) & {"line", "space"}


def test_no_held_out_image_is_in_the_pool_with_another_caption(parts, trusted, tmp_path):
    others = [(f"c{n}", n, f"another caption of {n}") for n in range(30)]

    tables = build([parts[0], make_part(tmp_path / "more", "b", others)], trusted, tmp_path)

    held_out = torch.cat([pairs.image_rows for pairs in tables.held_out])
    assert not set(held_out.tolist()) & set(tables.pool.image_rows.tolist())
    images = tables.features.images[held_out][:, 0].int().tolist()
    inside = set(tables.pool_samples["key"].to_pylist())
    exchanged = tables.pool.image_rows[-int(tables.probe_exchanged.sum()) :]
    inside |= {f"c{n}" for n in tables.features.images[exchanged][:, 0].int().tolist()}
    assert {f"c{n}" for n in range(30)} - inside == {f"c{n}" for n in images}


def test_features_belong_to_their_pairs(parts, trusted, tmp_path):
    tables = build(parts, trusted, tmp_path)

    keys = tables.pool_samples["key"].to_pylist()
    for place in range(len(tables.pool) - len(tables.probe_matched)):
        key = keys[place]
        image = tables.features.images[tables.pool.image_rows[place]]
        text = tables.features.texts[tables.pool.text_rows[place]]
        number = int(key[1:]) + 100 * (key[0] == "b") if key != "other" else 5
        length = {"a": number + 1, "b": number, "o": len("another caption")}[key[0]]
        assert image.tolist() == [number] * WIDTH
        assert text.tolist() == [length] * WIDTH
    identities = tables.identities[tables.pool.image_rows[:1]]
    assert identities.tolist() == image_identities([digest(30)]).tolist()


def test_another_process_maps_the_files_and_is_sent_the_rest(parts, trusted, tmp_path):
    tables = build(parts, trusted, tmp_path)
    sent = tables.without_files(tmp_path / "tables")
    assert not any(len(table) for table in sent.features)

    found = sent.with_files(tmp_path / "tables")

    for ours, others in zip(tables.features, found.features, strict=True):
        assert torch.equal(ours, others)
    assert found.pool == tables.pool
    assert found.held_out == tables.held_out
    with pytest.raises(RunError, match=r"image\.npy is not there") as caught:
        sent.with_files(tmp_path)
    assert "reach" in caught.value.next_step


def test_targets_are_in_the_rows_of_the_features(parts, trusted, tmp_path):
    weights = {"image_reconstruction": 0.1, "caption_reconstruction": 0.1}
    tables = build(parts, trusted, tmp_path, train=weights, model={"vocabulary": 300})

    images, (ids, tokenizer) = tables.targets
    assert len(images) == len(tables.features.images)
    assert (images == tables.features.images[:, 0].view(-1, 1, 1, 1)).all()
    lengths = [len(caption) for caption in tokenizer.decode(ids.numpy())]
    longest = min(tables.features.texts[:, 0].max().item(), tiny().model.max_tokens)
    assert ids.shape[1] <= longest
    whole = (ids == 0).any(dim=1).numpy()  # not cut
    assert whole.sum() > 30
    expected = tables.features.texts[:, 0].numpy()
    assert (np.array(lengths)[whole] == expected[whole]).all()
    assert (tables.tokenizer, tables.vocabulary) == ("", 0)  # nothing reads captions by tokens
    assert build(parts, trusted, tmp_path / "off").targets == (None, None)


def test_planted_pairs_keep_their_captions_and_pairs_of_the_shards_exchange_theirs(
    parts, trusted, tmp_path
):
    tables = build(parts, trusted, tmp_path)

    probes, exchanged = len(tables.probe_matched), tables.probe_exchanged
    images = tables.features.images[tables.pool.image_rows[-probes:], 0].int().numpy()
    texts = tables.features.texts[tables.pool.text_rows[-probes:], 0].int().numpy()
    planted = images[~exchanged]
    assert set(planted) < set(range(30))
    np.testing.assert_array_equal(texts[~exchanged], planted + 1)
    np.testing.assert_array_equal(tables.probe_matched, ~exchanged & (images > 1))
    of_shards = dict(enumerate(range(1, 61))) | {100 + n: 100 + n for n in range(60)}
    own = np.array([of_shards[image] for image in images[exchanged]])
    assert len(own) == 10
    assert sorted(texts[exchanged]) == sorted(own)
    assert (texts[exchanged] != own).all()
    keys = tables.pool_samples["key"].to_pylist()
    assert sorted(keys[-len(planted) :]) == sorted(f"a{image}" for image in planted)
    assert not set(keys) & {f"a{n}" if n < 60 else f"b{n - 100}" for n in images[exchanged]}


def test_the_samples_of_the_pool_know_how_much_each_was_believed(parts, trusted, tmp_path):
    tables = build(parts, trusted, tmp_path)
    images = tables.features.images[tables.pool.image_rows, 0].numpy()

    believed = tables.believed_samples(images.astype(np.float32))

    assert believed.column_names == ["shard", "key", "belief"]
    assert believed.schema.field("belief").type == pa.float32()
    for row in believed.to_pylist():
        number = int(row["key"][1:]) + 100 * (row["key"][0] == "b") if row["key"] != "other" else 5
        assert row["belief"] == number


def test_tables_know_whether_they_have_the_pairs_of_others(parts, trusted, tmp_path):
    tables, same = (build(parts, trusted, tmp_path / name) for name in ("a", "b"))
    more = [parts[0], make_part(tmp_path / "more", "b", [("b0", 200, "z")] * 30)]
    others = build(more, trusted, tmp_path / "c")
    other_seed = build(parts, trusted, tmp_path / "d", seed=5)

    assert tables.has_pairs_of(same)
    assert not tables.has_pairs_of(others)
    assert not tables.has_pairs_of(other_seed)
    assert not tables.has_pairs_of(replace(same, probe_matched=~same.probe_matched))


def test_the_seed_decides_and_the_cap_samples_all_shards(trusted, tmp_path):
    # 200 pairs, of which 30 are trusted.
    parts = [
        make_part(
            tmp_path / "more",
            name,
            [(f"{name}{n}", first + n, letter * (first + n + 1)) for n in range(100)],
        )
        for name, first, letter in (("a", 0, "x"), ("b", 100, "y"))
    ]
    capped = {"max_pairs": 100}
    tables = [
        build(parts, trusted, tmp_path / str(n), train=capped, seed=seed)
        for n, seed in enumerate([0, 0, 1])
    ]

    keys = [t.pool_samples["key"].to_pylist() for t in tables]
    assert keys[0] == keys[1] != keys[2]
    for drawn, one in zip(keys, tables, strict=True):
        assert {key[0] for key in drawn} >= {"a", "b"}
        assert len(one.pool) - (~one.probe_exchanged).sum() == 100


def test_pools_and_trusted_pairs_that_are_too_small_are_refused(parts, trusted, tmp_path):
    with pytest.raises(InputError, match="hold 9 pairs that are not trusted"):
        build_tables(
            SHARDS[:1],
            [make_part(tmp_path, "few", [(f"a{n}", n, "x" * (n + 1)) for n in range(39)])],
            trusted,
            config=tiny(),
            folder=tmp_path / "tables",
        )
    alike = [labelled_pair(n, "the same") for n in range(200, 230)]
    with pytest.raises(TrustedError, match="other images with other captions"):
        build(parts, alike, tmp_path)
