from __future__ import annotations

import copy
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import jpeg
from networks import ALL_LOSSES, build_main_net, build_meta_net, latent_features, random_parts, rows
from PIL import Image

from nccleaner.model.mfsr import Parts
from nccleaner.model.reconstruction import (
    agreement_loss,
    augment,
    generator_loss,
    realness_loss,
)
from nccleaner.train.learner import Learner
from nccleaner.train.objective import NoisyBatch, main_loss
from nccleaner.train.rates import Rates
from nccleaner.train.reconstruction import (
    CaptionReconstruction,
    ImageReconstruction,
    Reconstruction,
)

JOINT = 5
FEATURES = latent_features(12, width=6, latent=3)
# Images 0 and 1 come twice.
PAIRS = rows([0, 1, 1, 2, 3, 0, 4, 5], [0, 1, 6, 2, 3, 7, 4, 5])
TARGETS = torch.stack(
    [
        torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg(color, shape, size_px=64)))))
        for color in ("red", "green", "blue")
        for shape in ("square", "circle")
    ]
)
TOKENS = torch.zeros(8, 5, dtype=torch.int32)
for number, row in enumerate(TOKENS):
    row[: 2 + number % 3] = torch.tensor([number % 4 + 1, number + 1, 3, 5])[: 2 + number % 3]


def images(**changes) -> ImageReconstruction:
    settings = {"weight": 0.7, "width": 2, "learning_rate": 2e-4, "seed": 0, "device": "cpu"}
    settings |= {"joint_width": JOINT, "targets": TARGETS}
    return ImageReconstruction(**(settings | changes))


def captions(**changes) -> CaptionReconstruction:
    settings = {"weight": 0.4, "vocabulary": 10, "embedding_width": 6, "learning_rate": 1e-2}
    settings |= {"joint_width": JOINT, "tokens": TOKENS, "seed": 0, "device": "cpu"}
    return CaptionReconstruction(**(settings | changes))


def both() -> Reconstruction:
    return Reconstruction(image=images(), caption=captions())


def parts_of(count, *, seed=0) -> Parts:
    return Parts(*(part.float() for part in random_parts(count, JOINT, seed=seed)))


def build_learner(reconstruction, *, precision="float32", dropout=0.0) -> Learner:
    return Learner(
        main_net=build_main_net(dropout=dropout, dtype=torch.float32),
        meta_net=build_meta_net(dtype=torch.float32),
        loss_weights=ALL_LOSSES,
        rates=Rates(
            schedule="cosine", main=1e-2, meta=5e-3, rise_steps=0, fall_at=0.6, total_steps=20
        ),
        weight_decay=0.0,
        averaging=0.9,
        precision=precision,
        reconstruction=reconstruction,
    )


def batch(weights=None) -> NoisyBatch:
    return NoisyBatch(
        FEATURES, PAIRS, torch.linspace(0.5, 1, 8) if weights is None else weights, False
    )


def step(learner, *, gradient="direct"):
    return learner.step(
        batch(),
        matched=rows(range(6, 9)),
        mismatched=rows([9, 10], [10, 11]),
        hard_mismatched=True,
        gradient=gradient,
    )


def flat(*nets) -> torch.Tensor:
    return torch.cat([value.detach().double().flatten() for net in nets for value in net])


def test_the_total_is_the_weighted_sum_of_the_terms_that_are_on():
    parts, other = parts_of(8), parts_of(8, seed=1)
    torch.manual_seed(0)
    of_image = images().loss(parts, PAIRS.image_rows)
    of_caption = captions().loss(other, PAIRS.text_rows)
    for image, caption, expected in (
        (images(), None, 0.7 * of_image),
        (None, captions(), 0.4 * of_caption),
        (images(), captions(), 0.7 * of_image + 0.4 * of_caption),
    ):
        torch.manual_seed(0)
        reconstruction = Reconstruction(image=image, caption=caption)
        assert torch.equal(reconstruction.loss(parts, other, PAIRS), expected)
        losses = reconstruction.take_losses()
        assert losses.get("generator_loss", of_image.item()) == of_image.item()
        assert losses.get("caption_loss", of_caption.item()) == of_caption.item()
        assert len(losses) == (image is not None) + (caption is not None)
        assert reconstruction.take_losses() == {}


def test_each_term_stays_in_its_modality_and_belief_does_not_weigh_it():
    main_net, meta_net = build_main_net(dtype=torch.float32), build_meta_net(dtype=torch.float32)
    off = dict.fromkeys(("info_nce", "hinge", "modality", "specific"), 0.0)
    silent = replace(ALL_LOSSES, **off)

    def gradients(reconstruction, weights):
        torch.manual_seed(0)
        loss = main_loss(
            main_net,
            meta_net,
            batch(weights),
            loss_weights=silent,
            reconstruction=reconstruction.loss,
        )
        wanted = list(main_net.named_parameters())
        found = torch.autograd.grad(loss, [value for _, value in wanted], allow_unused=True)
        return {name: value for (name, _), value in zip(wanted, found, strict=True)}

    for side, reconstruction in (
        ("image", Reconstruction(image=images(), caption=None)),
        ("text", Reconstruction(image=None, caption=captions())),
    ):
        found = gradients(reconstruction, torch.ones(8))
        unbelieved = gradients(reconstruction, torch.zeros(8))
        for name, value in found.items():
            if name.startswith((f"{side}_tower", f"{side}_separation")):
                assert value.abs().sum() > 0, name
                assert torch.equal(value, unbelieved[name])
            else:
                assert value is None, name


def test_a_step_is_one_of_adam_for_each_network_by_its_own_loss():
    """The discriminators learn from the images that were generated before the generator's step."""
    reconstruction = images()
    generator, judges = copy.deepcopy((reconstruction.generator, reconstruction.discriminators))
    optimisers = [
        torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999), foreach=False)
        for net in (generator, judges)
    ]
    for turn in range(3):
        parts = parts_of(8, seed=turn)
        torch.manual_seed(turn)
        (0.7 * reconstruction.loss(parts, PAIRS.image_rows)).backward()
        reconstruction.step()

        torch.manual_seed(turn)
        true = reconstruction.true_images(PAIRS.image_rows)
        condition, generated = augment(true), generator(parts)
        realness, agreement = judges["realness"], judges["agreement"]
        loss = 0.7 * generator_loss(realness(generated), agreement(condition, generated))
        optimisers[0].zero_grad()
        loss.backward()
        optimisers[0].step()
        optimisers[1].zero_grad()
        other = true[[7, *range(7)]]
        differs = torch.tensor([True, True, False, True, True, True, True, True])
        generated = generated.detach()
        of_realness = realness_loss(realness(true), realness(generated))
        of_agreement = agreement_loss(
            agreement(condition, true),
            agreement(condition, generated),
            agreement(condition, other),
            differs=differs,
        )
        of_realness.backward()
        of_agreement.backward()
        optimisers[1].step()
    for expected, found in (
        (generator, reconstruction.generator),
        (judges, reconstruction.discriminators),
    ):
        torch.testing.assert_close(
            flat(found.parameters()), flat(expected.parameters()), rtol=0, atol=1e-5
        )


def test_a_step_of_a_learner_moves_all_networks_and_the_meta_network_as_ever():
    learner, without = build_learner(both()), build_learner(None)
    parts = learner.reconstruction
    nets = [parts.image.generator, parts.image.discriminators, parts.caption.decoder]
    before = [[value.clone() for value in net.parameters()] for net in nets]
    for one in (learner, without):
        torch.manual_seed(0)
        step(one, gradient="exact")
    for net, old in zip(nets, before, strict=True):
        pairs = zip(net.named_parameters(), old, strict=True)
        assert all(not torch.equal(value, was) for (_, value), was in pairs)
    moved, plain = (flat(one.main_net.parameters()) for one in (learner, without))
    assert not torch.equal(moved, plain)
    assert torch.equal(*(flat(one.meta_net.parameters()) for one in (learner, without)))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_learner_that_was_saved_goes_on_bit_by_bit(precision, tmp_path):
    whole, first = (build_learner(both(), precision=precision, dropout=0.3) for _ in range(2))
    torch.manual_seed(0)
    for _ in range(4):
        step(whole)
    torch.manual_seed(0)
    for _ in range(2):
        step(first)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    random = torch.get_rng_state()
    again = build_learner(both(), precision=precision, dropout=0.3)
    step(again)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.set_rng_state(random)
    for _ in range(2):
        step(again)
    states = []
    for learner in (whole, again):
        parts = learner.reconstruction
        nets = [
            learner.main_net,
            parts.image.generator,
            parts.image.discriminators,
            parts.caption.decoder,
        ]
        states.append(flat(*(net.state_dict().values() for net in nets)))
    assert torch.equal(*states)
    assert states[0].isfinite().all()


def test_targets_are_those_of_the_rows():
    true = images().true_images(torch.tensor([3, 0]))
    pixels = TARGETS[[3, 0]].permute(0, 3, 1, 2).double() / 255
    torch.testing.assert_close((true.double() + 1) / 2, pixels, rtol=0, atol=1e-6)
    # No wider than the longest of the batch.
    assert captions().true_tokens(torch.tensor([0, 3])).tolist() == [[1, 1], [4, 4]]
    assert captions().true_tokens(torch.tensor([0, 1])).tolist() == [[1, 1, 0], [2, 2, 3]]


def test_a_handful_of_images_is_learned():
    """What is rebuilt comes close to its own image, closer than to the others."""
    reconstruction = images(targets=TARGETS[:4], width=4, joint_width=16, learning_rate=4e-3)
    generator = torch.Generator().manual_seed(0)
    parts = Parts(*(torch.randn(3, 4, 16, generator=generator) / 4))
    own = torch.eye(4, dtype=torch.bool)

    def distances() -> torch.Tensor:
        rebuilt = reconstruction.rebuild(parts).float()
        return (rebuilt[:, None] - TARGETS[:4].float()).square().mean((2, 3, 4)).sqrt()  # [4, 4]

    torch.manual_seed(0)
    before = distances()
    for _ in range(150):
        drawn = torch.randperm(8) % 4
        reconstruction.loss(Parts(*(part[drawn] for part in parts)), drawn).backward()
        reconstruction.step()
    after = distances()
    assert after[own].mean() < 0.6 * before[own].mean()
    assert after[own].mean() < 0.95 * after[~own].mean()
