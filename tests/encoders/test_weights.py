import hashlib

import pytest
import torch

from nccleaner.encoders.weights import check_sha256, digest_file, digest_files, digest_state
from nccleaner.errors import InputError


def test_the_digest_of_a_state_tells_apart_what_differs():
    state = {"a": torch.arange(4.0), "b": torch.ones(2, dtype=torch.bfloat16)}
    others = [
        {**state, "a": torch.arange(4.0).view(2, 2)},
        {**state, "a": torch.arange(4.0).double()},
        {**state, "a": -torch.arange(4.0)},
        {"a": state["a"], "c": state["b"]},
        {"a": state["a"]},
    ]
    assert len({digest_state(other) for other in [state, *others]}) == 6
    assert digest_state(dict(reversed(state.items()))) == digest_state(state)
    assert digest_state({"a": torch.arange(8.0)[::2]}) == digest_state(
        {"a": torch.arange(0, 8, 2.0)}
    )


def test_scalars_have_a_digest():
    assert digest_state({"count": torch.tensor(3)}) != digest_state({"count": torch.tensor(4)})


def test_the_digest_of_files_follows_names_and_contents(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    before = digest_files(tmp_path.iterdir(), tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    after_renaming = digest_files(tmp_path.iterdir(), tmp_path)
    (tmp_path / "c").write_text("c")
    assert len({before, after_renaming, digest_files(tmp_path.iterdir(), tmp_path)}) == 3


def test_a_known_file_passes_and_another_does_not(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert digest_file(path) == expected
    check_sha256(path, expected)
    with pytest.raises(InputError, match=f"is {expected}, expected {'0' * 64}"):
        check_sha256(path, "0" * 64)
    with pytest.raises(InputError, match="missing"):
        check_sha256(tmp_path / "absent", expected)
