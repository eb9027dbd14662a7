"""Tables as LaTeX; they need the package booktabs."""

import re
from collections.abc import Sequence

_SIGNS = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "✱": r"$\ast$",
}  # fmt: skip


def escaped(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def figure(
    value: float | None, low: float | None = None, high: float | None = None, *,
    digits: int = 4, bold: bool = False, star: bool = False,
) -> str:  # fmt: skip
    """A value with its interval below and above it."""
    if value is None:
        return "--"
    text = f"{value:.{digits}f}"
    text = f"\\mathbf{{{text}}}" if bold else text
    if low is None or high is None or low != low:
        return f"${text}$"
    ends, mark = digits - 1, ",\\,\\ast" if star else ""
    return f"${text}_{{{low:.{ends}f}}}^{{{high:.{ends}f}{mark}}}$"


def table(
    caption: str, label: str, heading: Sequence[str], rows: Sequence[Sequence[str]], *,
    words: int = 1, rule_after: int | None = None,
) -> str:  # fmt: skip
    """A `table` whose first columns are words and whose others are figures.

    Args:
        caption: plain text.
        label: after `tab:`; what LaTeX cannot have there becomes a dash.
        heading: plain text, a name for each column.
        rows: cells as LaTeX.
        words: how many columns are words.
        rule_after: number of a row after which a line is drawn.
    """
    lines = [f"{' & '.join(row)} \\\\" for row in rows]
    if rule_after is not None:
        lines.insert(rule_after, r"\midrule")
    return "\n".join([
        r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        f"\\caption{{{escaped(caption)}}}",
        f"\\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', label)}}}",
        f"\\begin{{tabular}}{{{'l' * words}{'c' * (len(heading) - words)}}}", r"\toprule",
        f"{' & '.join(map(escaped, heading))} \\\\", r"\midrule",
        *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip
