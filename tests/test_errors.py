import re

import pytest

from whytune import errors


def drawn() -> dict[str, str]:
    """Class -> its parent, as the tree in the module's docstring draws them."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for indent, name in re.findall(r"^( *)[*+] (\w+)", errors.__doc__ or "", re.MULTILINE):
        above = [(depth, parent) for depth, parent in above if depth < len(indent)]
        parents[name] = above[-1][1] if above else "Exception"
        above.append((len(indent), name))
    return parents


def defined(root: type[Exception]) -> dict[str, str]:
    found = {root.__name__: root.__bases__[0].__name__}
    for child in root.__subclasses__():
        found |= defined(child)
    return found


def test_the_drawn_tree_is_the_tree() -> None:
    assert drawn() == defined(errors.WhytuneError)


@pytest.mark.parametrize("name", list(drawn()))
def test_wrong_input_exits_2_and_failed_work_1(name: str) -> None:
    error = getattr(errors, name)
    assert error.exit_code == (2 if issubclass(error, errors.InputError) else 1)
