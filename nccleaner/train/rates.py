"""Learning rates, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RateSchedule = Literal["cosine", "step"]

_FALL = 0.1  # [P]
_LOWEST = 0.01  # of the peak: the last steps of the cosine still learn


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The rates of a main and a meta network.

    Attributes:
        schedule: `cosine` [O]: the main rate falls from its peak along half a cosine, the meta rate
            stays. `step` [P]: both fall once, to a tenth; during warm-up θ moves at the rate of W.
        main: Peak of the main network's rate.
        meta: Rate of the meta network; with `step` after warm-up.
        rise_steps: Steps over which the main rate rises from 0.
        fall_at: With `step`, the share of all steps after which the rates fall.
        total_steps: Length of the training, warm-up included.
    """

    schedule: RateSchedule
    main: float
    meta: float
    rise_steps: int
    fall_at: float
    total_steps: int

    def main_at(self, step: int) -> float:
        """Returns the main network's rate; steps are counted from 0."""
        rising = min(1.0, (step + 1) / max(self.rise_steps, 1))
        if self.schedule == "step":
            return self.main * rising * self._fallen(step)
        falling = 0.5 * (1 + math.cos(math.pi * min(step / self.total_steps, 1.0)))
        return self.main * rising * max(falling, _LOWEST)

    def meta_at(self, step: int, *, warm_up: bool) -> float:
        """Returns the meta network's rate; steps are counted from 0."""
        if self.schedule == "cosine":
            return self.meta
        return self.main_at(step) if warm_up else self.meta * self._fallen(step)

    def _fallen(self, step: int) -> float:
        return _FALL if step >= self.fall_at * self.total_steps else 1.0
