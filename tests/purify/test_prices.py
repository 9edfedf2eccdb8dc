from __future__ import annotations

import numpy as np

from nccleaner.purify.decide import Cuts, Known
from nccleaner.purify.prices import Masses, prices_of


def test_rounding_takes_no_share_out_of_its_bounds():
    masses = Masses(np.full(5, 3.0), np.full((5, 1), 3.0 - 1e-12), np.array([True]))
    (price,) = prices_of(masses, Cuts(np.array([0.0]), np.array([[10]])), 10, Known(0, 0))
    assert price.recall == (1.0, 1.0, 1.0)
    assert price.recall.complement() == (0.0, 0.0, 0.0)
