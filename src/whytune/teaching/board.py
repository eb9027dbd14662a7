"""How far asking is, and what holds it up."""

from collections.abc import Callable, Sequence

from whytune.progress import Advance
from whytune.teaching.answers import Answer
from whytune.teaching.calls import Figures


class Board:
    """Shows how far all teachers are together.

    Args:
        advance: of `progress.Progress.work`, in questions.
        say: prints a line.
    """

    def __init__(self, advance: Advance, say: Callable[[str], None] = lambda _: None) -> None:
        self._advance, self.say = advance, say
        self.cached = self.unreadable = self.given_up = self.tokens = 0
        self.spent = 0.0
        self._held_up = ""

    def found(self) -> None:
        """A question is settled already."""
        self.cached += 1
        self._show(1)

    def answered(self, answer: Answer, cost: float | None, *, settles: bool) -> None:
        """A send ended."""
        self.tokens += (answer.tokens_in or 0) + (answer.tokens_out or 0)
        self.spent += cost or 0.0
        self._show(int(settles))

    def beat(self, figures: Sequence[Figures]) -> None:
        """Nothing may have ended for a while: what is under way, and what went wrong so far."""
        kinds = ("in_flight", "waiting", "rate_limited", "server_errors", "timeouts", "connections")
        words = ("in flight", "to be sent again", "refused for now (429)", "server errors",
                 "timeouts", "lost connections")  # fmt: skip
        counts = [sum(getattr(own, kind) for own in figures) for kind in kinds]
        self._held_up = ", ".join(
            f"{count} {word}" for count, word in zip(counts, words, strict=True) if count
        )
        self._show(0)

    def _show(self, count: int) -> None:
        parts = [
            f"{self.cached} from the journal" if self.cached else "",
            f"{self.unreadable} unreadable" if self.unreadable else "",
            f"{self.given_up} given up" if self.given_up else "",
            f"{self.tokens / 1000:.0f}k tokens" if self.tokens else "",
            f"${self.spent:.4f}" if self.spent else "",
            self._held_up,
        ]
        self._advance(count, ", ".join(part for part in parts if part))
