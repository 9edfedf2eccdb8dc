import hashlib

from nccleaner.identity import derive_uid, is_uid


def test_a_derived_uid_is_the_head_of_the_hash() -> None:
    expected = hashlib.sha256(b"00012/000120042").digest()[:16]
    assert bytes.fromhex(derive_uid("00012", "000120042")) == expected
    assert is_uid(derive_uid("日本", "\udc80"))


def test_only_32_hex_digits_are_a_uid() -> None:
    assert is_uid("0123456789abcdefABCDEF0123456789")
    for text in ("", "0" * 31, "0" * 33, "g" + "0" * 31, "0" * 32 + "\n", " " + "0" * 31, None, 5):
        assert not is_uid(text)
