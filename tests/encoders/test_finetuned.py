import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet50

from nccleaner.encoders import finetuned as finetuned_module
from nccleaner.encoders.finetuned import load_fine_tuned
from nccleaner.encoders.images import load_image_network
from nccleaner.errors import InputError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(resnet50().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def states(weights):
    """Two copies of the backbone as training may leave them."""
    copies = []
    for index in range(2):
        network = load_image_network("resnet50", weights=weights).network
        torch.manual_seed(index)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * parameter.std(), alpha=0.01)
        copies.append(network)
    return copies


def save(states, path):
    tensors = {"main_net.0.weight": torch.ones(2)}
    for index, network in enumerate(states):
        for name, tensor in network.state_dict().items():
            tensors[f"backbone.{index}.{name}"] = tensor.contiguous()
    save_file(tensors, path)
    return path


def load(path, weights):
    return load_fine_tuned(path, name="resnet50", weights=weights, device="cpu")


@torch.inference_mode()
def test_features_stand_side_by_side_the_frozen_ones_first(weights, states, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuned_module, "fast_dtype", lambda device: torch.float32)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    encoder = load(save(states, tmp_path / "tuned.safetensors"), weights)
    frozen = load_image_network("resnet50", weights=weights).network
    expected = torch.cat([network(torch.from_numpy(pixels)) for network in [frozen, *states]], 1)
    features = encoder.encode(pixels)
    assert features.shape == (2, encoder.width) == (2, 3 * 2048)
    assert np.abs(features - expected.numpy()).max() < 1e-4 * expected.abs().max()


def test_the_fingerprint_follows_the_copies_and_nothing_beside_them(weights, states, tmp_path):
    first = load(save(states, tmp_path / "first.safetensors"), weights).fingerprint
    tensors = load_file(tmp_path / "first.safetensors")
    tensors.pop("main_net.0.weight")
    save_file(tensors, tmp_path / "second.safetensors")
    assert load(tmp_path / "second.safetensors", weights).fingerprint == first
    swapped = save(states[::-1], tmp_path / "third.safetensors")
    assert load(swapped, weights).fingerprint != first


def test_what_was_made_of_another_network_is_refused(weights, tmp_path):
    save_file({"backbone.0.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="fine-tuned to"):
        load(tmp_path / "other.safetensors", weights)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.safetensors", weights)
