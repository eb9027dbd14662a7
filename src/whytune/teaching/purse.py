"""What may be spent, and what is spent or spoken for."""

import math


class Purse:
    """Money for all teachers together.

    Args:
        budget: US dollars that may be spent in all; None: whatever it takes.
        spent: US dollars that are spent already.
    """

    def __init__(self, budget: float | None = None, spent: float = 0.0) -> None:
        self._budget = math.inf if budget is None else budget
        self._reserved = 0.0
        self.spent = spent

    def reserve(self, cost: float) -> bool:
        """Sets so much aside for a send; False, and nothing set aside, where it is not there."""
        if self.spent + self._reserved + cost > self._budget:
            return False
        self._reserved += cost
        return True

    def settle(self, reserved: float, cost: float) -> None:
        """A send has ended: it cost so much of what was set aside for it."""
        self._reserved -= reserved
        self.spent += cost
