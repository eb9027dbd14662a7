"""Cornell Movie-Dialogs (Danescu-Niculescu-Mizil and Lee 2011): what characters of films say.

Reads the four files of the release from their folder. Lines lie in one file, conversations (lists
of line ids) in another. Lines wait in a temporary database that SQLite keeps on the disk, so that
memory stays small however long the file is.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from whytune.corpora.corpus import About, Item
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, cuts, fields, reading, release
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
_FILES = (_LINES, _CONVERSATIONS, _TITLES, _CHARACTERS)
_LATIN = "latin-1"  # film titles are ISO-8859-1, in which every byte is a character
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
    asked.check(name, ABOUT, tasks, spec)
    said_in, conversations, films, people = release.together(path, _FILES, ABOUT.title)
    titles, characters = _named(films, ledger), _named(people, ledger)
    # A database without a name is a file of SQLite's own, gone when closed.
    with closing(sqlite3.connect("")) as lines:
        _fill(lines, said_in, ledger)

        def items(row: str) -> Iterator[Item]:
            film, ids = _conversation(row)
            said = [_said(lines, line, characters) for line in ids]
            conversation = cuts.Conversation(source=titles.get(film, film), group=film, said=said)
            return cuts.examples(NAME, conversation, spec, ledger, role=None)

        with reading.readable(conversations, ledger, ABOUT):
            rows = reading.text_rows(conversations, ledger, _LATIN)
            yield from reading.items(rows, items, ledger)


def _cells(row: str, count: int) -> list[str]:
    # The last cell may hold the separator, or nothing: the row is not to be stripped before.
    cells = row.split(_SEPARATOR, count - 1)
    if len(cells) != count:
        raise ValueError(f"found {len(cells)} fields, expected {count} between `{_SEPARATOR}`")
    return cells


def _rows(file: release.File, count: int, ledger: Ledger) -> Iterator[list[str]]:
    """The fields of each row that could be read."""
    good = 0
    with reading.readable(file, ledger, ABOUT):
        rows = reading.text_rows(file, ledger, _LATIN)
        for row in reading.parsed(rows, partial(_cells, count=count), ledger):
            good += 1
            yield row.value
    ledger.rows -= good  # a row of the ledger is a conversation


def _named(file: release.File, ledger: Ledger) -> dict[str, str]:
    """Id -> name, of the films or of the characters."""
    return {cells[0]: cells[1].strip() for cells in _rows(file, 6, ledger)}


def _fill(lines: sqlite3.Connection, file: release.File, ledger: Ledger) -> None:
    """Who says what, by line id."""
    lines.execute("CREATE TABLE line (id TEXT PRIMARY KEY, who TEXT, name TEXT, text TEXT)")
    rows = (
        (line, who, name.strip(), _plain(text, ledger))
        for line, who, _, name, text in _rows(file, 5, ledger)
    )
    lines.executemany("INSERT OR REPLACE INTO line VALUES (?, ?, ?, ?)", rows)


def _plain(text: str, ledger: Ledger) -> str:
    """A line without tags, with single spaces."""
    plain = _TAG.sub("", text)
    if plain != text:
        ledger.counts[_TAGS] += 1
    return re.sub(" {2,}", " ", plain).strip()


def _conversation(row: str) -> tuple[str, list[str]]:
    """The film's id and the ids of the lines, in their order."""
    _, _, film, listed = _cells(row, 4)
    ids = fields.texts(listed, "line ids, as ['L194', 'L195']")
    if not ids:
        raise ValueError("found no line id, expected a list of line ids")
    return film, ids


def _said(lines: sqlite3.Connection, line: str, characters: Mapping[str, str]) -> tuple[str, str]:
    found = lines.execute("SELECT who, name, text FROM line WHERE id = ?", (line,)).fetchone()
    if found is None:
        raise ValueError(f"line {line} is not in {_LINES}, expected all lines; fetch it again")
    who, name, text = found
    return characters.get(who) or name or who, text
