"""`search`: the kept pairs nearest to a text or an image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nccleaner.data.images import ImageRejected, decode_image
from nccleaner.data.locations import check_unchanged
from nccleaner.errors import InputError, RunError, UsageError
from nccleaner.output.found import FoundPair, write_found
from nccleaner.output.index.opening import Modality, open_index
from nccleaner.output.summary import read_summary
from nccleaner.pipeline.backbones import limits_of
from nccleaner.pipeline.originals import read_pictures
from nccleaner.pipeline.reporter import Reporter, SilentReporter
from nccleaner.pipeline.results import Hit
from nccleaner.pipeline.score import Scoring
from nccleaner.pipeline.scored import is_pair
from nccleaner.pipeline.vectors import as_array, embed_samples
from nccleaner.records import Shard

_SHOWN_PX = 256
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def search(
    run: str | Path,
    query: str | Path,
    *,
    count: int = 10,
    output: str | Path | None = None,
    html: str | Path | None = None,
    reporter: Reporter | None = None,
) -> list[Hit]:
    """Finds kept pairs: by their images for a text, by their captions for an image.

    Args:
        run: A run directory that was purged.
        query: A text, the path of an image file, or `SHARD/KEY` for the image of a pair in the
            shards, kept or not.
        count: Pairs to return, at most.
        output: Results of another data set; None for the run directory.
        html: Where to write a page with the images of what was found; None: nowhere.
        reporter: Hears of progress.

    Raises:
        UsageError: An empty query, or a count below 1.
        InputError: The image cannot be read, or the shard has no such pair.
        RunError: Nothing was purged yet, or the index is damaged or of another fit.
        ShardError: The shards changed, so that their images cannot be shown.
    """
    if not str(query).strip() or count < 1:
        raise UsageError("The query is empty or the count below 1.", "Give a text or an image.")
    scoring = Scoring.open(run, output)
    read_summary(scoring.target.summary)  # a purge that is not finished has none
    index = open_index(scoring.target.index)
    if index.scorer != scoring.identity:
        raise RunError(
            f"The indexes in {scoring.target.index} were made by another fit.",
            "Run `nccleaner purge` again.",
        )
    modality, vector = _embed(scoring, query, reporter or SilentReporter())
    rows, products = index.search(modality, vector, count)
    found = rows[0] >= 0
    names = index.ids(rows[0][found])
    captions = _captions(scoring, names)
    hits = [
        Hit(int(row), *name, captions[name], float(product), modality)
        for row, product, name in zip(rows[0][found], products[0][found], names, strict=True)
    ]
    if html is not None:
        _write_page(Path(html), scoring, str(query), hits, reporter or SilentReporter())
    return hits


def _names_image(query: str) -> bool:
    if Path(query).suffix.lower() in _IMAGE_SUFFIXES:
        return True
    try:
        return Path(query).is_file()
    except (OSError, ValueError):
        return False  # too long, or a NUL: a text


def _embed(
    scoring: Scoring, query: str | Path, reporter: Reporter
) -> tuple[Modality, npt.NDArray[np.float32]]:
    """What is searched for a query, and the vector [1, dim] to search with."""
    if isinstance(query, Path) or _names_image(query):
        return "text", _embed_image(scoring, Path(query))
    shard_name, _, key = query.partition("/")
    shard = next((shard for shard in scoring.inputs() if shard.name == shard_name), None)
    if shard is not None and key:
        return "text", _embed_pair(scoring, shard, key)
    if key and not re.search(r"\s", query):
        reporter.warn(f"There is no shard {shard_name!r}: {query!r} is searched as a text.")
    return "image", _embed_text(scoring, query)


def _embed_pair(scoring: Scoring, shard: Shard, key: str) -> npt.NDArray[np.float32]:
    (part,) = scoring.store.parts([shard], SilentReporter())
    has_key = pc.equal(part.samples["key"], key)
    rows = np.flatnonzero(pc.and_(has_key, is_pair(part)).to_numpy())
    if not len(rows):
        statuses = part.samples.filter(has_key)["status"].to_pylist()
        why = f"there it is {statuses[0]}" if statuses else "it has no such key"
        raise InputError(
            f"Shard {shard.name} has no pair {key!r}: {why}.",
            "Name one by the columns `shard` and `key` of a manifest, or give a text.",
        )
    return embed_samples(scoring, part, "image", rows[:1])


def _embed_text(scoring: Scoring, text: str) -> npt.NDArray[np.float32]:
    import torch

    from nccleaner.encoders.tokens import read_tokenizer

    _check_encoders(scoring)
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
    return as_array(scorer.embed_texts(taken.to(scoring.device)))


def _embed_image(scoring: Scoring, path: Path) -> npt.NDArray[np.float32]:
    import torch

    _check_encoders(scoring)
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
    return as_array(scoring.scorer.embed_images(features))


def _check_encoders(scoring: Scoring) -> None:
    description = scoring.description
    scoring.store.backbones.check(description.image_encoder, description.text_encoder)


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


def _write_page(
    path: Path, scoring: Scoring, query: str, hits: Sequence[Hit], reporter: Reporter
) -> None:
    names = {(hit.shard, hit.key) for hit in hits}
    shards = [shard for shard in scoring.inputs() if shard.name in {name for name, _ in names}]
    for shard in shards:
        check_unchanged(shard)
    data = scoring.description.config.data
    pictures = read_pictures(shards, names, size_px=_SHOWN_PX, data=data, reporter=reporter)
    found = [
        FoundPair(
            shard=hit.shard,
            key=hit.key,
            caption=hit.caption,
            product=hit.product,
            thumbnail=pictures[hit.shard, hit.key].thumbnail,
        )
        for hit in hits
    ]
    write_found(path, query, found)
