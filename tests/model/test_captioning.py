from __future__ import annotations

import pytest
import torch
from networks import random_parts
from torch import nn

from nccleaner.model.captioning import CaptionDecoder, caption_loss

TOKENS = torch.tensor([[5, 3, 0, 0], [1, 2, 3, 4], [7, 0, 0, 0], [0, 0, 0, 0]])


def build(*, dtype=torch.float64):
    torch.manual_seed(0)
    return CaptionDecoder(vocabulary=9, embedding_width=6, joint_width=5).to(dtype)


def one_by_one(net: CaptionDecoder, parts) -> tuple[torch.Tensor, list[int]]:
    """The loss with a GRU cell that is fed token by token, and the tokens it is to say."""
    cell = nn.GRUCell(6, 5).double()
    for name, value in net.gru.named_parameters():
        getattr(cell, name.removesuffix("_l0")).data.copy_(value)
    terms, said = [], []
    for row, caption in enumerate(TOKENS.tolist()):
        spoken = [token for token in caption if token]
        joined = torch.cat([part[row] for part in parts])
        state = torch.tanh(joined @ net.start.weight.T + net.start.bias)[None]
        for before, after in zip([0, *spoken], [*spoken, 0], strict=True):
            state = cell(net.embedding.weight[before][None], state)
            terms.append(-net.out(state)[0].log_softmax(dim=0)[after])
            said.append(after)
    return torch.stack(terms).mean(), said


def test_the_loss_is_the_cross_entropy_of_each_token_after_those_before_it():
    net, parts = build(), random_parts(4, 5)
    logits, tokens = net(parts, TOKENS)
    expected, said = one_by_one(net, parts)
    assert tokens.tolist() == said  # two, four, one and no tokens, each with an end
    assert caption_loss(logits, tokens).item() == pytest.approx(expected.item(), rel=1e-12)


def test_padding_changes_nothing():
    net, parts = build(), random_parts(4, 5)
    wider = torch.nn.functional.pad(TOKENS, (0, 3))
    for narrow, wide in zip(net(parts, TOKENS), net(parts, wider), strict=True):
        torch.testing.assert_close(narrow, wide)


def test_autocast_leaves_the_gru_in_float32():
    net, parts = build(dtype=torch.float32), random_parts(4, 5)
    parts = parts._make(part.float() for part in parts)
    seen = []
    net.gru.register_forward_hook(lambda _, given, found: seen.append((*given, found[0])))
    with torch.autocast("cpu", torch.bfloat16):
        loss = caption_loss(*net(parts, TOKENS))
    assert {tensor.dtype for tensor in seen[0]} == {torch.float32}
    assert loss.item() == pytest.approx(caption_loss(*net(parts, TOKENS)).item(), rel=0.01)


def test_the_gradient_reaches_all_parts_and_all_weights():
    net = build()
    parts = random_parts(4, 5)._make(part.requires_grad_() for part in random_parts(4, 5))
    caption_loss(*net(parts, TOKENS)).backward()
    leaves = [*parts, *net.parameters()]
    assert all(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves)


def test_what_is_written_is_the_likeliest_token_after_those_written():
    net, parts = build(), random_parts(4, 5)
    with torch.no_grad():
        net.out.bias[0] -= 0.5  # lest every caption ends at once
        written = net.write(parts, max_tokens=6)
        lengths = (written != 0).sum(dim=1)
        assert written.shape == (4, 6)
        assert lengths.max() > 1
        logits, _ = net(parts, written)
    predicted = logits.argmax(dim=1).split((lengths + 1).tolist())
    for row, length in enumerate(lengths.tolist()):
        assert predicted[row][:length].tolist() == written[row, :length].tolist()
        assert written[row, length:].eq(0).all()
        assert length == 6 or predicted[row][length] == 0


def test_captions_are_learned_by_heart():
    net, parts = build(dtype=torch.float32), random_parts(4, 5)
    parts = parts._make(part.float() for part in parts)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        loss = caption_loss(*net(parts, TOKENS))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert losses[-1] < 0.1
    assert torch.equal(net.write(parts, max_tokens=4), TOKENS)
