"""whytune: small judges that learned why, and the measurement of whether the why helped."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whytune.judge import Judge, load

__all__ = ["Judge", "__version__", "load"]
__version__ = version("whytune")


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that `import whytune` costs nothing.
    if name in ("Judge", "load"):
        from whytune import judge

        return getattr(judge, name)
    raise AttributeError(f"module 'whytune' has no attribute {name!r}")
