"""Arguments and options of the command line: their names, types and help."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Resume(StrEnum):
    """Whether work may go on where it stopped."""

    AUTO = "auto"
    NEVER = "never"
    REQUIRE = "require"


class Norm(StrEnum):
    """Through what the lens reads a block."""

    FINAL = "final"
    NONE = "none"


RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")]
Judge = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A finished run, an adapter's folder, or its Hub id."),
]
Study = Annotated[Path, typer.Argument(metavar="DIR", help="A study folder.")]
RunsOrStudies = Annotated[
    list[Path],
    typer.Argument(metavar="RUN_OR_STUDY", help="Folders of finished runs and studies."),
]
Data = Annotated[Path, typer.Argument(metavar="FILE", help="CSV, JSON Lines or Parquet.")]

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a knob; repeatable.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of the output.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder to write to (default: studies/NAME).")
]
OutAlso = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Write compare.md and its tables there."),
]
DemoOut = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
Quick = Annotated[bool, typer.Option("--quick", help="A slice of it, in under three minutes.")]
OneArm = Annotated[str | None, typer.Option(help="The arm to teach (default: the first).")]
OnCorpus = Annotated[str, typer.Option("--on", metavar="CORPUS", help="A corpus of its recipe.")]
Page = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Write a page, its tables and unreadable rows there."),
]
Proposed = Annotated[
    Path | None, typer.Option(help="The recipe to write (default: beside the table).")
]
Model = Annotated[str, typer.Option(help="Base model of the recipe.")]
Force = Annotated[bool, typer.Option("--force", help="Write over a recipe.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show a prompt, calls, tokens and cost; send nothing.")
]
DryStudy = Annotated[
    bool,
    typer.Option("--dry-run", help="Show cells, tokens, hours and memory; run nothing."),
]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="The first N examples of each corpus.")
]
LimitTaught = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="The first N training examples of each corpus."),
]
Budget = Annotated[
    float | None,
    typer.Option(min=0, metavar="USD", help="What the whole journal may cost, in US dollars."),
]
Resuming = Annotated[
    Resume, typer.Option(help="Whether the journal may, must not, or must be there already.")
]
OnCluster = Annotated[
    str | None,
    typer.Option("--on", metavar="ray[://ADDRESS]", help="Ask from all nodes of a Ray cluster."),
]
OnNodes = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="ray[://ADDRESS]",
        help="Teach on all nodes of a Ray cluster (experimental).",
    ),
]
Examples = Annotated[
    bool, typer.Option(help="Show test examples; leave them out to publish the page.")
]
Base = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whom the others are compared with (default: the first)."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="NAME", help="A figure to compare; repeatable."),
]
Analyzed = Annotated[
    list[Path],
    typer.Argument(metavar="RUN [RUN]", help="A study, one or two runs, or PEFT folders."),
]
AskedBy = Annotated[
    Path | None,
    typer.Option("--recipe", help="What adapters that were trained elsewhere are asked."),
]
ReadOn = Annotated[int | None, typer.Option(min=1, metavar="N", help="The first N test examples.")]
ReadExplanation = Annotated[
    bool, typer.Option("--explanation", help="Every token of the explanations, too.")
]
ReadAlong = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="N examples at every adapter kept while training."),
]
ReadNorm = Annotated[Norm | None, typer.Option(help="none: without the final norm, as Ecco reads.")]
WeightsOnly = Annotated[
    bool, typer.Option("--weights-only", help="Ask nothing; no model is loaded.")
]
InsideOut = Annotated[
    Path | None,
    typer.Option("--out", help="Folder to write to (default: the study, or inside/NAME)."),
]
Judged = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="File to write (default: NAME.judged.SUFFIX)."),
]
TextColumn = Annotated[
    str | None, typer.Option("--text", metavar="COLUMN", help="Column of texts (default: text).")
]
MessagesColumn = Annotated[
    str | None,
    typer.Option("--messages", metavar="COLUMN", help="Column of conversations, as chat messages."),
]
AskedTasks = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="NAME", help="A task to answer; repeatable (default: all)."),
]
Explain = Annotated[bool, typer.Option("--explain", help="Say why, too; takes much longer.")]
AbstainBelow = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="P", help="No label where its probability is below P."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Conversations in one forward pass.")]
BaseModel = Annotated[
    str | None, typer.Option("--base", metavar="MODEL", help="Where the base model lies now.")
]
Draws = Annotated[int, typer.Option(min=100, help="For intervals and permutation tests.")]
