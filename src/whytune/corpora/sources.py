"""Keeps a corpus to some of its sources, as a recipe asks for it."""

from dataclasses import dataclass, field

from whytune.errors import CorpusError
from whytune.settings import hint

OTHERS = "examples of other sources were left out"
_NAMED = 20  # in a message


@dataclass(slots=True)
class Sources:
    """Which sources are wanted, and which were met."""

    wanted: frozenset[str]
    """Without any, all."""
    met: set[str] = field(default_factory=set)
    """All that are wanted, and the first others."""

    def wants(self, source: str) -> bool:
        """Whether examples of a source are kept."""
        if not self.wanted:
            return True
        if source in self.wanted or len(self.met) < _NAMED:
            self.met.add(source)
        return source in self.wanted

    def check(self, name: str) -> None:
        """Whether there was an example of each, once all were read.

        Raises:
            CorpusError: there was none.
        """
        if missing := sorted(self.wanted - self.met):
            known = hint(missing[0], sorted(self.met)) if self.met else "there are no examples"
            raise CorpusError(
                f"corpora.{name}.sources: found no examples of {missing[0]!r}; {known}; correct it"
            )
