"""The words a student reads: the conversation, then the question. Without torch."""

from collections.abc import Sequence

from whytune.records import Kind, Task, Turn


def conversation_text(turns: Sequence[Turn], context_turns: int | None) -> str:
    """The judged turn after its context, a speaker before each turn; a single text stays bare."""
    if len(turns) == 1 and turns[0].role == "text":
        return turns[0].text
    shown = turns if context_turns is None else turns[-(context_turns + 1) :]
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.text}" for turn in shown)


def question_text(task: Task) -> str:
    """The question with its labels and what they mean."""
    labels = ", ".join(
        f"{label.name} ({label.definition})" if label.definition else label.name
        for label in task.labels
    )
    order = " (lowest to highest)" if task.kind is Kind.ORDINAL else ""
    return f"{task.question}\nAnswer with a label{order}: {labels}."
