"""Features that all configurations of a benchmark share: what is encoded once stays in a file.

Configurations differ in which captions go with which images, not in the images and captions. So the
cache of a run is filled before `fit` looks for it: shards are read and decoded as `fit` would, and
parts written where it would write them, but an image or caption that any configuration has had
before is looked up. The time of `fit` leaves extraction out then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nccleaner.config import RunConfig
from nccleaner.data.extracting import ImageEncoder, TextEncoder
from nccleaner.data.features import FeaturePart
from nccleaner.data.locations import find_shards
from nccleaner.files import replace_file
from nccleaner.pipeline.backbones import Backbones
from nccleaner.pipeline.extraction import FeatureStore
from nccleaner.pipeline.reporter import SilentReporter


class RememberingEncoder:
    """An encoder that encodes nothing twice; it passes for the one inside.

    Args:
        encoder: Encodes what is new.
        folder: Where features are kept, a file an encoder.
        content: What of an input decides its features, as bytes.
    """

    def __init__(
        self, encoder: ImageEncoder | TextEncoder, folder: Path, content: Callable[[Any], bytes]
    ) -> None:
        self.name = encoder.name
        self.fingerprint = encoder.fingerprint
        self.width = encoder.width
        self.spec = getattr(encoder, "spec", None)
        self._encoder, self._content = encoder, content
        name = hashlib.sha256(encoder.fingerprint.encode()).hexdigest()[:16]
        self._path = folder / f"{name}.npz"
        self._known: dict[bytes, npt.NDArray[np.float16]] = {}
        self._saved = 0
        if self._path.exists():
            with np.load(self._path) as file:
                digests = (row.tobytes() for row in file["digests"])
                self._known = dict(zip(digests, file["features"], strict=True))
            self._saved = len(self._known)

    def encode(self, inputs: Sequence[Any]) -> npt.NDArray[np.float32]:
        """Encodes b inputs to [b, width], rounded to the float16 that the cache holds anyway."""
        digests = [hashlib.sha256(self._content(value)).digest() for value in inputs]
        new = [row for row, digest in enumerate(digests) if digest not in self._known]
        if new:
            chosen = inputs[new] if isinstance(inputs, np.ndarray) else [inputs[i] for i in new]
            features = self._encoder.encode(cast(Any, chosen)).astype(np.float16)
            self._known |= zip((digests[row] for row in new), features, strict=True)
        return np.stack([self._known[digest] for digest in digests]).astype(np.float32)

    def start(self, inputs: Sequence[Any]) -> Callable[[], npt.NDArray[np.float32]]:
        """Encodes at once what `encode` encodes; the result is there to be called for."""
        features = self.encode(inputs)
        return lambda: features

    def save(self) -> None:
        """Writes the file if there is something new."""
        if len(self._known) == self._saved:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        digests = np.frombuffer(b"".join(self._known), np.uint8).reshape(len(self._known), -1)
        with replace_file(self._path) as path, path.open("wb") as file:
            np.savez(file, digests=digests, features=np.stack(list(self._known.values())))
        self._saved = len(self._known)


@dataclass
class SharedFeatures:
    """Fills feature caches.

    Attributes:
        folder: Where the shared features are kept.
        config: The settings that `fit` will have.
    """

    folder: Path
    config: RunConfig

    def __post_init__(self) -> None:
        self._backbones = Backbones(self.config.encoders)
        text = self._backbones.text
        assert text is not None, "the baselines need frozen features of captions"
        self._image = RememberingEncoder(
            self._backbones.image, self.folder, lambda square: cast(bytes, square.tobytes())
        )
        self._text = RememberingEncoder(text, self.folder, str.encode)
        self._backbones.image, self._backbones.text = self._image, self._text

    @property
    def device(self) -> str:
        """Where the encoders run, and baselines are trained."""
        return self._backbones.device

    def fill(self, cache: Path, shards: Path) -> list[FeaturePart]:
        """Writes the parts of a folder of shards into a run's cache, unless they are there.

        Args:
            cache: `features/` or `evaluation/` of a run directory.
            shards: The folder.
        """
        store = FeatureStore(
            cache,
            self._backbones,
            self.config.data,
            self._image.fingerprint,
            self._text.fingerprint,
            targets=self.config.train.image_reconstruction > 0,
        )
        parts = store.parts(find_shards(shards), SilentReporter())
        self._image.save()
        self._text.save()
        return parts
