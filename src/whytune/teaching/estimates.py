"""How many tokens requests take and what they cost, before they are sent and after."""

from dataclasses import dataclass

from whytune.recipe_teachers import Price, TeacherSpec
from whytune.teaching.answers import Answer
from whytune.teaching.requests import Request, Spent

_BYTES_A_TOKEN = (5.0, 3.5, 2.5)
"""Of UTF-8 text: low, expected and high count of tokens. Byte-pair vocabularies take about four
bytes of English, less of other scripts, of marks and of JSON (SmolLM2: 3.0 of a whole request)."""
_OUT = (60, 160, 1000)
"""Tokens of a reply with two explanations; the last one where the teacher has no limit."""
_AROUND = 1500
"""Bytes of a question with its labels and the format of its answer."""
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_ENOUGH = 20
"""Attempts after which what they took says more than a rule."""
_RETRIED = 0.1
"""Share of the requests that are sent again, at most (`retries.Policy`)."""


@dataclass(frozen=True, slots=True)
class Bill:
    """Tokens in and out, and US dollars (None: no price is known)."""

    tokens_in: float
    tokens_out: float
    cost: float | None


Range = tuple[Bill, Bill, Bill]
"""Low, expected and high."""

_NOTHING = Bill(0.0, 0.0, 0.0)
NONE: Range = (_NOTHING, _NOTHING, _NOTHING)


def add(bills: Range, more: Range, times: float = 1.0) -> Range:
    """One range, and another so often."""
    low, expected, high = (_sum(a, b, times) for a, b in zip(bills, more, strict=True))
    return low, expected, high


def with_repetitions(bills: Range, reasks: int) -> Range:
    """High takes in what may be sent again: the retries that are allowed, and, where replies that
    cannot be read are asked again, one such repetition in ten."""
    low, expected, high = bills
    return low, expected, _sum(_NOTHING, high, 1 + _RETRIED * (2 if reasks else 1))


def _sum(bill: Bill, more: Bill, times: float) -> Bill:
    known = bill.cost is not None and more.cost is not None
    return Bill(
        bill.tokens_in + times * more.tokens_in, bill.tokens_out + times * more.tokens_out,
        (bill.cost or 0.0) + times * (more.cost or 0.0) if known else None,
    )  # fmt: skip


class Estimate:
    """What requests to one teacher take.

    Args:
        spec: its price and parameters.
        spent: what it took so far, where it was asked before.
    """

    def __init__(self, spec: TeacherSpec, spent: Spent | None = None) -> None:
        self._price = spec.price if spec.remote else Price(input=0, output=0)
        limit = next((spec.parameters[n] for n in _LIMITS if n in spec.parameters), None)
        most = float(limit) if isinstance(limit, int | float) else _OUT[2]
        low, expected = min(_OUT[0], most), min(_OUT[1], most)
        if spent is not None and spent.attempts >= _ENOUGH and spent.tokens_out:
            expected = spent.tokens_out / spent.attempts
        self._out = (min(low, expected), expected, max(most, expected))

    def before(self, request: Request) -> Range:
        """One send, before it: low, expected and high.

        Low takes every token that is read for a cached one, where those have a price.
        """
        return self._of(sum(len(message["content"].encode()) for message in request.messages))

    def of_size(self, size: int, votes: int) -> Range:
        """A request that is not written yet: about a text of so many bytes, with so many replies
        in it."""
        return self._of(size + _AROUND, votes)

    def _of(self, size: int, votes: int = 0) -> Range:
        tokens = [size / share + votes * out
                  for share, out in zip(_BYTES_A_TOKEN, self._out, strict=True)]  # fmt: skip
        low, expected, high = (
            self._bill(read, written, cached)
            for read, written, cached in zip(tokens, self._out, (tokens[0], 0, 0), strict=True)
        )
        return low, expected, high

    def after(self, answer: Answer) -> float | None:
        """What one send cost; None where the price, or what the server counted, is not known."""
        if answer.tokens_in is None or answer.tokens_out is None:
            return None
        cached = min(answer.tokens_cached or 0, answer.tokens_in)
        return self._bill(answer.tokens_in, answer.tokens_out, cached).cost

    def _bill(self, tokens_in: float, tokens_out: float, cached: float) -> Bill:
        price = self._price
        if price is None:
            return Bill(tokens_in, tokens_out, None)
        again = price.input if price.cached is None else price.cached
        dollars = (tokens_in - cached) * price.input + cached * again + tokens_out * price.output
        return Bill(tokens_in, tokens_out, dollars / 1e6)
