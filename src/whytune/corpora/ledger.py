"""What a loader tells besides its examples: files, rows that could not be read, and counts."""

from collections import Counter
from dataclasses import dataclass, field


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


SHOWN = 200
"""Characters of a quarantined row that are kept."""


@dataclass(slots=True)
class Ledger:
    """Filled while a corpus is read; whole when its last example has been taken."""

    inputs: dict[str, str] = field(default_factory=dict)
    """File name -> SHA-256 (64 hex digits) of every file read."""
    quarantined: list[Quarantined] = field(default_factory=list)
    rows: int = 0
    """Rows that were looked at, readable or not."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was left out or changed on purpose -> how often; each becomes a note."""

    def quarantine(self, file: str, line: int | None, reason: str, text: str = "") -> None:
        """Leave a row out and remember why."""
        self.quarantined.append(Quarantined(file=file, line=line, reason=reason, text=text[:SHOWN]))

    @property
    def share(self) -> float:
        """Quarantined rows of all, on [0, 1]."""
        return len(self.quarantined) / max(self.rows, 1)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each count."""
        return tuple(f"{count} {what}." for what, count in self.counts.items())
