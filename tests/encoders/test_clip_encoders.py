"""The towers of open_clip against open_clip itself, on a tiny model with random weights."""

import logging
import sys

import numpy as np
import pytest
import torch
from builders import LIMITS
from PIL import Image
from safetensors.torch import save_file
from tinyclip import write_tiny_clip

open_clip = pytest.importorskip("open_clip")

from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: E402

from nccleaner.data.images import decode_image  # noqa: E402
from nccleaner.encoders import clip as clip_module  # noqa: E402
from nccleaner.encoders.clip import load_clip  # noqa: E402
from nccleaner.errors import InputError, MissingDependencyError, UsageError  # noqa: E402
from nccleaner.records import ImageSpec  # noqa: E402

CAPTIONS = ["a dog runs over the grass", "x", "", "dog " * 200, "two children build a snow man"]


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def tiny(tiny_clip):
    """The oracle: the model that `tiny_clip` names, as open_clip builds and loads it."""
    architecture, weights = tiny_clip
    return open_clip.create_model_from_pretrained(architecture, pretrained=str(weights))


@pytest.fixture(scope="module")
def name(tiny_clip):
    architecture, weights = tiny_clip
    return f"open_clip:{architecture}/{weights}"


@pytest.fixture
def exact(monkeypatch):
    """Computes in float32 on any machine."""
    monkeypatch.setattr(clip_module, "fast_dtype", lambda device: torch.float32)


@pytest.fixture(scope="module")
def photo():
    """Wider than high, by whole pixels of the square, to which open_clip rounds."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(noise).resize((160, 128), Image.Resampling.BICUBIC)


@torch.inference_mode()
def test_images_have_the_features_of_open_clip(tiny, name, exact):
    model, preprocess = tiny
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = model.encode_image(torch.stack([preprocess(Image.fromarray(i)) for i in images]))
    encoder = load_clip(name, device="cpu").image
    features = encoder.encode(images)
    assert features.shape == (3, encoder.width) == (3, 24)
    assert features.dtype == np.float32
    assert np.abs(features - expected.numpy()).max() < 1e-5


@torch.inference_mode()
def test_captions_have_the_features_of_open_clip(tiny, tiny_clip, name, exact):
    expected = tiny[0].encode_text(open_clip.get_tokenizer(tiny_clip[0])(CAPTIONS))
    encoder = load_clip(name, device="cpu").text
    features = encoder.encode(CAPTIONS)
    assert features.shape == (5, encoder.width) == (5, 24)
    assert features.dtype == np.float32
    assert np.abs(features - expected.numpy()).max() < 1e-5


def test_more_captions_than_a_batch_keep_their_order(name, exact):
    encoder = load_clip(name, device="cpu").text
    many = [f"caption {number}" for number in range(70)]
    backwards = encoder.encode(many[::-1])[::-1]
    assert np.abs(encoder.encode(many) - backwards).max() < 1e-5
    assert encoder.encode([]).shape == (0, 24)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@torch.inference_mode()
def test_photographs_are_prepared_as_open_clip_does(
    mode, interpolation, photo, name, tiny, tmp_path
):
    model, _ = tiny
    config = {**model.visual.preprocess_cfg, "resize_mode": mode, "interpolation": interpolation}
    prepare = image_transform_v2(PreprocessCfg(**config), is_train=False)
    photo.save(tmp_path / "photo.png")
    spec = clip_module._spec(name, config)
    pixels = decode_image((tmp_path / "photo.png").read_bytes(), spec=spec, limits=LIMITS)
    mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
    expected = prepare(photo).permute(1, 2, 0) * std + mean
    assert np.abs(pixels / 255 - expected.numpy()).max() < 1e-6


def test_what_is_no_square_is_refused(tiny, name):
    config = tiny[0].visual.preprocess_cfg
    with pytest.raises(InputError, match="32x48"):
        clip_module._spec(name, {**config, "size": (32, 48)})
    with pytest.raises(InputError, match="'longest'"):
        clip_module._spec(name, {**config, "resize_mode": "longest"})


def test_published_preprocessing_is_used_for_a_file_of_that_model(tmp_path, monkeypatch):
    weights = tmp_path / "own.safetensors"
    weights.touch()
    path, like = clip_module._find_weights("n", "ViT-B-16-SigLIP", str(weights))
    assert path == weights
    assert (like["mean"], like["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")
    assert "quick_gelu" not in clip_module._find_weights("n", "ViT-B-32", str(weights))[1]


def test_both_halves_share_one_model(name):
    towers = load_clip(name, device="cpu")
    assert towers.image.network.backbone.model is towers.text._model
    assert towers.image.spec == ImageSpec(size_px=32, resize_px=32)


def test_the_fast_type_agrees(name, monkeypatch):
    fast = load_clip(name, device="cpu")
    monkeypatch.setattr(clip_module, "fast_dtype", lambda device: torch.float32)
    full = load_clip(name, device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    for first, second in (
        (fast.image.encode(images), full.image.encode(images)),
        (fast.text.encode(CAPTIONS), full.text.encode(CAPTIONS)),
    ):
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        assert ((first * second).sum(1) / lengths).min() > 0.999


def test_the_fingerprint_follows_the_weights_and_not_the_place(tiny, tiny_clip, name, tmp_path):
    architecture, weights = tiny_clip
    towers = load_clip(name, device="cpu")
    moved = tmp_path / weights.name
    moved.write_bytes(weights.read_bytes())
    again = load_clip(f"open_clip:{architecture}/{moved}", device="cpu")
    assert again.image.fingerprint == towers.image.fingerprint
    assert again.text.fingerprint == towers.text.fingerprint

    state = {key: tensor.clone() for key, tensor in tiny[0].state_dict().items()}
    state["visual.proj"][0, 0] += 1
    save_file(state, moved)
    changed = load_clip(f"open_clip:{architecture}/{moved}", device="cpu")
    assert changed.image.fingerprint != towers.image.fingerprint
    assert changed.text.fingerprint != towers.text.fingerprint


def test_a_checkpoint_of_training_is_read(tiny, tiny_clip, name, tmp_path, exact):
    state = {f"module.{key}": tensor for key, tensor in tiny[0].state_dict().items()}
    torch.save({"epoch": 32, "name": "run", "state_dict": state}, tmp_path / "epoch_32.pt")
    towers = load_clip(f"open_clip:{tiny_clip[0]}/{tmp_path / 'epoch_32.pt'}", device="cpu")
    expected = load_clip(name, device="cpu").text.encode(CAPTIONS)
    assert np.array_equal(towers.text.encode(CAPTIONS), expected)


def test_loading_leaves_the_random_numbers_and_the_log_alone(name, capfd):
    torch.manual_seed(1)
    state, handlers = torch.get_rng_state(), list(logging.getLogger().handlers)
    load_clip(name, device="cpu").text.encode(CAPTIONS)
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger().handlers == handlers
    assert capfd.readouterr() == ("", "")


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_runs_code_is_not_unpickled(tiny_clip, tmp_path):
    torch.save({"state_dict": Payload(tmp_path / "created")}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_clip(f"open_clip:{tiny_clip[0]}/{tmp_path / 'evil.pt'}", device="cpu")
    assert not (tmp_path / "created").exists()


def test_damaged_and_foreign_weights_are_refused(tiny_clip, tmp_path):
    architecture, weights = tiny_clip
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes()[:1000])
    save_file({"weight": torch.ones(3)}, tmp_path / "foreign.safetensors")
    for path in (damaged, tmp_path / "foreign.safetensors"):
        with pytest.raises(InputError, match=path.name):
            load_clip(f"open_clip:{architecture}/{path}", device="cpu")


@pytest.mark.parametrize(
    ("wrong", "said", "hint"),
    [
        ("open_clip:ViT-B32/openai", "a model that open_clip knows", "Did you mean ViT-B-32"),
        ("open_clip:ViT-B-32", "expected open_clip:MODEL/WEIGHTS", "list_pretrained"),
        ("open_clip:ViT-B-32/laion", "neither a file nor a tag", "laion2b_s34b_b79k"),
    ],
)
def test_unknown_names_are_wrong_usage(wrong, said, hint):
    with pytest.raises(UsageError, match=said) as info:
        load_clip(wrong, device="cpu")
    assert hint in info.value.next_step


def test_a_download_that_fails_says_what_to_do(monkeypatch):
    def refuse(*arguments, **options):
        raise FileNotFoundError("no network")

    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", refuse)
    with pytest.raises(InputError, match="cannot be downloaded") as info:
        load_clip("open_clip:ViT-B-32/laion2b_s34b_b79k", device="cpu")
    assert "open_clip:ViT-B-32/FILE" in info.value.next_step


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingDependencyError, match="open_clip") as info:
        load_clip("open_clip:ViT-B-32/openai", device="cpu")
    assert "pip install 'nccleaner[clip]'" in info.value.next_step
