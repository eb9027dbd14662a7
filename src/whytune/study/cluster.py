"""A recipe's teachers asked by all nodes of a Ray cluster.

The work is cut into shards (`study.shards`). Ray Data hands them to actors, one on each node, and
gives a shard whose node died to another; what its journal holds is not asked again. Each shard's
journal is joined into the recipe's as soon as the shard is done, every attempt once.

All nodes must have whytune and the teachers' keys in their environment, and must see the folder of
the journal under the same path, on a file system with locks that hold between nodes; each journal
is open on one node at a time. Servers get no more than before: what a recipe says of concurrency
and limits is divided by the number of actors, and so is the budget, by shards.

A cluster's GPUs serve best behind an address: start `vllm serve MODEL` on each node that has one,
list them all as the teacher's `url`, and every actor shares them. A `local` teacher is loaded once
by each actor, which then takes a GPU where the cluster has any.
"""

import json
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from whytune import asking, errors
from whytune.asking import Asked, Resume
from whytune.errors import RecipeError, WhytuneError, WorkError
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.recipe_teachers import TeacherSpec
from whytune.study import ray_connection
from whytune.study.shards import Asker, Shard, Told, count, cut
from whytune.teaching import ensemble, journal_join
from whytune.teaching.annotate import Account, concurrency
from whytune.teaching.journal_writer import JournalWriter
from whytune.teaching.questions import Divisible
from whytune.teaching.requests import Spent

_NOTHING = Spent(attempts=0, tokens_in=0, tokens_out=0, cost=0.0, unpriced=0)


def ask(
    recipe: Recipe, show: Progress, *, on: str, limit: int | None = None,
    budget: float | None = None, resume: Resume = "auto",
) -> list[Asked]:  # fmt: skip
    """As `asking.ask`, on a Ray cluster.

    Args:
        recipe: as there; functions (`api: python`) cannot be asked from other processes.
        show: how many shards are done.
        on: which cluster, as `ray_connection.check` says; Ray Data does not work through Ray
            Client.
        limit: as there.
        budget: as there.
        resume: as there.

    Returns:
        One for each teacher and stage.

    Raises:
        MissingExtraError: ray is not installed.
        RecipeError, TeachingError, WorkError: as there, or Ray cannot be reached or fails. What
            was asked is in the shards' journals, and the next call begins by joining them.
    """
    path = asking.check(recipe, budget, resume)
    ray_connection.check(on)
    _check(recipe)
    with ray_connection.connected(on) as ray, JournalWriter(path.absolute()) as journal:
        journal_join.gather(journal, patience=asking.PATIENCE)
        corpora = asking.abouts(recipe, limit)
        actors, gpus = crew(recipe, ray.nodes())
        work = _Work(ray=ray, recipe=share(recipe, actors), journal=journal, show=show,
                     actors=actors, gpus=gpus, budget=budget,
                     parts=count(sum(len(about.examples) for about in corpora), actors))  # fmt: skip
        found = work.stage("asking", [ensemble.voters(recipe, about) for about in corpora])
        if any(one.account.stopped for one in found):
            return found
        then = [own for about in corpora for own in asking.reasoning(recipe, about, journal)]
        return found + work.stage("explaining", then)


def _check(recipe: Recipe) -> None:
    functions = [name for name, spec in recipe.teachers.items() if spec.api == "python"]
    if functions:
        raise RecipeError(
            f"teachers.{functions[0]}: a function answers for it, which other processes cannot "
            "call; ask it without --on, or put it behind an address"
        )


def crew(recipe: Recipe, nodes: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    """How many actors a cluster gets, and how many GPUs each takes.

    One for each node with a processor, or, for a `local` teacher where there are GPUs, for each
    GPU; never more than the smallest number of requests that an address takes at a time.

    Args:
        recipe: says who is asked.
        nodes: as `ray.nodes` tells of them.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    most = [concurrency(spec) for spec in recipe.teachers.values() if spec.remote]
    gpus = sum(int(resources.get("GPU", 0)) for resources in alive)
    takes = gpus > 0 and any(spec.api == "local" for spec in recipe.teachers.values())
    places = gpus if takes else sum(resources.get("CPU", 0) > 0 for resources in alive)
    return max(1, min([places, *most])), float(takes)


def share(recipe: Recipe, actors: int) -> Recipe:
    """The recipe as each of so many actors follows it: together they keep to its limits."""
    teachers = {name: _share(spec, actors) for name, spec in recipe.teachers.items()}
    return recipe.model_copy(update={"teachers": teachers})


def _share(spec: TeacherSpec, actors: int) -> TeacherSpec:
    if not spec.remote:
        return spec
    limits = ("requests_per_minute", "tokens_per_minute")
    known = {name: value / actors for name in limits if (value := getattr(spec, name)) is not None}
    return spec.model_copy(update={**known, "concurrency": max(1, concurrency(spec) // actors)})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """All that the stages have in common."""

    ray: Any
    recipe: Recipe
    """Each actor's."""
    journal: JournalWriter
    show: Progress
    actors: int
    gpus: float
    budget: float | None
    parts: int

    def stage(self, title: str, asked: Sequence[Mapping[str, Divisible]]) -> list[Asked]:
        """Ask what is open, and join what came of it."""
        wanted = asking.by_teacher(asked)
        before = self.journal.spent()
        given_up: dict[str, list[str]] = defaultdict(list)
        stopped: set[str] = set()
        # What shards left of their shares of the budget may be enough for some more in one.
        for parts in (self.parts, 1):
            told = list(self._round(title, wanted, parts))
            stopped = {name for one in told for name in one.stopped}
            for one in told:
                for name, reasons in one.given_up.items():
                    given_up[name] += (r for r in reasons if r not in given_up[name])
            if not stopped:
                break
        after = self.journal.spent()
        found = []
        for name, questions in wanted.items():
            old, new = before.get(name, _NOTHING), after.get(name, _NOTHING)
            account = Account(
                sends=new.attempts - old.attempts, tokens_in=new.tokens_in - old.tokens_in,
                tokens_out=new.tokens_out - old.tokens_out, cost=new.cost - old.cost,
                stopped=name in stopped, given_up=given_up[name],
            )  # fmt: skip
            spec = self.recipe.teachers[name]
            found.append(asking.came_of(name, spec, questions, self.journal, account))
        return found

    def _round(self, title: str, asked: Mapping[str, Divisible], parts: int) -> Iterator[Told]:
        shards = cut(asked, self.recipe, self.journal, parts=parts, budget=self.budget)
        if not shards:
            return
        work = self.show.work(f"{title} on Ray", len(shards))
        with work as advance, closing(self._told(shards)) as rows:
            for number, told in rows:
                journal_join.absorb(shards[number].journal, self.journal, patience=asking.PATIENCE)
                advance(1, f"shards, {self.actors} at a time")
                yield told
        journal_join.gather(self.journal, patience=0)  # removes the empty folder

    def _told(self, shards: Sequence[Shard]) -> Generator[tuple[int, Told]]:
        """Shards as they are done, by their place."""
        data = self.ray.data
        strategy = data.ActorPoolStrategy(size=min(self.actors, len(shards)),
                                          max_tasks_in_flight_per_actor=1)  # fmt: skip
        # One block a shard: Ray gives an actor a block at a time, and gives it to another where
        # the actor died.
        places = data.from_items(list(range(len(shards))), override_num_blocks=len(shards))
        # It waits for servers nearly all the time. Asking for a processor, it would have to wait,
        # after a node's death, until there is another. Ray Data puts actors on different nodes, and
        # begins those anew that die, with what they were at.
        rows = places.map_batches(
            _Actor, batch_size=1, compute=strategy, num_cpus=0, num_gpus=self.gpus,
            fn_constructor_args=(self.recipe, [self.ray.put(shard) for shard in shards]),
        )  # fmt: skip
        try:
            for row in rows.iter_rows():
                found = json.loads(row["told"])
                if "fault" in found:
                    raise getattr(errors, found["fault"])(found["message"])
                yield row["shard"], Told(**found)
        except self.ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise WorkError(
                f"Ray: {type(error).__name__} ({last[:300]}); expected all shards to end; run the "
                "same again: it goes on where they stopped"
            ) from error


class _Actor:
    """What Ray Data calls on a node.

    Args:
        recipe: its share.
        shards: all of them, as Ray's references.
    """

    def __init__(self, recipe: Recipe, shards: Sequence[Any]) -> None:
        self._asker, self._shards = Asker(recipe), shards

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """One shard, by its place; what is wrong with recipe or servers is told, not raised."""
        import ray

        place = int(batch["item"][0])
        try:
            told = asdict(self._asker.ask(ray.get(self._shards[place])))
        except WhytuneError as error:
            told = {"fault": type(error).__name__, "message": str(error)}
        return {"shard": [place], "told": [json.dumps(told)]}
