"""What whytune raises on purpose, as one tree.

* WhytuneError
  * InputError            what was handed in is wrong (exit code 2)
    + RecipeError         a recipe that cannot be run as written
    + CorpusError         files that are not there, not whole, or not what the loader reads
    + TeachingError       annotations that cannot become lessons
    + EncodingError       a lesson or a label set that cannot be supervised exactly
    + ModelError          a base model or adapter that cannot be had or used
    + FolderError         a run or study folder that is missing, foreign, or of another recipe
    + MissingExtraError   an optional part of whytune is not installed
    + ClassifierInputError  texts or labels that a classifier cannot take; a ValueError, too
  * WorkError             the input was right, the work failed (exit code 1)
    + TrainingError       training left the finite numbers
    + EvidenceError       figures that are not defined on what was measured

Every message names the place, what was found, what was expected, and the way out.
A message of several lines holds one fault a line.
"""


class WhytuneError(Exception):
    """Anything whytune raises on purpose; the command line prints it without a traceback."""

    exit_code = 1


class InputError(WhytuneError):
    """What was handed in is wrong."""

    exit_code = 2


class ClassifierInputError(InputError, ValueError):
    """What was handed to a classifier is wrong; also the ValueError that scikit-learn expects."""


class RecipeError(InputError):
    """A recipe that cannot be run as written; lists all faults at once."""


class CorpusError(InputError):
    """Files that are not there, not whole, or not what the loader reads."""


class TeachingError(InputError):
    """Annotations that cannot become lessons."""


class EncodingError(InputError):
    """A lesson or a label set that cannot be supervised exactly."""


class ModelError(InputError):
    """A base model or adapter that cannot be had or used."""


class FolderError(InputError):
    """A run or study folder that is missing, foreign, or of another recipe."""


class MissingExtraError(InputError):
    """An optional part of whytune is not installed."""


class WorkError(WhytuneError):
    """The input was right, the work failed."""


class TrainingError(WorkError):
    """Training left the finite numbers."""


class EvidenceError(WorkError):
    """Figures that are not defined on what was measured."""
