from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from nccleaner.output.sheet import Rebuilt, write_sheet

CAPTIONS = ('=a "cat"; or, two\nof them', "кот " * 100)


def flat(*colors) -> np.ndarray:
    """Images of one color each."""
    return np.stack([np.full((64, 64, 3), color, np.uint8) for color in colors])


def rebuilt(*, images=True, captions=True) -> Rebuilt:
    return Rebuilt(
        images=flat((200, 0, 0), (0, 0, 200)) if images else None,
        captions=CAPTIONS if captions else None,
    )


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_originals_stand_left_of_their_reconstructions(tmp_path):
    groups = {"pool": [rebuilt()] * 3, "held out": [rebuilt()]}
    sheet, table = write_sheet(groups, tmp_path / "new")
    pixels = np.array(Image.open(sheet).convert("RGB")).astype(int)
    places = {}
    for name, color in (("original", (200, 0, 0)), ("reconstructed", (0, 0, 200))):
        rows, columns = np.nonzero((pixels == color).all(axis=2))
        assert len(rows) == 4 * 128 * 128
        places[name] = rows.reshape(-1), columns.reshape(-1)
    # Pair by pair: the same rows of pixels, and to the right of it.
    assert set(places["original"][0]) == set(places["reconstructed"][0])
    assert places["original"][1].min() + 128 <= places["reconstructed"][1].min()
    assert places["original"][1].max() + 128 <= places["reconstructed"][1].max()
    assert read_rows(table) == [
        ["from", "caption", "reconstructed"],
        *[["pool", *CAPTIONS]] * 3,
        ["held out", *CAPTIONS],
    ]


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("captions", [True, False])
def test_only_what_was_rebuilt_is_written(tmp_path, images, captions):
    written = write_sheet({"pool": [rebuilt(images=images, captions=captions)]}, tmp_path)
    expected = ["sheet.png"] * images + ["captions.csv"] * captions
    assert [path.name for path in written] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)


def test_the_same_pairs_give_the_same_bytes(tmp_path):
    first, second = (
        [path.read_bytes() for path in write_sheet({"pool": [rebuilt()]}, tmp_path / name)]
        for name in "ab"
    )
    assert first == second


def test_captions_stay_in_their_place(tmp_path):
    """A caption of strangers, however long, is cut where the next one begins."""
    long = Rebuilt(images=flat(0, 255), captions=("word " * 500, "x" * 5000))
    sheet, _ = write_sheet({"pool": [long], "held out": [rebuilt(captions=False)]}, tmp_path)
    image = Image.open(sheet).convert("RGB")
    right = np.array(image).astype(int)[:, image.width // 2 :]
    colors = {tuple(color) for color in right[40:].reshape(-1, 3)}
    assert colors == {(255, 255, 255), (200, 0, 0), (0, 0, 200)}
