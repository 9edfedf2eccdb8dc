import contextlib
import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from nccleaner.data.images import ImageRejected, decode_image, shrink
from nccleaner.records import IMAGE_TOO_LARGE, UNDECODABLE_IMAGE, ImageSpec, Limits

SPEC = ImageSpec(size_px=32)
LIMITS = Limits(
    max_image_pixels=1_000_000,
    max_caption_chars=1000,
    decode_timeout_s=10,
    max_member_bytes=1 << 24,
)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def scene(width=90, height=60) -> Image.Image:
    """Smooth, without any symmetry, so that each way to turn it gives another picture."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = [255 * x, 255 * y, 255 * x * (1 - y)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def decode(data: bytes, spec=SPEC, limits=LIMITS) -> np.ndarray:
    pixels = decode_image(data, spec=spec, limits=limits)
    assert pixels.shape == (spec.size_px, spec.size_px, 3)
    assert pixels.dtype == np.uint8
    return pixels


def rejected(data: bytes, limits=LIMITS) -> ImageRejected:
    with pytest.raises(ImageRejected) as info:
        decode_image(data, spec=SPEC, limits=limits)
    return info.value


def distance(first, second) -> float:
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).max())


def png_header(width: int, height: int) -> bytes:
    """A PNG that states a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_whole_image_is_squashed_into_the_square(kind):
    expected = scene().resize((32, 32), Image.Resampling.BICUBIC)
    assert distance(decode(encoded(scene(), kind)), expected) < (1 if kind == "PNG" else 12)


def test_a_central_crop_after_resizing_the_shorter_side():
    image = scene(96, 48)
    expected = image.resize((80, 40), Image.Resampling.BICUBIC).crop((24, 4, 56, 36))
    pixels = decode(encoded(image), spec=ImageSpec(size_px=32, resize_px=40))
    assert distance(pixels[2:-2, 2:-2], np.asarray(expected)[2:-2, 2:-2]) <= 2


def test_a_square_that_is_shrunk_looks_like_one_decoded_smaller():
    data = encoded(scene())
    large = decode_image(data, spec=ImageSpec(size_px=128), limits=LIMITS)
    small = decode_image(data, spec=SPEC, limits=LIMITS)
    shrunk = shrink(large, size_px=32)
    assert (shrunk.shape, shrunk.dtype) == ((32, 32, 3), np.uint8)
    assert np.abs(shrunk.astype(int) - small).max() <= 4


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("spec", [SPEC, ImageSpec(size_px=32, resize_px=40)])
def test_exif_rotation_as_pillow_does_it(orientation, spec):
    image = scene()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    with Image.open(io.BytesIO(data)) as again:
        upright = ImageOps.exif_transpose(again)
    assert distance(decode(data, spec), decode(encoded(upright.convert("RGB")), spec)) <= 1


def test_damaged_exif_does_not_spoil_the_image():
    assert (
        distance(decode(encoded(scene(), exif=b"Exif\0\0MM\0*garbage")), decode(encoded(scene())))
        == 0
    )


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same():
    image = scene(800, 600)
    expected = image.resize((32, 32), Image.Resampling.BICUBIC)
    assert distance(decode(encoded(image, "JPEG", quality=95)), expected) <= 6


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    image = scene().convert(mode)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    data = encoded(image, kind, **({"quality": 95} if kind == "JPEG" else {}))
    expected = image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    assert distance(decode(data), expected) < 12


def test_sixteen_bits_a_pixel_keep_their_shades():
    shades = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1))
    pixels = decode(encoded(Image.fromarray(shades)))
    assert distance(pixels[..., 0], shades >> 8) <= 1


def test_transparency_is_put_on_white():
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 20, 40))
    pixels = decode(encoded(image))
    assert pixels[16, 4].tolist() == [0, 0, 255]
    assert pixels[16, 28].tolist() == [255, 255, 255]


def test_a_transparent_palette_color_is_put_on_white():
    image = Image.new("P", (40, 40), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(1, (0, 0, 20, 40))
    pixels = decode(encoded(image, transparency=0))
    assert pixels[16, 4].tolist() == [255, 0, 0]
    assert pixels[16, 28].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert distance(decode(data)[16, 16], (255, 0, 0)) <= 3


def test_a_color_profile_is_no_obstacle():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert distance(decode(encoded(scene(), icc_profile=profile)), decode(encoded(scene()))) == 0


def test_the_size_is_checked_before_decoding():
    rejection = rejected(encoded(Image.new("1", (1001, 1000))))
    assert rejection.reason == IMAGE_TOO_LARGE
    assert rejection.detail == "1001x1000 pixels; at most 1000000 are decoded"


@pytest.mark.parametrize("side", [12_000, 30_000])
def test_a_bomb_is_not_decoded(side):
    # It holds no pixels, so it would be undecodable if that were tried.
    assert rejected(png_header(side, side)).reason == IMAGE_TOO_LARGE


def stating(kind: str, width: int, height: int) -> bytes:
    """A small JPEG or WEBP whose header states another size than it has."""
    data = bytearray(encoded(scene(), kind))
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    else:
        at = data.index(b"\x9d\x01\x2a") + 3
        data[at : at + 4] = struct.pack("<HH", width, height)
    return bytes(data)


@pytest.mark.parametrize(("kind", "side"), [("JPEG", 2000), ("JPEG", 65_500), ("WEBP", 16_383)])
def test_a_bomb_is_found_by_the_size_that_it_states(kind, side):
    assert rejected(stating(kind, side, side)).reason == IMAGE_TOO_LARGE


def test_the_canvas_of_an_animation_is_a_size_too():
    data = bytearray(
        encoded(scene(), "WEBP", save_all=True, append_images=[scene().rotate(90)], lossless=True)
    )
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (16_382).to_bytes(3, "little") * 2
    assert rejected(bytes(data)).reason == IMAGE_TOO_LARGE


def test_text_that_unpacks_without_end_is_not_unpacked():
    chunk = b"zTXtnote\0\0" + zlib.compress(bytes(200 << 20), 9)
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = encoded(scene())
    end = data.index(b"IDAT") - 4
    tracemalloc.start()
    with contextlib.suppress(ImageRejected):
        decode(data[:end] + chunk + data[end:])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 20 << 20


def test_a_progressive_jpeg_is_a_jpeg():
    data = encoded(scene(300, 200), "JPEG", progressive=True, quality=95)
    expected = scene(300, 200).resize((32, 32), Image.Resampling.BICUBIC)
    assert distance(decode(data), expected) < 6
    for share in (0.1, 0.5, 0.99):
        assert rejected(data[: int(share * len(data))]).reason == UNDECODABLE_IMAGE


def test_sixteen_bits_a_channel_become_eight():
    image = np.asarray(scene())
    ok, data = cv2.imencode(".png", image[..., ::-1].astype(np.uint16) * 257)
    assert ok
    assert distance(decode(data.tobytes()), decode(encoded(scene()))) <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_truncated_images_are_rejected(kind, share):
    data = encoded(scene(300, 200), kind)
    rejection = rejected(data[: int(share * len(data))])
    assert rejection.reason == UNDECODABLE_IMAGE
    assert rejection.detail
    assert " at 0x" not in rejection.detail


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>404</html>",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>',
        encoded(scene(), "GIF"),
        encoded(scene(), "BMP"),
        encoded(scene(), "TIFF"),
        png_header(100, 100),
    ],
    ids=["empty", "html", "svg", "gif", "bmp", "tiff", "hollow png"],
)
def test_what_is_no_image_that_we_read_is_rejected(data):
    assert rejected(data).reason == UNDECODABLE_IMAGE


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_files_give_pixels_or_a_reject_and_nothing_else(kind):
    random = np.random.default_rng(0)
    reasons = set()
    for _ in range(60):
        data = np.frombuffer(encoded(scene(40, 30), kind), np.uint8).copy()
        data[random.integers(0, len(data), 5)] = random.integers(0, 256, 5)
        with contextlib.suppress(ImageRejected):
            decode(data.tobytes())
            continue
        reasons.add(rejected(data.tobytes()).reason)
    assert UNDECODABLE_IMAGE in reasons
    assert reasons <= {UNDECODABLE_IMAGE, IMAGE_TOO_LARGE}
