import hashlib

import pyarrow as pa

from nccleaner.identity import derive_uid, hash_pair, hash_pairs, is_uid


def test_a_derived_uid_is_the_head_of_the_hash() -> None:
    expected = hashlib.sha256(b"00012/000120042").digest()[:16]
    assert bytes.fromhex(derive_uid("00012", "000120042")) == expected
    assert is_uid(derive_uid("日本", "\udc80"))


def test_only_32_hex_digits_are_a_uid() -> None:
    assert is_uid("0123456789abcdefABCDEF0123456789")
    for text in ("", "0" * 31, "0" * 33, "g" + "0" * 31, "0" * 32 + "\n", " " + "0" * 31, None, 5):
        assert not is_uid(text)


def test_many_pairs_have_the_hashes_of_each() -> None:
    pairs = [("00012", "000120042"), ("", ""), ("a/b", "日本"), ("a", "b/日本")]
    shards, keys = (pa.array(column) for column in zip(*pairs, strict=True))
    assert hash_pairs(shards, keys) == b"".join(hash_pair(*pair) for pair in pairs)
    assert hash_pairs(pa.chunked_array([shards]), pa.chunked_array([keys[:2], keys[2:]])) == (
        hash_pairs(shards, keys)
    )
    assert hash_pairs(shards[:0], keys[:0]) == b""
