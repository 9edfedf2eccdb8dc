"""`search`: the kept pairs nearest to a text or an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from nccleaner.data.images import ImageRejected, decode_image
from nccleaner.encoders.tokens import read_tokenizer
from nccleaner.errors import InputError, RunError, UsageError
from nccleaner.output.indexes import Modality, open_index
from nccleaner.pipeline.backbones import limits_of
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.pipeline.results import Hit
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.scored import is_pair

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def search(
    run: str | Path,
    query: str | Path,
    *,
    count: int = 10,
    output: str | Path | None = None,
) -> list[Hit]:
    """Finds kept pairs: by their images for a text, by their captions for an image.

    Args:
        run: A run directory that was purged.
        query: A text, or the path of an image file.
        count: Pairs to return, at most.
        output: Results of another data set; None for the run directory.

    Raises:
        UsageError: An empty query, or a count below 1.
        InputError: The image cannot be read.
        RunError: Nothing was purged yet.
    """
    if not str(query).strip() or count < 1:
        raise UsageError("The query is empty or the count below 1.", "Give a text or an image.")
    scoring = Scoring.open(run, output)
    if not scoring.target.summary.exists():
        raise RunError(
            f"{scoring.target.clean} holds no finished purge.", "Run `nccleaner purge` first."
        )
    scoring.store.backbones.check(
        scoring.description.image_encoder, scoring.description.text_encoder
    )
    index = open_index(scoring.target.clean / "index")
    modality: Modality
    if isinstance(query, Path) or Path(query).suffix.lower() in _IMAGE_SUFFIXES:
        modality, vector = "text", _embed_image(scoring, Path(query))
    else:
        modality, vector = "image", _embed_text(scoring, query)
    rows, products = index.search(modality, vector, count)
    names = index.ids(rows[0])
    captions = _captions(scoring, names)
    return [
        Hit(int(row), *name, captions[name], float(product), modality)
        for row, product, name in zip(rows[0], products[0], names, strict=True)
    ]


def _embed_text(scoring: Scoring, text: str) -> npt.NDArray[np.float32]:
    scorer = scoring.scorer
    text = text.encode(errors="replace").decode()  # a terminal may pass bytes that are no UTF-8
    if scorer.tokenizer:
        max_tokens = scoring.description.config.model.max_tokens
        texts = read_tokenizer(scorer.tokenizer).encode([text], max_tokens=max_tokens)
        taken = torch.from_numpy(texts)
    else:
        encoder = scoring.store.backbones.text
        assert encoder is not None
        taken = torch.from_numpy(encoder.encode([text]))
    return _array(scorer.embed_texts(taken.to(scoring.device)))


def _embed_image(scoring: Scoring, path: Path) -> npt.NDArray[np.float32]:
    encoder = scoring.store.backbones.image
    try:
        pixels = decode_image(
            path.read_bytes(),
            spec=encoder.spec,
            limits=limits_of(scoring.description.config.data),
        )
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.", "Name an image file, or give a text."
        ) from error
    except ImageRejected as rejected:
        raise InputError(
            f"{path}: {rejected.reason}: {rejected.detail}", "Give a JPEG, PNG or WebP image."
        ) from rejected
    features = torch.from_numpy(encoder.encode(pixels[None])).to(scoring.device)
    return _array(scoring.scorer.embed_images(features))


def _array(embedding: torch.Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = embedding.cpu().numpy()
    return array


def _captions(scoring: Scoring, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Reads the captions of pairs, named by shard and key, from the feature cache."""
    wanted = {shard for shard, _ in names}
    known = scoring.inputs()
    shards = [shard for shard in known if shard.name in wanted]
    captions = {}
    for shard, part in zip(shards, scoring.store.parts(shards, SilentReporter()), strict=True):
        keys = pa.array([key for of, key in names if of == shard.name], pa.string())
        is_named = pc.is_in(part.samples["key"], value_set=keys)
        samples = part.samples.filter(pc.and_(is_named, is_pair(part)))
        for key, caption in zip(
            samples["key"].to_pylist(), samples["caption"].to_pylist(), strict=True
        ):
            captions[shard.name, key] = caption
    return captions
