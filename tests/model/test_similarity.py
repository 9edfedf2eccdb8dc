from __future__ import annotations

import pytest
import torch

from nccleaner.model.similarity import SimilarityVector

WIDTH, VECTOR = 7, 4


@pytest.fixture
def similarity():
    torch.manual_seed(0)
    return SimilarityVector(joint_width=WIDTH, similarity_width=VECTOR).double()


def unit_rows(count, *, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


IMAGES, TEXTS = unit_rows(5, seed=1), unit_rows(8, seed=2)


def naive(weight, images, texts):
    """h = L2norm(W (v − l)²) with every [b, c, d] written out."""
    squares = (images[:, None, :] - texts[None, :, :]) ** 2  # [b, c, d]
    weighted = torch.einsum("sd,bcd->bcs", weight, squares)
    return weighted / weighted.norm(dim=-1, keepdim=True)


def test_pairwise_is_the_naive_form(similarity):
    expected = naive(similarity.weight, IMAGES, TEXTS)
    torch.testing.assert_close(similarity.pairwise(IMAGES, TEXTS), expected, rtol=0, atol=1e-12)


def test_paired_is_the_diagonal_of_pairwise(similarity):
    paired = similarity.paired(IMAGES, TEXTS[:5])
    diagonal = similarity.pairwise(IMAGES, TEXTS[:5]).diagonal().T
    torch.testing.assert_close(paired, diagonal, rtol=0, atol=1e-12)


def test_vectors_have_length_1_and_forget_the_scale_of_the_distance(similarity):
    vectors = similarity.pairwise(IMAGES, TEXTS)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(5, 8, dtype=torch.float64))
    torch.testing.assert_close(similarity.pairwise(3 * IMAGES, 3 * TEXTS), vectors)


def test_the_gradient_is_that_of_the_naive_form(similarity):
    images, texts = IMAGES.clone().requires_grad_(), TEXTS.clone().requires_grad_()
    inputs = (similarity.weight, images, texts)
    weights = torch.linspace(-1, 1, 5 * 8 * VECTOR, dtype=torch.float64).view(5, 8, VECTOR)
    found = torch.autograd.grad((weights * similarity.pairwise(images, texts)).sum(), inputs)
    expected = torch.autograd.grad((weights * naive(*inputs)).sum(), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_float32_is_close_to_float64(similarity):
    exact = similarity.pairwise(IMAGES, TEXTS)
    rounded = similarity.float().pairwise(IMAGES.float(), TEXTS.float())
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=1e-5)


def test_no_tensor_of_images_by_captions_by_width_is_built():
    images, texts, width, vector = 64, 64, 512, 2
    similarity = SimilarityVector(joint_width=width, similarity_width=vector)

    class Largest(torch.overrides.TorchFunctionMode):
        elements = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.elements = max(self.elements, out.numel())
            return out

    with Largest() as largest:
        similarity.pairwise(torch.randn(images, width), torch.randn(texts, width))
    assert 0 < largest.elements <= images * vector * width < images * texts * width
