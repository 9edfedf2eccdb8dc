"""What a pair is called outside its shard: DataComp's `uid`, a number of 128 bits as 32 hex digits.

Shards that DataComp made bring a uid for every sample. For the others one is derived from the
shard's name and the key, so that the same pair has the same uid in every run.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# What a uid is, for `re` and for pyarrow.
UID_PATTERN = "[0-9a-fA-F]{32}"

_UID = re.compile(UID_PATTERN)
# Half a surrogate pair stands for a byte that is no UTF-8.
_OUTSIDE_NAMES = re.compile("[/\0\ud800-\udfff]")


def derive_uid(shard: str, key: str) -> str:
    """Derives the uid of a sample that brings none.

    Args:
        shard: Name of the sample's shard.
        key: The sample's key there.

    Returns:
        The first 128 bits of the SHA-256 of `shard/key` in UTF-8: 32 lower-case hex digits.
    """
    return hash_pair(shard, key).hex()


def hash_pair(shard: str, key: str) -> bytes:
    """Returns the 16 bytes that `derive_uid` writes down."""
    # Names come from tars, where bytes that are no UTF-8 are read as lone surrogates.
    name = f"{shard}/{key}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(name).digest()[:16]


def hash_pairs(shards: pa.Array, keys: pa.Array) -> bytes:
    """Returns what `hash_pair` returns for n pairs, 16 n bytes, in less than half the time.

    Args:
        shards: n strings; a chunked array will do.
        keys: n strings.
    """
    names = pc.binary_join_element_wise(shards, keys, "/").cast(pa.binary()).to_pylist()
    digests = b"".join([hashlib.sha256(name).digest() for name in names])
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)[:, :16].tobytes()


def is_uid(text: object) -> bool:
    """Tells whether `text` is a uid as DataComp writes it: a string of exactly 32 hex digits."""
    return isinstance(text, str) and _UID.fullmatch(text) is not None


def is_file_name(name: str) -> bool:
    """Tells whether a name, of a shard for example, stays in the folder that it is put into.

    It is one that tables can hold, too: file systems have names that are no UTF-8.
    """
    return name not in ("", ".", "..") and _OUTSIDE_NAMES.search(name) is None
