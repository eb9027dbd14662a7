"""What a loader tells besides its examples: files, rows that could not be read, and counts."""

from collections import Counter
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A row that was left out because it could not be read."""

    file: str
    line: int | None
    """From 1; None where the file has no lines."""
    reason: str
    """What was found and what was expected."""
    text: str
    """How the row begins, at most `SHOWN` characters."""

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return self.file if self.line is None else f"{self.file}, line {self.line}"


SHOWN = 200
"""Characters of a quarantined row that are kept."""
KEPT = 1000
"""Quarantined rows that are kept; beyond, they are only counted, so that memory stays flat."""


@dataclass(slots=True)
class Ledger:
    """Filled while a corpus is read; whole when its last example has been taken."""

    inputs: dict[str, str] = field(default_factory=dict)
    """File name -> SHA-256 (64 hex digits) of every file read."""
    quarantined: list[Quarantined] = field(default_factory=list)
    """The first `KEPT` of them."""
    unreadable: int = 0
    """Quarantined rows, all of them."""
    rows: int = 0
    """Rows that were looked at, readable or not."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was left out or changed on purpose -> how often; each becomes a note."""

    def quarantine(
        self, file: str, line: int | None, reason: str, text: str = "", *, rows: int = 1
    ) -> None:
        """Leave a row (or several with one reason, named by one line) out and remember why."""
        self.unreadable += rows
        if len(self.quarantined) < KEPT:
            shown = text[:SHOWN]
            self.quarantined.append(Quarantined(file=file, line=line, reason=reason, text=shown))

    def merge(self, later: "Ledger", lines: int) -> None:
        """Add what was told of the same file behind its first `lines` lines."""
        self.inputs.update(later.inputs)
        room = KEPT - len(self.quarantined)
        for row in later.quarantined[:room]:
            line = None if row.line is None else row.line + lines
            self.quarantined.append(replace(row, line=line))
        self.unreadable += later.unreadable
        self.rows += later.rows
        self.counts.update(later.counts)

    @property
    def share(self) -> float:
        """Quarantined rows of all, on [0, 1]."""
        return min(self.unreadable / max(self.rows, 1), 1.0)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for the quarantined rows, and one for each count."""
        counts = tuple(f"{count} {what}." for what, count in self.counts.items())
        if not self.unreadable:
            return counts
        first = self.quarantined[0]
        left_out = (
            f"{self.unreadable} of {self.rows} rows could not be read and were left out, the first "
            f"in {first.place}: {first.reason}."
        )
        return (left_out, *counts)
