"""The tasks that whytune brings along.

The three dimensions of conversation quality follow the definitions of Regularization Through
Reasoning (arXiv 2511.02044, section 2.2) in our words; usefulness is FeedbackQA's rating.
"""

from whytune.records import Kind, Label, Task


def _five_points(name: str, question: str, lowest: str, highest: str) -> Task:
    definitions = {"1": lowest, "5": highest}
    labels = tuple(Label(name=str(i), definition=definitions.get(str(i), "")) for i in range(1, 6))
    return Task(name=name, kind=Kind.ORDINAL, question=question, labels=labels)


BUILT_IN: dict[str, Task] = {
    task.name: task
    for task in (
        _five_points(
            "naturalness",
            "How natural does the last reply sound: human, fitting the tone, not scripted?",
            "robotic",
            "fully natural",
        ),
        _five_points(
            "comprehensiveness",
            "How completely does the last reply cover what was asked?",
            "covers nothing",
            "covers everything",
        ),
        _five_points(
            "on_topic",
            "How closely does the last reply keep to what was asked?",
            "off topic",
            "fully on topic",
        ),
        Task(
            name="usefulness",
            kind=Kind.ORDINAL,
            question="How well does the passage answer the question?",
            labels=tuple(
                Label(name=name) for name in ("Bad", "Could be Improved", "Acceptable", "Excellent")
            ),
        ),
    )
}
