"""The tasks that whytune brings along.

The three dimensions of conversation quality follow the definitions of Regularization Through
Reasoning (arXiv 2511.02044, section 2.2) in our words; usefulness is FeedbackQA's rating. The
others are what the labelled corpora in `corpora/upstream` answer, with upstream's own labels.
"""

from whytune.records import Kind, Label, Task


def _five_points(name: str, question: str, lowest: str, highest: str) -> Task:
    definitions = {"1": lowest, "5": highest}
    labels = tuple(Label(name=str(i), definition=definitions.get(str(i), "")) for i in range(1, 6))
    return Task(name=name, kind=Kind.ORDINAL, question=question, labels=labels)


def _nominal(name: str, question: str, *labels: str) -> Task:
    return Task(
        name=name,
        kind=Kind.NOMINAL,
        question=question,
        labels=tuple(Label(name=label) for label in labels),
    )


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
        _nominal(  # in the order of the Hub's ids
            "emotion",
            "Which emotion does the text express?",
            *("sadness", "joy", "love", "anger", "fear", "surprise"),
        ),
        _nominal(  # in the order of upstream's ids
            "goemotions",
            "Which emotion does the comment express most?",
            *("admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion"),
            *("curiosity", "desire", "disappointment", "disapproval", "disgust", "embarrassment"),
            *("excitement", "fear", "gratitude", "grief", "joy", "love", "nervousness", "optimism"),
            *("pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral"),
        ),
        _nominal(
            "entailment",
            "Does the hypothesis follow from the premise?",
            *("entailment", "neutral", "contradiction"),
        ),
        _nominal("yes_no", "What is the right answer?", "yes", "no"),
        _nominal(
            "against_common_sense",
            "Which of the two sentences goes against common sense?",
            *("Sentence A", "Sentence B"),
        ),
        Task(
            name="truthfulness",
            kind=Kind.ORDINAL,
            question="How true is the statement?",
            labels=tuple(
                Label(name=name)
                for name in (
                    *("pants-fire", "false", "barely-true"),
                    *("half-true", "mostly-true", "true"),
                )
            ),
        ),
        _five_points(
            "helpfulness",
            "How well does the last reply address what was asked?",
            "does not help at all",
            "addresses it fully",
        ),
        _five_points(
            "clarity",
            "How clear and well organised is the last reply?",
            "hard to understand",
            "perfectly clear",
        ),
        _five_points(
            "factuality",
            "How accurate is what the last reply says?",
            "false or misleading",
            "no error",
        ),
        _five_points(
            "depth",
            "How thoroughly does the last reply treat what was asked?",
            "shallow",
            "thorough and detailed",
        ),
        _five_points(
            "engagement",
            "How engaging is the last reply: human in tone, pleasant to read?",
            "dull",
            "fully engaging",
        ),
        _five_points(
            "answer_quality",
            "How good is the last answer to the question?",
            "wrong or useless",
            "right and complete",
        ),
    )
}

SAMPLES: dict[str, dict[str, str]] = {
    "naturalness": {
        "1": (
            "Asked whether the library is open on Sunday: “Query received. Sunday status: open. "
            "Interval: 10:00 to 16:00. Is there anything else I can assist you with today?”"
        ),
        "3": (
            "Asked whether the library is open on Sunday: “The library is open on Sunday. The "
            "opening hours on Sunday are from ten to four. I hope this information is helpful.”"
        ),
        "5": (
            "Asked whether the library is open on Sunday: “Yes, ten to four. Come before noon if "
            "you want a desk by the window!”"
        ),
    },
    "comprehensiveness": {
        "1": "Asked how to repot a cactus, and how often to water it then: “Cacti are lovely.”",
        "3": (
            "Asked how to repot a cactus, and how often to water it then: “Ease it out with thick "
            "gloves, shake off the old soil and set it in gritty compost.”"
        ),
        "5": (
            "Asked how to repot a cactus, and how often to water it then: “Ease it out with thick "
            "gloves, shake off the old soil and set it in gritty compost, in a pot one size up. "
            "Keep it dry for a week so that the roots heal; then water every two or three weeks, "
            "hardly at all in winter.”"
        ),
    },
    "on_topic": {
        "1": "Asked which bus goes to the station: “Trains were invented in the 19th century.”",
        "3": (
            "Asked which bus goes to the station: “The 12 does. The station was rebuilt in 1998, "
            "by the way; its roof won a prize, and the café upstairs is well worth a visit.”"
        ),
        "5": "Asked which bus goes to the station: “The 12, every ten minutes from this stop.”",
    },
}
"""Task -> label -> a short text that deserves it, for prompts with examples. Licence: CC0-1.0."""
