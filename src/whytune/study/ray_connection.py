"""The Ray cluster that `--on` names: reached, or begun on this machine."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from whytune.errors import InputError, MissingExtraError, WorkError

_REACHED = 10.0
"""Seconds until a cluster's head must answer."""


def check(on: str) -> None:
    """Make sure, before anything is begun, that `on` can name a cluster and Ray is installed.

    Args:
        on: `ray`: the cluster that runs on this machine, or else one of its own until the end;
            `ray://HOST:PORT`: the cluster whose head is there (as `ray start` says, most often
            port 6379), of which this machine must be a node.

    Raises:
        InputError: neither of the two.
        MissingExtraError: ray is not installed.
    """
    if not re.fullmatch(r"ray(://[^/:]+:\d{1,5})?", on):
        raise InputError(f"--on {on}: expected ray, or ray://HOST:PORT; correct it")
    _imported(on)


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """Ray, connected; where it was not before, until the block ends.

    Where a cluster asks for a token, Ray wants RAY_AUTH_MODE=token in the environment. Where the
    process is connected to a cluster already, it stays with that one.

    Raises:
        MissingExtraError: ray is not installed.
        WorkError: the cluster cannot be reached.
    """
    ray = _imported(on)
    own = not ray.is_initialized()
    if own:
        _connect(ray, on)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()


def _imported(on: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What matters is raised; the rest is in Ray's own log files.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is not installed; --on {on} needs it: pip install 'whytune[cluster]'"
        ) from None
    return ray


def _connect(ray: Any, on: str) -> None:
    address = on.removeprefix("ray").removeprefix("://") or None
    try:
        if address is not None:
            # Ray itself would try for minutes.
            host, port = address.split(":")
            socket.create_connection((host, int(port)), timeout=_REACHED).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise WorkError(
            f"--on {on}: Ray cannot be reached ({error}); expected a running cluster with this "
            "machine as a node, or room to start one; see that it is there, and run again"
        ) from error
