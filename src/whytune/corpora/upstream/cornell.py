"""Cornell Movie-Dialogs (Danescu-Niculescu-Mizil and Lee 2011): what characters of films say.

Reads the four files of the release from their folder. Lines lie in one file, conversations (lists
of line ids) in another. Lines wait in a temporary database that SQLite keeps on the disk, so that
memory stays small however long the file is.
"""

import ast
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from whytune.corpora import files
from whytune.corpora.corpus import About, Item
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import cuts
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Task

NAME = "cornell"
ABOUT = About(
    title="Cornell Movie-Dialogs Corpus",
    format="four text files in ISO-8859-1, fields between ` +++$+++ `",
    size="83,097 conversations, 304,713 lines, 617 films",
    licence="none stated; the authors ask for citation; film dialogue, for research",
    get="https://www.cs.cornell.edu/~cristian/Cornell_Movie-Dialogs_Corpus.html",
    citation=(
        "Cristian Danescu-Niculescu-Mizil, Lillian Lee: Chameleons in imagined conversations: A "
        "new approach to understanding coordination of linguistic style in dialogs, Workshop on "
        "Cognitive Modeling and Computational Linguistics, ACL 2011"
    ),
)
_LINES = "movie_lines.txt"
_CONVERSATIONS = "movie_conversations.txt"
_TITLES = "movie_titles_metadata.txt"
_CHARACTERS = "movie_characters_metadata.txt"
_EXPECTED = f"the folder with {_LINES}, {_CONVERSATIONS}, {_TITLES} and {_CHARACTERS}"
_SEPARATOR = " +++$+++ "
_TAG = re.compile(r"</?[a-zA-Z]+>")
_TAGS = "lines of film dialogue had tags (<u>, <i>), which were removed"


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every conversation, roles being the characters' names; no replies.

    Anybody's turn can be judged, from the second on. The source is the film's title, the group the
    film: its characters and its story run through all its conversations. In the ledger a row is a
    conversation; a row of another file counts only where it could not be read.

    Raises:
        CorpusError: one of the four files is not there, or holds nothing readable; a part,
            languages.
    """
    cuts.part(name, spec, ABOUT)
    cuts.refuse_languages(name, spec, ABOUT)
    folder = _folder(path)
    titles = _named(folder / _TITLES, ledger)
    characters = _named(folder / _CHARACTERS, ledger)
    file = folder / _CONVERSATIONS
    # A database without a name is a file of SQLite's own, gone when closed.
    with closing(sqlite3.connect("")) as lines, cuts.readable(file, ledger, _EXPECTED):
        _fill(lines, folder / _LINES, ledger)
        for number, row in files.lines(file, ledger, encoding="latin-1"):
            ledger.rows += 1
            try:
                film, ids = _conversation(row)
                said = [_said(lines, line, characters) for line in ids]
            except ValueError as error:
                ledger.quarantine(file.name, number, str(error), row)
                continue
            conversation = cuts.Conversation(
                source=titles.get(film, film), group=film, said=said, line=number
            )
            yield from cuts.examples(NAME, conversation, spec, ledger, role=None)


def _folder(path: Path) -> Path:
    for file in (_LINES, _CONVERSATIONS, _TITLES, _CHARACTERS):
        if not (path / file).is_file():
            raise CorpusError(f"{path}: found no {file}; expected {_EXPECTED}; set `path` to it")
    return path


def _fields(row: str, count: int) -> list[str]:
    # The last field may hold the separator, or nothing: the row is not to be stripped before.
    fields = row.split(_SEPARATOR, count - 1)
    if len(fields) != count:
        raise ValueError(f"found {len(fields)} fields, expected {count} between `{_SEPARATOR}`")
    return fields


def _rows(path: Path, count: int, ledger: Ledger) -> Iterator[list[str]]:
    """The fields of each row that could be read."""
    # Film titles are ISO-8859-1, in which every byte is a character.
    for number, row in files.lines(path, ledger, encoding="latin-1"):
        try:
            yield _fields(row, count)
        except ValueError as error:
            ledger.rows += 1
            ledger.quarantine(path.name, number, str(error), row)


def _named(path: Path, ledger: Ledger) -> dict[str, str]:
    """Id -> name, of the films or of the characters."""
    named = {fields[0]: fields[1].strip() for fields in _rows(path, 6, ledger)}
    if not named:
        raise CorpusError(f"{path}: found no readable row; expected {_EXPECTED}; fetch it again")
    return named


def _fill(lines: sqlite3.Connection, path: Path, ledger: Ledger) -> None:
    """Who says what, by line id."""
    lines.execute("CREATE TABLE line (id TEXT PRIMARY KEY, who TEXT, name TEXT, text TEXT)")
    rows = (
        (line, who, name.strip(), _plain(text, ledger))
        for line, who, _, name, text in _rows(path, 5, ledger)
    )
    if lines.executemany("INSERT OR REPLACE INTO line VALUES (?, ?, ?, ?)", rows).rowcount < 1:
        raise CorpusError(f"{path}: found no readable line; expected {_EXPECTED}; fetch it again")


def _plain(text: str, ledger: Ledger) -> str:
    """A line without tags, with single spaces."""
    plain = _TAG.sub("", text)
    if plain != text:
        ledger.counts[_TAGS] += 1
    return re.sub(" {2,}", " ", plain).strip()


def _conversation(row: str) -> tuple[str, list[str]]:
    """The film's id and the ids of the lines, in their order."""
    _, _, film, listed = _fields(row, 4)
    try:
        ids = ast.literal_eval(listed.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        ids = None
    if not isinstance(ids, list) or not ids or not all(isinstance(line, str) for line in ids):
        raise ValueError(f"found {listed[:40]!r}, expected a list of line ids, as ['L194', 'L195']")
    return film, ids


def _said(lines: sqlite3.Connection, line: str, characters: Mapping[str, str]) -> tuple[str, str]:
    found = lines.execute("SELECT who, name, text FROM line WHERE id = ?", (line,)).fetchone()
    if found is None:
        raise ValueError(f"line {line} is not in {_LINES}, expected all lines; fetch it again")
    who, name, text = found
    return characters.get(who) or name or who, text
