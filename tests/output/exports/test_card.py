import io
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import Row, make_rows, write_webdataset_shard
from PIL import Image
from portions import write_all
from purged import purge_shards

from nccleaner.output.exports.card import dataset_card
from nccleaner.output.exports.kept import KeptPairs
from nccleaner.output.exports.webdataset import TarFolder

SIZE = 8


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> KeptPairs:
    """20 pairs; only the last two have a PNG, and a note where the others have null."""
    folder = tmp_path_factory.mktemp("card")
    rows = make_rows(20)
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(data, "PNG")
    rows[18:] = [Row(row.key, row.caption, data.getvalue()) for row in rows[18:]]
    write_webdataset_shard(folder / "shards", "00000", rows)
    path = folder / "shards" / "00000.parquet"
    table = pq.read_table(path)
    own = {
        "note": pa.array([None] * 18 + ["late"] * 2, pa.string()),
        "faces": pa.array([[]] * 18 + [[[0.5, 1.0]]] * 2, pa.list_(pa.list_(pa.float64()))),
        "tags": pa.array([[{"name": "x"}]] * 20),
        "half": pa.array([0.5] * 20, pa.float16()),
        "never": pa.nulls(20),
    }
    for name, column in own.items():
        table = table.append_column(name, column)
    pq.write_table(table, path)
    pairs = purge_shards(folder / "shards", folder / "clean", lambda _: True)
    write_all(TarFolder(folder / "out"), pairs, samples_per_shard=SIZE)
    return pairs


@pytest.fixture
def out(pairs: KeptPairs) -> Path:
    return pairs.shards[0].manifest.parents[2] / "out"


def check(rows: list[dict], pairs: KeptPairs) -> None:
    for row, pair in zip(rows, pairs.read(), strict=True):
        other = {"jpg": "png", "png": "jpg"}[pair.suffix]
        assert row[other] is None
        assert row[pair.suffix]["bytes"] == pair.image
        assert row["txt"] == pair.caption
        assert row["json"] == pair.fields


def test_datasets_loads_the_folder(pairs: KeptPairs, out: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path))
    assert loaded.num_rows == len(pairs)
    for name in ("jpg", "png"):
        loaded = loaded.cast_column(name, datasets.Image(decode=False))
    check(loaded.to_list(), pairs)


def test_datasets_streams_the_folder(pairs: KeptPairs, out: Path) -> None:
    loaded = datasets.load_dataset(str(out), split="train", streaming=True)
    first = next(iter(loaded))
    assert first["jpg"].size == (32, 32)
    for name in ("jpg", "png"):
        loaded = loaded.cast_column(name, datasets.Image(decode=False))
    check(list(islice(loaded, 100)), pairs)


def test_the_card_has_the_features_that_datasets_infers_from_such_a_schema() -> None:
    schema = pa.schema(
        [
            ("a", pa.int32()),
            ("b", pa.list_(pa.float32())),
            ("c", pa.list_(pa.list_(pa.float64()))),
            ("d", pa.struct([("x", pa.string()), ("y", pa.list_(pa.struct([("z", pa.bool_())])))])),
            ("e", pa.null()),
        ]
    )
    front = dataset_card(schema, images=["webp"]).split("---\n")[1]
    facts = datasets.DatasetInfo._from_yaml_dict(_yaml(front)["dataset_info"])
    inferred = datasets.Features.from_arrow_schema(schema)
    assert facts.features == {
        "webp": datasets.Image(),
        "txt": datasets.Value("string"),
        "json": dict(inferred),
        "__key__": datasets.Value("string"),
        "__url__": datasets.Value("string"),
    }


def _yaml(text: str) -> dict:
    import yaml

    loaded: dict = yaml.safe_load(text)
    return loaded
