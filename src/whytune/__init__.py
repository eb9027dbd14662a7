"""whytune: small judges that learned why, and the measurement of whether the why helped."""

from importlib.metadata import version

__version__ = version("whytune")
