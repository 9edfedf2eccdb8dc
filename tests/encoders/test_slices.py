from __future__ import annotations

import threading

import pytest
import torch

from nccleaner.encoders.slices import encode_in_slices


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(288, 5),
    ]
    return torch.nn.Sequential(*layers).double()


@pytest.mark.parametrize("count", [1, 7, 16, 45])
@pytest.mark.parametrize("how_many", [1, 2, 5])
def test_rows_are_those_of_the_whole_batch(network, threads, count, how_many):
    threads(how_many)
    images = torch.randn(count, 3, 8, 8, dtype=torch.float64)
    features = encode_in_slices(network, images)
    assert torch.allclose(features, network(images))
    assert not features.requires_grad


def test_threads_have_one_thread_each_and_later_ones_have_all(threads):
    class Counting(torch.nn.Module):
        def forward(self, images):
            seen.add((threading.current_thread(), torch.get_num_threads()))
            return images

    def look():
        later.append(torch.get_num_threads())

    seen: set[tuple[threading.Thread, int]] = set()
    later: list[int] = []
    threads(3)
    encode_in_slices(Counting(), torch.zeros(48, 1))
    assert {count for _, count in seen} == {1}
    assert threading.current_thread() not in {thread for thread, _ in seen}
    (thread := threading.Thread(target=look)).start()
    thread.join()
    assert (torch.get_num_threads(), later) == (3, [3])


def test_what_a_network_raises_is_raised(threads):
    threads(2)
    with pytest.raises(RuntimeError):
        encode_in_slices(torch.nn.Linear(3, 2), torch.zeros(40, 4))
    assert torch.get_num_threads() == 2
