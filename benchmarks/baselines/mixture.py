"""A cut-off without trusted pairs: two Gaussians over the scores of a pool.

In: scores, higher = cleaner. Out: the posterior that each pair is clean.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

# NCR's settings: the most iterations, the tolerance of the mean log likelihood, the least variance.
_ITERATIONS, _TOLERANCE, _FLOOR = 10, 1e-2, 5e-4


def clean_posterior(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Fits two Gaussians to scores and returns the posterior of the upper one.

    As NCR fits them to losses (Huang et al., NeurIPS 2021; their code): scores are first scaled to
    [0, 1]. Ours [O]: the fit starts from the quartiles, so that it does not depend on a draw; and
    where the wider Gaussian wins at both ends, the posterior does not turn back there.

    Args:
        scores: [n], higher = cleaner.

    Returns:
        [n], in [0, 1], never falls where the score rises.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    values = np.asarray(scores, dtype=np.float64)
    scaled = (values - values.min()) / np.ptp(values)
    mixture = GaussianMixture(
        2,
        max_iter=_ITERATIONS,
        tol=_TOLERANCE,
        reg_covar=_FLOOR,
        means_init=np.quantile(scaled, [0.25, 0.75])[:, None],
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten iterations are all it gets
        mixture.fit(scaled[:, None])
    upper = int(mixture.means_.argmax())
    order = np.argsort(scaled)
    posterior = mixture.predict_proba(scaled[order, None])[:, upper]
    middle = int(np.searchsorted(scaled[order], mixture.means_.mean()))
    lowest = int(posterior[: middle + 1].argmin())
    posterior[:lowest] = posterior[lowest]
    result = np.empty_like(posterior)
    result[order] = np.maximum.accumulate(posterior)
    return result
