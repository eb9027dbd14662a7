"""Names: what columns are usually called, scales that people use, and names for a recipe."""

import re
from pathlib import Path

from whytune.recipe_data import LOADERS

NAMES: dict[str, tuple[str, ...]] = {
    "turns": ("turns", "messages", "conversation", "conversations", "dialogue", "dialog", "chat"),
    "text": (
        "text", "sentence", "message", "content", "body", "document", "review", "utterance",
        "post", "tweet", "ticket", "claim", "statement", "comment", "passage", "response", "reply", "answer", "output",
        "input", "prompt", "question", "title", "description",
    ),
    "explanation": (
        "explanation", "reason", "reasoning", "rationale", "why", "justification", "assessment",
        "critique", "feedback", "comment", "note", "remark",
    ),
    "label": (
        "label", "class", "category", "target", "gold", "rating", "score", "stars", "grade",
        "verdict", "judgement", "judgment", "sentiment", "emotion", "intent", "topic", "urgency",
        "priority", "severity", "quality", "mood", "stance", "toxicity",
    ),
    "rater": (
        "rater", "annotator", "worker", "judge", "coder", "reviewer", "teacher", "labeler",
        "labeller", "assessor", "evaluator",
    ),
    "group": (
        "group", "conversation", "thread", "question", "document", "dialogue", "dialog", "prompt",
        "product", "author", "user", "session", "article", "passage",
    ),
    "id": ("id", "uid", "uuid", "key", "index", "guid"),
    "source": ("source", "domain", "dataset", "corpus", "origin", "style", "channel"),
    "split": ("split", "part", "fold", "subset", "partition"),
}  # fmt: skip
"""Use -> what such a column is called, the surest first."""

NO_LABELS = ("task", "model", "language", "lang", "date", "time", "year", "version", "country")
"""Columns with few values that are a label only where they are called one."""

ORDERS: tuple[tuple[str, ...], ...] = (
    ("very low", "low", "medium", "moderate", "high", "very high", "critical"),
    ("lowest", "low", "normal", "high", "urgent", "critical"),
    ("none", "mild", "moderate", "severe"),
    ("trivial", "minor", "major", "critical", "blocker"),
    ("very negative", "negative", "neutral", "positive", "very positive"),
    ("strongly disagree", "disagree", "neutral", "agree", "strongly agree"),
    ("never", "rarely", "sometimes", "often", "always"),
    ("very poor", "poor", "fair", "average", "good", "very good", "excellent"),
    ("very bad", "bad", "could be improved", "okay", "ok", "acceptable", "good", "great",
     "very good", "excellent"),
    ("terrible", "bad", "okay", "ok", "good", "great"),
    ("sad", "calm", "glad"),
    ("small", "medium", "large"),
    ("easy", "medium", "hard"),
    ("beginner", "intermediate", "advanced"),
    ("irrelevant", "partially relevant", "relevant", "highly relevant"),
    ("wrong", "partly correct", "partially correct", "correct"),
    ("no", "partly", "partially", "yes"),
    ("pants-fire", "false", "barely-true", "half-true", "mostly-true", "true"),
)  # fmt: skip
"""Labels that have an order, from lowest to highest."""

SCALES = ((0, 1), (-1, 1), (1, 4), (1, 5), (0, 5), (1, 7), (1, 10), (0, 10), (1, 100), (0, 100))
"""Ends of the scales on which people are asked to rate, the narrowest first."""


def rank(use: str, column: str) -> int | None:
    """How surely a column's name says its use: 0 is surest; None where it does not say it.

    `conversation_id` says group, as does `conversation`; `user_rating` says label.
    """
    parts = _parts(column)
    if use in ("text", "turns", "explanation") and "id" in parts:
        return None
    found = [place for place, name in enumerate(NAMES[use]) for part in parts
             if part in (name, f"{name}s")]  # fmt: skip
    return min(found, default=None)


def is_no_label(column: str) -> bool:
    """Whether a column's name speaks against its being the label."""
    if not set(NO_LABELS).isdisjoint(_parts(column)):
        return True
    return any(rank(use, column) is not None for use in ("id", "rater", "group", "source", "text"))


def _parts(column: str) -> list[str]:
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).casefold())


def stem(path: Path) -> str:
    """A file's name without the endings that say its format."""
    return re.sub(r"\.(csv|jsonl|parquet)(\.gz)?$", "", path.name)


def safe(name: str, otherwise: str) -> str:
    """A name that a recipe and a folder can carry, near to the one given."""
    kept = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._")
    kept = re.sub(r"-+", "-", kept)[:60].strip("-._")
    return f"{kept}-table" if kept in LOADERS else kept or otherwise
