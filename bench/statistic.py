"""Medians, and how sure they are. Nothing is assumed of how times are distributed, but that rounds are alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Estimate", "estimate", "median", "ratio"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median and an interval that holds the true one with at least 90 % probability (from five rounds on)."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half the interval over the median: 0.02 reads as plus or minus 2 %."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def estimate(values: Sequence[float]) -> Estimate:
    """Of one number per round. Raises ``ValueError`` without any.

    The interval is between two of the values: as many are left out at each end as still make it 90 % sure (sign
    test). Below five rounds nothing can be so sure, and it is from the least to the most.
    """
    if not values:
        raise ValueError("no rounds, no median")
    ordered, n = sorted(values), len(values)
    left_out = 0
    while left_out + 1 < n / 2 and 2 * _at_most(left_out + 1, n) <= 0.1:
        left_out += 1
    return Estimate(median(ordered), ordered[left_out], ordered[n - 1 - left_out])


def ratio(over: Sequence[float], under: Sequence[float]) -> Estimate:
    """Of two series that were measured in the same rounds: of each round's ratio, so that what hit both cancels."""
    return estimate([a / b for a, b in zip(over, under, strict=True)])


def _at_most(k: int, n: int) -> float:
    """The probability of at most `k` heads in `n` throws."""
    return float(sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
