import hashlib
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from builders import Row, make_rows, write_webdataset_shard
from open_clip_train.data import CsvDataset, get_csv_dataset
from portions import write_all
from purged import purge_shards
from tinyclip import train_on, write_tiny_clip

from nccleaner.output.exports.kept import KeptPairs
from nccleaner.output.exports.openclip import ImageFolders

# As pandas must return them; the second where it cannot.
CAPTIONS = {
    "=1+1": None,
    "@SUM(A1)": None,
    "-5": None,
    "007": None,
    "tab\tand\nline\r\nand return\rin it": None,
    'she said "yes", twice': None,
    '"': None,
    "'single": None,
    "back\\slash": None,
    "\ufeffmark": None,
    "日本 é \u2028 \x85 \x1a": None,
    "  around  ": None,
    "NA": "NA ",
    "None": "None ",
    "null": "null ",
    "1.#QNAN": "1.#QNAN ",
    "nul\0l": "nul l",
}
SIZE = 5


@pytest.fixture
def pairs(tmp_path: Path) -> KeptPairs:
    rows = [
        Row(row.key, caption, row.image)
        for row, caption in zip(make_rows(len(CAPTIONS)), CAPTIONS, strict=True)
    ]
    write_webdataset_shard(tmp_path / "shards", "00000", rows)
    return purge_shards(tmp_path / "shards", tmp_path / "clean", lambda _: True)


def write(pairs: KeptPairs, out: Path) -> int:
    return write_all(ImageFolders(out), pairs, samples_per_shard=SIZE)


def read(table: Path) -> CsvDataset:
    return CsvDataset(str(table), lambda image: image, "filepath", "title", tokenizer=list)


def test_open_clip_reads_every_caption_and_image(pairs: KeptPairs, tmp_path: Path) -> None:
    assert write(pairs, tmp_path / "out") == 4
    dataset = read(tmp_path / "out" / "pairs.tsv")
    wanted = [expected or caption for caption, expected in CAPTIONS.items()]
    assert [str(caption) for caption in dataset.captions] == wanted
    assert [Path(path).read_bytes() for path in dataset.images] == [p.image for p in pairs.read()]
    image, text = dataset[4]
    with image:  # the reader leaves it open
        assert image.size == (32, 32)
    assert text == wanted[4]


def test_changed_captions_have_the_same_tokens(pairs: KeptPairs) -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    for caption, changed in CAPTIONS.items():
        if changed and "\0" not in caption:
            assert torch.equal(tokenizer(caption), tokenizer(changed))


def test_each_folder_has_its_own_table(pairs: KeptPairs, tmp_path: Path) -> None:
    write(pairs, tmp_path / "out")
    folder = tmp_path / "out" / "images" / "00003"
    assert sorted(path.name for path in folder.iterdir()) == [
        "000030.jpg",
        "000031.jpg",
        "pairs.tsv",
    ]
    assert read(folder / "pairs.tsv").captions == ["1.#QNAN ", "nul l"]


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("stop", [0, 1, 5, 9, 17])
def test_it_goes_on_where_it_was_interrupted(pairs: KeptPairs, tmp_path: Path, stop: int) -> None:
    out = tmp_path / "out"
    write(pairs, out)
    whole = contents(out)
    out.rename(tmp_path / "first")  # the paths in the tables are those of `out`
    calls = 0

    def interrupt(count: int) -> None:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_all(ImageFolders(out), pairs, samples_per_shard=SIZE, progress=interrupt)
    assert not (out / "pairs.tsv").exists()
    killed = (
        out / "images" / ".nccleaner-tmp-0123abcd-00000"
    )  # as a run that had no time to tidy up
    killed.mkdir(parents=True)
    (killed / "000000.jpg").touch()
    write(pairs, out)
    assert contents(out) == whole


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_open_clip_trains_on_it(pairs: KeptPairs, tmp_path: Path) -> None:
    write(pairs, tmp_path / "out")
    architecture, _ = write_tiny_clip(tmp_path)
    _, preprocess, _ = open_clip.create_model_and_transforms(architecture)
    args = SimpleNamespace(
        train_data=str(tmp_path / "out" / "pairs.tsv"),
        csv_img_key="filepath",
        csv_caption_key="title",
        csv_separator="\t",
        distributed=False,
        batch_size=8,
        workers=0,
    )
    tokenizer = open_clip.get_tokenizer(architecture)
    data = get_csv_dataset(args, preprocess, is_train=True, tokenizer=tokenizer)
    assert data.dataloader.num_samples == len(CAPTIONS)
    images, texts = next(iter(data.dataloader))
    before, after = train_on((images, texts), architecture)
    assert after < before
