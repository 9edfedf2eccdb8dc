"""`search`: the kept pairs nearest to a text or an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from nccleaner.data.images import ImageRejected, decode_image
from nccleaner.encoders.tokens import read_tokenizer
from nccleaner.errors import InputError, RunError, UsageError
from nccleaner.output.indexes import Modality, open_index
from nccleaner.output.manifests import read_manifests
from nccleaner.pipeline.backbones import limits_of
from nccleaner.pipeline.results import Hit
from nccleaner.pipeline.score import Scoring

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
    folder = scoring.target.clean / "index"
    if not folder.exists():
        raise RunError(f"{folder} is not there.", "Run `nccleaner purge` first.")
    scoring.store.backbones.check(
        scoring.description.image_encoder, scoring.description.text_encoder
    )
    index = open_index(folder)
    modality: Modality
    if isinstance(query, Path) or Path(query).suffix.lower() in _IMAGE_SUFFIXES:
        modality, vector = "text", _embed_image(scoring, Path(query))
    else:
        modality, vector = "image", _embed_text(scoring, query)
    rows, products = index.search(modality, vector, count)
    captions = _captions(scoring, rows[0])
    return [
        Hit(int(row), shard, key, captions.get(int(row), ""), float(product), modality)
        for row, product, (shard, key) in zip(rows[0], products[0], index.ids(rows[0]), strict=True)
    ]


def _embed_text(scoring: Scoring, text: str) -> npt.NDArray[np.float32]:
    scorer = scoring.scorer
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


def _captions(scoring: Scoring, rows: npt.NDArray[np.int64]) -> dict[int, str]:
    """Reads the captions of rows: of the manifests first which samples, then the feature cache."""
    wanted = pa.array(rows, pa.int64())
    found: dict[int, str] = {}
    for batch in read_manifests(scoring.target.clean, ["row", "shard", "key"]):
        here = batch.filter(pc.is_in(batch["row"], value_set=wanted))
        for item in here.to_pylist():
            samples = pq.read_table(
                scoring.target.features / item["shard"] / "samples.parquet",
                columns=["key", "caption"],
                filters=[("key", "=", item["key"])],
            )
            found[item["row"]] = samples["caption"][0].as_py() or ""
    return found
