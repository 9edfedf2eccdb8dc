from __future__ import annotations

import numpy as np
import pytest

from nccleaner.purify.evidence import Evidence
from nccleaner.purify.frozen import KINDS


@pytest.mark.parametrize("frozen", [KINDS, 0])
def test_proportions_are_in_the_order_of_the_kinds(frozen):
    """Each kind holds the weight that is expected of it."""

    def columns(*values):
        return np.tile(np.array(values, dtype=np.float32), (5, 1))

    of_network = columns(0.1, 0.1)
    evidence = Evidence(
        np.zeros(5, np.float32),
        (of_network, of_network),
        columns(1, 1),
        columns(0.4, 0.1, 0.1)[:, :frozen],
        None,
    )

    for alone in (False, True):
        for rows in evidence.of_rows(slice(None), contrast_alone=alone):
            expected = evidence.proportions(contrast_alone=alone)
            np.testing.assert_allclose(rows, np.tile(expected, (5, 1)), rtol=1e-6)
