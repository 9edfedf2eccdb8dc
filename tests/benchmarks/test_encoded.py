"""Encoders that encode nothing twice."""

from __future__ import annotations

import numpy as np
import pytest
from encoded import RememberingEncoder


class Lengths:
    """Encodes a text as its length; remembers what it was asked."""

    name, fingerprint, width = "lengths", "lengths 1", 2

    def __init__(self):
        self.asked = []

    def encode(self, inputs):
        self.asked += list(inputs)
        return np.array([[len(value), 0.1] for value in inputs], np.float32)


@pytest.fixture
def encoder():
    return Lengths()


def test_features_are_those_of_the_encoder_inside_in_float16(encoder, tmp_path):
    remembering = RememberingEncoder(encoder, tmp_path, str.encode)
    for _ in range(2):
        features = remembering.encode(["one", "three", "one"])
        assert features.dtype == np.float32
        assert features.tolist() == [[length, np.float16(0.1)] for length in (3, 5, 3)]
    assert (remembering.name, remembering.fingerprint, remembering.width) == (
        "lengths",
        "lengths 1",
        2,
    )


def test_only_what_is_new_is_encoded(encoder, tmp_path):
    remembering = RememberingEncoder(encoder, tmp_path, str.encode)
    remembering.encode(["one", "two"])
    remembering.encode(["two", "three"])
    assert encoder.asked == ["one", "two", "three"]


def test_another_process_finds_what_was_saved(encoder, tmp_path):
    first = RememberingEncoder(encoder, tmp_path, str.encode)
    expected = first.encode(["one", "three"])
    first.save()
    again = RememberingEncoder(Lengths(), tmp_path, str.encode)
    assert np.array_equal(again.encode(["one", "three"]), expected)
    assert again._encoder.asked == []


def test_another_encoder_has_a_file_of_its_own(encoder, tmp_path):
    first = RememberingEncoder(encoder, tmp_path, str.encode)
    first.encode(["one"])
    first.save()
    other = Lengths()
    other.fingerprint = "lengths 2"
    RememberingEncoder(other, tmp_path, str.encode).encode(["one"])
    assert other.asked == ["one"]


def test_images_are_told_apart_by_their_pixels(tmp_path):
    class Means(Lengths):
        def encode(self, inputs):
            self.asked += list(inputs)
            return np.array([[square.mean(), 0] for square in inputs], np.float32)

    encoder = Means()
    remembering = RememberingEncoder(encoder, tmp_path, lambda square: square.tobytes())
    squares = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (7, 9, 7)])
    assert remembering.encode(squares)[:, 0].tolist() == [7, 9, 7]
    assert remembering.encode(squares[1:2])[:, 0].tolist() == [9]
    assert len(encoder.asked) == 3  # the first batch at once
