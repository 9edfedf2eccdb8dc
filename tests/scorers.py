"""Small scorers of synthetic pairs, their judges, and what was believed of the pairs."""

from __future__ import annotations

import numpy as np
import torch

from nccleaner.purify.fit_judge import fit_judge
from nccleaner.purify.heads import Prior
from nccleaner.purify.judge import Judges
from nccleaner.purify.scoring import Scorer
from nccleaner.train.networks import Architecture

COUNT = 120
IDENTITIES = torch.arange(COUNT)


def architecture(vocabulary=0):
    return Architecture(
        image_width=10,
        text_width=0 if vocabulary else 10,
        vocabulary=vocabulary,
        embedding_width=8,
        gru_layers=1,
        joint_width=6,
        similarity_width=4,
        meta_hidden_width=4,
        dropout=0.5,
        temperature=0.05,
    )


def judges_of(scorer, features, pairs):
    """Finds the alternatives, and fits two judges, so unlike that it matters who judges."""
    scorer.find_alternatives(features, pairs, identities=IDENTITIES, seed=0)
    evidence = gather(scorer, features, pairs)
    proportions = evidence.proportions()
    judges = []
    for seed, rate, belief in ((0, 0.3, believed(len(pairs))), (1, 0.5, None)):
        known = evidence.of_rows(slice(None), belief)
        echo = None if belief is None else 0.3 * np.ones_like(proportions)
        judges.append(
            fit_judge(
                known,
                evidence.similarity,
                np.arange(len(pairs)) < COUNT,
                pool_evidence=known,
                priors=[Prior(proportions, echo)] * len(known),
                seed=seed,
                noise_rate=rate,
            )
        )
    judges[1].heads[0].weights[0] += 1.0
    return Judges(*judges)


def believed(count, fitted=True):
    """What training believed of pairs; not a number where the networks were not trained on them."""
    belief = np.random.default_rng(5).random(count)
    return np.where(fitted, belief, np.nan).astype(np.float32)


def gather(scorer, features, pairs):
    return scorer.gather(features, pairs, identities=IDENTITIES)


def alone(scorer, *, networks, siblings=False):
    """A scorer with some of the networks of another; without judges."""
    return Scorer(
        architecture=scorer.architecture,
        networks=scorer.networks[:networks],
        frozen=scorer.frozen,
        canonical=scorer.canonical,
        siblings=siblings,
        judges=None,
        tokenizer="",
    )
