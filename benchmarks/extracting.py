"""Reading, decoding, encoding and all of extraction beside what each cannot be faster than."""

from __future__ import annotations

import os
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from decoders import Place, open_decoders, read_images
from rounds import Row, Seconds, peak_memory, run_rounds
from torch import Tensor

from nccleaner.config import RunConfig
from nccleaner.data.decoding import DecodePool
from nccleaner.data.extracting import extract_part
from nccleaner.data.images import Pixels, decode_image
from nccleaner.data.reading import ShardReading
from nccleaner.encoders.images import TorchImageEncoder
from nccleaner.encoders.precision import fast_dtype
from nccleaner.pipeline.backbones import Backbones, limits_of
from nccleaner.records import OK, Limits, Sample, Shard

# What is encoded while it is ready in memory; more would only take longer.
_READY_IMAGES = 256


@dataclass(frozen=True)
class Extracting:
    """Shards that are read, decoded, encoded and extracted.

    Attributes:
        name: Of the data, for people.
        shards: Read whole, several times.
        config: Encoders, workers, limits.
        work: For what is written meanwhile.
    """

    name: str
    shards: Sequence[Shard]
    config: RunConfig
    work: Path

    def rows(self, *, rounds: int, memory: bool) -> list[Row]:
        """Measures everything.

        Args:
            rounds: After the one that warms up.
            memory: Whether extraction is done once more, to see what memory it takes.
        """
        parts: dict[str, Callable[[], object]] = {
            "read": lambda: deque(self._samples(), maxlen=0),
            "tarfile": lambda: _read_with_tarfile(self._tars),
        }
        reading = run_rounds(parts, rounds=rounds)
        with (
            TemporaryDirectory(dir=self.work) as folder,
            open_decoders(workers(self.config), self.backbones.image.spec, self._limits) as decode,
            DecodePool(workers=workers(self.config)) as pool,
        ):
            images = Path(folder) / "images"
            places = self._write_images(images)
            squares = self._squares(images, places)
            seconds = run_rounds(
                {
                    "decoders": lambda: decode(images, places),
                    "decoded": lambda: self._decode(pool, images, places),
                    "network": self._network(squares),
                    "encoded": lambda: self._encode(squares),
                    "captions": self._encode_captions,
                    "extracted": lambda: self._extract(pool, Path(folder)),
                },
                rounds=rounds,
            )
        peak = peak_memory(extract_alone, self.shards, self.config, self.work) if memory else None
        return [*self._reading_rows(reading), *self._rows(seconds, len(places), len(squares), peak)]

    @cached_property
    def backbones(self) -> Backbones:
        """The encoders."""
        return Backbones(self.config.encoders)

    @property
    def _limits(self) -> Limits:
        return limits_of(self.config.data)

    @property
    def _tars(self) -> list[Shard]:
        return [shard for shard in self.shards if shard.kind == "webdataset"]

    def _samples(self) -> Iterator[Sample]:
        for shard in self.shards:
            yield from ShardReading(shard, limits=self._limits)

    @cached_property
    def _captions(self) -> list[str]:
        samples = (sample for sample in self._samples() if sample.status == OK)
        return list(dict.fromkeys(sample.caption for sample in samples if sample.caption))

    def _write_images(self, path: Path) -> list[Place]:
        """Writes the images one after the other, each once; returns where they are."""
        places: dict[bytes, Place] = {}
        with path.open("wb") as file:
            for sample in self._samples():
                image = sample.image if sample.status == OK else None
                if image is not None and image not in places:
                    places[image] = (file.tell(), len(image))
                    file.write(image)
        return list(places.values())

    def _decode(self, pool: DecodePool, images: Path, places: Sequence[Place]) -> None:
        spec, limits = self.backbones.image.spec, self._limits
        tagged = ((None, image) for image in read_images(images, places))
        for _ in pool.decode(tagged, spec=spec, limits=limits):
            pass

    def _squares(self, images: Path, places: Sequence[Place]) -> list[Pixels]:
        spec, limits = self.backbones.image.spec, self._limits
        some = places[:: max(1, len(places) // _READY_IMAGES)][:_READY_IMAGES]
        return [decode_image(x, spec=spec, limits=limits) for x in read_images(images, some)]

    def _batches(self, squares: Sequence[Pixels]) -> Iterator[Pixels]:
        size = self.config.encoders.batch_size
        for start in range(0, len(squares), size):
            yield np.stack(squares[start : start + size])

    def _encode(self, squares: Sequence[Pixels]) -> None:
        for batch in self._batches(squares):
            self.backbones.image.encode(batch)

    def _encode_captions(self) -> None:
        if self.backbones.text is not None:
            self.backbones.text.encode(self._captions)

    def _network(self, squares: Sequence[Pixels]) -> Callable[[], None]:
        """The image network on tensors that are where it is, in its type of numbers."""
        device = self.backbones.device
        dtype = fast_dtype(device)
        encoder = self.backbones.image
        assert isinstance(encoder, TorchImageEncoder)
        backbone = encoder.network.get_submodule("backbone")
        ready = [_ready(batch, device, dtype) for batch in self._batches(squares)]

        @torch.inference_mode()
        def encode() -> None:
            encoded = [backbone(batch) for batch in ready]
            torch.cat(encoded).float().cpu()

        return encode

    def _extract(self, pool: DecodePool, root: Path) -> None:
        extract(self.shards, self.config, self.backbones, pool, root)

    def _reading_rows(self, seconds: dict[str, Seconds]) -> list[Row]:
        if not self._tars or len(self._tars) < len(self.shards):
            return []
        count = sum(1 for _ in self._samples())
        own, alone = seconds["read"], seconds["tarfile"]
        return [Row(f"reading {self.name}", "tarfile alone", "samples", count, own, alone)]

    def _rows(
        self, seconds: dict[str, Seconds], images: int, ready: int, peak: int | None
    ) -> list[Row]:
        scale = images / ready
        decoding = seconds["decoders"]
        encoding = scale * seconds["network"] + seconds["captions"]
        own = seconds["extracted"]
        shared = self.backbones.device == "cpu"
        both = decoding + encoding if shared else np.maximum(decoding, encoding)
        extraction = f"extraction of {self.name}"
        rows = [
            Row(
                f"decoding {self.name}",
                "the decoder alone, on all cores",
                "images",
                images,
                seconds["decoded"],
                decoding,
            ),
            Row(
                f"encoding {self.name}",
                "the network alone, on ready tensors",
                "images",
                ready,
                seconds["encoded"],
                seconds["network"],
            ),
        ]
        slower = Row(
            extraction,
            "the slower of decoder and encoders alone",
            "images",
            images,
            own,
            np.maximum(decoding, encoding),
            peak,
        )
        if shared:
            name = "decoder and encoders on the same cores"
            rows.append(Row(extraction, name, "images", images, own, both, peak))
        return [*rows, slower]


def extract(
    shards: Sequence[Shard],
    config: RunConfig,
    backbones: Backbones,
    pool: DecodePool,
    root: Path,
) -> None:
    """Extracts the features of shards as `fit` does."""
    for shard in shards:
        extract_part(
            shard,
            root=root,
            fingerprint="",
            image_encoder=backbones.image,
            text_encoder=backbones.text,
            pool=pool,
            limits=limits_of(config.data),
            batch_size=config.encoders.batch_size,
            on_samples=lambda _count: None,
        )


def extract_alone(shards: Sequence[Shard], config: RunConfig, work: Path) -> None:
    """Extracts and does nothing else, in a process whose memory is watched."""
    with TemporaryDirectory(dir=work) as folder, DecodePool(workers=workers(config)) as pool:
        extract(shards, config, Backbones(config.encoders), pool, Path(folder))


def workers(config: RunConfig) -> int:
    """Returns how many processes decode."""
    return config.data.workers if config.data.workers >= 0 else os.cpu_count() or 1


def _read_with_tarfile(shards: Sequence[Shard]) -> None:
    for shard in shards:
        with tarfile.open(shard.url) as tar:
            for header in tar:
                file = tar.extractfile(header)
                if file is not None:
                    file.read()


def _ready(batch: Pixels, device: str, dtype: torch.dtype) -> Tensor:
    """[b, 3, h, w], channels last, about as large as pixels are when they are normalised."""
    images = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)
    return (images.float() / 127 - 1).to(dtype)
