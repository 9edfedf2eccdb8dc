from __future__ import annotations

import torch

from nccleaner.model.towers import FeatureTower, GRUTower


def gru_tower(**changes):
    torch.manual_seed(0)
    sizes = {
        "vocabulary": 12,
        "embedding_width": 3,
        "layers": 2,
        "joint_width": 4,
        "dropout": 0.0,
    }
    return GRUTower(**(sizes | changes)).double()


def naive_gru(tower, tokens):
    """The GRU's equations (Cho et al. 2014, as torch writes them), one token at a time."""
    layers, width = tower.gru.num_layers, tower.gru.hidden_size
    states = [torch.zeros(width, dtype=torch.float64) for _ in range(layers)]
    for token in tokens:
        x = tower.embedding.weight[token]
        for layer in range(layers):
            h = states[layer]
            weight_x, weight_h, bias_x, bias_h = tower.gru.all_weights[layer]
            reset_x, update_x, new_x = (weight_x @ x + bias_x).chunk(3)
            reset_h, update_h, new_h = (weight_h @ h + bias_h).chunk(3)
            reset, update = (reset_x + reset_h).sigmoid(), (update_x + update_h).sigmoid()
            new = (new_x + reset * new_h).tanh()
            x = states[layer] = (1 - update) * new + update * h
    return states[-1]


TOKENS = torch.tensor([[5, 3, 11, 0, 0, 0], [1, 2, 3, 4, 5, 6], [7, 0, 0, 0, 0, 0]])


def test_a_caption_is_its_state_after_the_last_token_however_it_is_padded():
    tower = gru_tower()
    expected = torch.stack([naive_gru(tower, row[row != 0]) for row in TOKENS])
    torch.testing.assert_close(tower(TOKENS), expected)
    torch.testing.assert_close(tower(torch.nn.functional.pad(TOKENS, (0, 9))), expected)
    torch.testing.assert_close(tower(TOKENS[:1, :3]), expected[:1])


def test_what_follows_a_caption_gets_no_gradient():
    tower = gru_tower()
    tower(TOKENS[2:]).sum().backward()
    touched = tower.embedding.weight.grad.abs().sum(dim=1) > 0
    assert touched.nonzero().flatten().tolist() == [7]


def test_tokens_of_32_bits_serve():
    tower = gru_tower()
    torch.testing.assert_close(tower(TOKENS.int()), tower(TOKENS))


def test_autocast_leaves_recurrent_layers_in_float32():
    tower = gru_tower().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = tower(TOKENS)
    assert found.dtype == torch.float32
    assert torch.equal(found, tower(TOKENS))


def test_the_order_of_tokens_matters():
    tower = gru_tower()
    assert not torch.allclose(tower(TOKENS[1:2]), tower(TOKENS[1:2].flip(1)))


def test_a_caption_without_tokens_is_finite():
    assert gru_tower()(torch.zeros(2, 5, dtype=torch.int64)).isfinite().all()


def test_one_layer_has_no_dropout_to_warn_of():
    assert gru_tower(layers=1, dropout=0.5).gru.dropout == 0


def feature_tower(dropout):
    torch.manual_seed(0)
    return FeatureTower(feature_width=16, joint_width=4, dropout=dropout).double()


FEATURES = torch.randn(5, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_features_of_any_scale_and_offset_fit():
    tower = feature_tower(dropout=0.0)
    torch.testing.assert_close(tower(FEATURES), tower(1000 * FEATURES + 7), rtol=1e-4, atol=1e-4)


def test_a_feature_tower_is_a_linear_map_of_the_normed_feature():
    tower = feature_tower(dropout=0.0)
    centred = FEATURES - FEATURES.mean(dim=1, keepdim=True)
    normed = centred / centred.square().mean(dim=1, keepdim=True).sqrt()
    expected = normed @ tower.linear.weight.T + tower.linear.bias
    torch.testing.assert_close(tower(FEATURES), expected, rtol=1e-4, atol=1e-4)


def test_dropout_is_for_training_only():
    tower = feature_tower(dropout=0.5)
    assert not torch.equal(tower.train()(FEATURES), tower(FEATURES))
    assert torch.equal(tower.eval()(FEATURES), tower(FEATURES))
