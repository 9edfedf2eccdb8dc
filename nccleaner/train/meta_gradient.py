"""The gradient of the meta loss with respect to the meta network: one interface, several ways.

MSCN section 3.2: Ŵ(θ) = W − η ∇_W L(W, θ), then ∇_θ L_meta(Ŵ(θ), θ).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from nccleaner.model.mfsr import MainNet
from nccleaner.model.products import float32_products
from nccleaner.train.world import ALONE, World

MetaGradient = Literal["direct", "finite_difference", "exact", "none"]
Loss = Callable[[MainNet], Tensor]


def meta_gradient(
    kind: MetaGradient,
    *,
    main_net: MainNet,
    meta_parameters: Sequence[nn.Parameter],
    noisy_loss: Loss,
    trusted_loss: Loss,
    virtual_step_size: float,
    world: World = ALONE,
) -> tuple[Tensor, ...]:
    """Returns ∇_θ L_meta for each of `meta_parameters`; both networks are as before afterwards.

    `exact` and `finite_difference` draw the same random numbers, so that dropout hides the same in
    all their passes.

    Args:
        kind: `exact` differentiates through the virtual step (double backward).
            `finite_difference` takes the second-order term from two more first-order passes.
            `direct` takes ∂_θ L_meta at W and leaves the virtual step out [O]: on frozen features
            the second-order term was measured at 0.01 % to 8 % of it, at a third of the cost
            (METHOD 2 and 6). `none` is zero, for ablations: the meta network stays what it was
            made as, and L_meta is only evaluated.
        main_net: The main network, at W.
        meta_parameters: θ.
        noisy_loss: L(W, θ) as a function of the main network; depends on θ through its closure.
        trusted_loss: L_meta(W, θ), likewise.
        virtual_step_size: η.
        world: The processes among which the losses are divided; all get the same gradient.
    """
    if kind == "none":
        with torch.no_grad():
            trusted_loss(main_net)
        return tuple(torch.zeros_like(parameter) for parameter in meta_parameters)
    if kind == "direct":
        with _constant(main_net):
            return world.total(torch.autograd.grad(trusted_loss(main_net), meta_parameters))
    if kind == "finite_difference":
        return _finite_difference(
            main_net,
            meta_parameters,
            noisy_loss,
            trusted_loss,
            step_size=virtual_step_size,
            world=world,
        )
    # cuDNN's recurrent layers have no double backward.
    with torch.backends.cudnn.flags(enabled=False):
        look_ahead = virtual_step(main_net, noisy_loss, step_size=virtual_step_size, world=world)
        objective = _Bound(main_net, trusted_loss)
        loss = torch.func.functional_call(
            objective, {f"main_net.{name}": value for name, value in look_ahead.items()}, ()
        )
        return world.total(torch.autograd.grad(loss, meta_parameters))


def virtual_step(
    main_net: MainNet, noisy_loss: Loss, *, step_size: float, world: World = ALONE
) -> dict[str, Tensor]:
    """Returns Ŵ(θ) = W − η ∇_W L(W, θ) by parameter name, as a differentiable function of θ."""
    parameters = dict(main_net.named_parameters())
    gradients = world.total(
        torch.autograd.grad(
            noisy_loss(main_net),
            list(parameters.values()),
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
    )
    return {
        name: parameter - step_size * gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def _finite_difference(
    main_net: MainNet,
    meta_parameters: Sequence[nn.Parameter],
    noisy_loss: Loss,
    trusted_loss: Loss,
    *,
    step_size: float,
    world: World,
) -> tuple[Tensor, ...]:
    """∂_θ L_meta(Ŵ, θ) − η [∇_θ L(W + εu, θ) − ∇_θ L(W − εu, θ)] / 2ε with u = ∇_Ŵ L_meta.

    The mixed product of DARTS (Liu et al., ICLR 2019, equation 8). ‖εu‖ is the cube root of the
    rounding error [O], where that and the truncation of a central difference balance. All
    parameters of W take part, those of the encoders too.
    """
    parameters = list(main_net.parameters())
    device = parameters[0].device
    with _full_precision(main_net, device):
        rewind = _remember_draws(device)
        step = _gradients(noisy_loss(main_net), parameters, world)
        with _moved(parameters, step, by=-step_size):
            both = _gradients(trusted_loss(main_net), [*meta_parameters, *parameters], world)
        go_on = _remember_draws(device)
        direct, direction = both[: len(meta_parameters)], both[len(meta_parameters) :]
        norm = torch.stack([part.norm() for part in direction]).norm()
        limits = torch.finfo(norm.dtype)
        epsilon = limits.eps ** (1 / 3) / norm.clamp(min=limits.tiny**0.5)
        sides = []
        for by in (epsilon, -epsilon):
            rewind()
            with _moved(parameters, direction, by=by):
                sides.append(_gradients(noisy_loss(main_net), meta_parameters, world))
        go_on()
    return tuple(
        first - step_size * (up - down) / (2 * epsilon)
        for first, up, down in zip(direct, *sides, strict=True)
    )


def _gradients(loss: Tensor, parameters: Sequence[Tensor], world: World) -> tuple[Tensor, ...]:
    """The gradient of each parameter, zero where the loss does not depend on it."""
    return world.total(
        torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    )


@contextmanager
def _moved(
    parameters: Sequence[nn.Parameter], direction: Sequence[Tensor], *, by: Tensor | float
) -> Iterator[None]:
    """Moves parameters along a direction, and puts back the very numbers that were there.

    In place: weights of cuDNN's recurrent layers must stay in the one block of memory they are in.
    """
    kept = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, part in zip(parameters, direction, strict=True):
            parameter.add_(by * part)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, kept, strict=True):
                parameter.copy_(values)


@contextmanager
def _full_precision(main_net: MainNet, device: torch.device) -> Iterator[None]:
    """Computes without autocast and without rounding factors: εu would be lost in bfloat16."""
    # Dropout between cuDNN's recurrent layers has a random state that cannot be rewound.
    cudnn = not any(
        isinstance(module, nn.RNNBase) and module.training and module.dropout
        for module in main_net.modules()
    )
    with (
        float32_products(rounded=False),
        torch.autocast(device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=cudnn, deterministic=True, allow_tf32=False),
    ):
        yield


def _remember_draws(device: torch.device) -> Callable[[], None]:
    """Returns what brings torch's generators back to where they are now."""
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def rewind() -> None:
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)

    return rewind


@contextmanager
def _constant(net: nn.Module) -> Iterator[None]:
    """Records no graph for the parameters of a network whose gradient is not wanted."""
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)


class _Bound(nn.Module):
    """A loss as a module, so that `functional_call` can exchange the main network's parameters."""

    def __init__(self, main_net: MainNet, loss: Loss) -> None:
        super().__init__()
        self.main_net = main_net
        self._loss = loss

    def forward(self) -> Tensor:
        return self._loss(self.main_net)
