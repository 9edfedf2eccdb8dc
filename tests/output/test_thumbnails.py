import base64
import io

import numpy as np
import pytest
from builders import LIMITS, jpeg
from PIL import Image

from nccleaner.output.thumbnails import make_thumbnails


def scene(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = [255 * x, 255 * y, 255 * x * (1 - y)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def decoded(uri: str) -> Image.Image:
    head, _, text = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def thumbnails(images: list[bytes | None], workers: int = 0) -> list[str | None]:
    found = make_thumbnails(enumerate(images), size_px=40, limits=LIMITS, workers=workers)
    tags, uris = zip(*found, strict=True)
    assert tags == tuple(range(len(images)))
    return list(uris)


@pytest.mark.parametrize("size", [(80, 60), (60, 80), (500, 5), (30, 20), (1, 1)])
def test_an_image_keeps_its_shape_and_is_not_made_larger(size):
    (uri,) = thumbnails([encoded(scene(*size))])
    scale = min(1, 40 / max(size))
    expected = scene(*size).resize([max(1, round(side * scale)) for side in size])
    image = decoded(uri)
    assert image.size == expected.size
    assert np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean() < 12


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_no_image_has_none(workers):
    page = b"<html><script>alert(1)</script></html>"
    uris = thumbnails([jpeg(), None, page, b"", jpeg()[:200], jpeg("blue")], workers)
    assert [uri is None for uri in uris] == [False, True, True, True, True, False]


def test_bytes_of_strangers_do_not_get_into_the_page():
    note = b"<script>alert(1)</script>"
    data = jpeg()
    data = data[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + data[2:]
    (uri,) = thumbnails([data])
    assert note not in base64.b64decode(uri.partition(",")[2])


def test_transparency_is_put_on_white():
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    (uri,) = thumbnails([encoded(clear)])
    assert np.asarray(decoded(uri)).min() > 250
