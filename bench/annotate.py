"""Asking teachers: whytune against the `openai` client in a script and against Curator, on a
scripted server on loopback (annotate_server.py).

    python bench/annotate.py                              everything, into results/annotate.json
    python bench/annotate.py rate kill row speed memory   some of it, printed only

rate: 18,000 calls at 200 ms where 300 a second are permitted, 1 % of the connections are lost and
0.5 % of the replies malformed. kill: kill -9 at 20 random moments. row: one conversation more in a
finished job. speed: a server that answers at once. memory: a million calls, ours alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import machine
import table
from annotate_engines import CURATOR, OURS, PEERS, Engine, Served
from annotate_log import ON_ITS_WAY
from annotate_scenarios import SCENARIOS, Bench, Sizes
from annotate_work import CALLS
from machine import note

ENGINES = (OURS, *PEERS)
KEYS = {
    "share_of_permitted_rate": ("rate", "share of the permitted rate", "{:.1%}"),
    "share_429": ("rate", "share of refusals (429)", "{:.2%}"),
    "acknowledged_lost": ("kill", "acknowledged replies lost in 20 kills", "{:.0f}"),
    "reasked_after_kill": ("kill", "asked again after them, not in flight", "{:.0f}"),
    "reasked_after_new_row": ("row", "asked again for one row more", "{:.0f}"),
    "calls_per_s": ("speed", "calls a second at 0 ms", "{:.0f}"),
}
"""Key of the result -> scenario, title and form."""
BESIDE = {
    "share_of_permitted_rate_whole_run": (
        "rate",
        "share of the rate, first call to last",
        "{:.1%}",
    ),
    "peak_rss_mb": ("rate", "peak memory of 18,000 calls (MB)", "{:.0f}"),
    "asked_again": ("kill", "asked again after kills, in all", "{:.0f}"),
    "in_flight_at_kill": ("kill", "in flight at the kills, in all", "{:.0f}"),
}
"""Figures of `runs` that the table shows too."""
NOTES = (
    "share_of_permitted_rate: accepted / (permitted x seconds), between the moments at which a tenth "
    "and nine tenths of the calls were accepted",
    "acknowledged_lost: reported finished before a kill -9, and not kept; power failures are not "
    "tried, and only whytune waits for the disk",
    f"reasked_after_kill: asked again though the reply was kept, or had been sent {ON_ITS_WAY} s or "
    "more before the kill; what is younger counts as in flight",
    f"reasked_after_new_row: calls beyond the {CALLS} of one conversation that is added to ten",
)


def main() -> None:
    given = _arguments()
    sizes = Sizes(quick=given.quick, rate=given.rate, burst=given.burst or given.rate,
                  fractions=given.fractions, rows=given.rows)  # fmt: skip
    chosen = [engine for engine in ENGINES if engine.name in given.engines.split(",")]
    found: dict[str, dict[str, Any]] = {engine.name: {} for engine in chosen}
    with tempfile.TemporaryDirectory(prefix="annotate-") as folder, Served() as server:
        bench = Bench(server, Path(folder), sizes)
        for scenario in given.scenario or SCENARIOS:
            for engine in chosen:
                found[engine.name][scenario] = _measured(bench, engine, scenario)
    result = _result(found, quick=given.quick)
    if not given.scenario and chosen == list(ENGINES):
        machine.write("annotate", result, quick=given.quick)
    print(json.dumps(result)) if given.json else _show(result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="*", help=", ".join(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="small jobs; measures nothing")
    parser.add_argument("--json", action="store_true", help="print the result, not a table")
    parser.add_argument("--engines", default=",".join(engine.name for engine in ENGINES))
    parser.add_argument("--rate", type=float, default=Sizes.rate, help="permitted calls a second")
    parser.add_argument("--burst", type=float, help="that the server lets through at once; a "
                                                    "second's worth")  # fmt: skip
    parser.add_argument("--fractions", action="store_true", help="in Retry-After")
    parser.add_argument("--rows", type=int, default=Sizes.rows, help="of `memory`")
    given = parser.parse_args()
    known = {"scenario": list(SCENARIOS), "engine": [engine.name for engine in ENGINES]}
    for what, names in (("scenario", given.scenario), ("engine", given.engines.split(","))):
        if wrong := [name for name in names if name not in known[what]]:
            parser.error(f"no {what} {', '.join(wrong)}; there are {', '.join(known[what])}")
    return given


def _measured(bench: Bench, engine: Engine, scenario: str) -> dict[str, Any]:
    """An engine that fails at one scenario ends neither the others nor the benchmark."""
    if not engine.there:
        found: dict[str, Any] = {"error": f"no environment at {CURATOR}; its lock says how"}
    else:
        try:
            found = SCENARIOS[scenario](bench, engine)
        except RuntimeError as error:
            found = {"error": str(error)}
    shown = {key: value for key, value in found.items() if not isinstance(value, list | dict)}
    note(f"{scenario}, {engine.name}: {json.dumps(shown)}")
    return found


def _result(found: dict[str, dict[str, Any]], *, quick: bool) -> dict[str, Any]:
    keys = {name: _keys(scenarios) for name, scenarios in found.items()}
    ours = keys.pop(OURS.name, _keys({}))
    notes = {"all": list(NOTES)}
    notes |= {engine.name: [engine.note] for engine in ENGINES if engine.name in found}
    for name, scenarios in found.items():
        notes[name] += [f"{scenario}: {one['error']}" for scenario, one in scenarios.items()
                        if "error" in one]  # fmt: skip
    facts = machine.facts("annotate.py", sys.argv[1:])
    facts["versions"] |= {name: _version(name) for name in ("openai", "httpx2", "h11")}
    facts["versions"] |= {"bespokelabs-curator": _pinned("bespokelabs-curator")}
    return {
        "benchmark": "annotate", "quick": quick, **ours,
        "peers": keys, "notes": notes, "runs": found, **facts,
    }  # fmt: skip


def _keys(scenarios: dict[str, Any]) -> dict[str, Any]:
    return {key: _figure(scenarios, key) for key in KEYS}


def _figure(scenarios: dict[str, Any], key: str) -> Any:
    return scenarios.get({**KEYS, **BESIDE}[key][0], {}).get(key)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _pinned(name: str) -> str:
    """A version in Curator's environment."""
    lock = Path(__file__).with_name("requirements-curator.lock").read_text("utf-8")
    return next(line[len(name) + 2 :] for line in lock.splitlines() if line.startswith(f"{name}=="))


def _show(result: dict[str, Any]) -> None:
    rows = [("asking teachers", *result["runs"])]
    for key, (_, title, form) in {**KEYS, **BESIDE}.items():
        figures = [_figure(scenarios, key) for scenarios in result["runs"].values()]
        rows.append((title, *("-" if one is None else form.format(one) for one in figures)))
    table.print_table(rows)
    for name, notes in result["notes"].items():
        print("\n".join(f"{name}: {text}" for text in notes))


if __name__ == "__main__":
    main()
