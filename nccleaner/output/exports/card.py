"""A card for Hugging Face `datasets`, which tells it what the members of the tars are.

Without one it infers the columns from the first five samples, and fails where a later one has a
PNG among JPEGs, or text in a field that was null so far.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

_TEXT = """\
# Image-caption pairs, cleaned

The pairs that nccleaner kept, as webdataset tars. `txt` is the caption. In `json` are the fields
that the pair had, its original `shard` and `key`, and its scores: `similarity` [-1, 1],
`corrected_similarity` [0, 1] and `clean_probability` [0, 1], all of them higher for better pairs.
"""


def dataset_card(fields: pa.Schema, *, images: Sequence[str]) -> str:
    """Writes a card as Markdown.

    Args:
        fields: What `json` holds.
        images: The suffixes of images that occur.
    """
    features = [
        *({"name": suffix, "dtype": "image"} for suffix in images),
        {"name": "txt", "dtype": "string"},
        {"name": "json", "struct": _features(fields)},
        *({"name": name, "dtype": "string"} for name in ("__key__", "__url__")),
    ]
    facts = {
        "configs": [{"config_name": "default", "data_files": "*.tar"}],
        "dataset_info": {"features": features},
    }
    # YAML is asked for, and JSON is YAML.
    return f"---\n{json.dumps(facts, indent=1, ensure_ascii=False)}\n---\n{_TEXT}"


def _features(fields: pa.Schema | pa.StructType) -> list[dict[str, Any]]:
    return [{"name": field.name, **_feature(field.type)} for field in fields]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A type in the words of `datasets`."""
    if pa.types.is_struct(kind):
        return {"struct": _features(kind)}
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    return {"dtype": names.get(kind, str(kind))}
