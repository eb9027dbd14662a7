"""The knobs of who is asked: teachers, what they cost, and how fast they may be asked."""

import json
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from whytune.settings import Count, Either, Positive, Settings, refuse


def _variable(name: str) -> str:
    # Told without the value: where the key itself was written, it must be seen nowhere.
    looks_like_a_key = "_" not in name and re.search(r"\d", name)
    if looks_like_a_key or not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise ValueError("found no name of an environment variable (capitals, digits and _); write "
                         "the variable's name, never the key itself")  # fmt: skip
    return name


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound or re.search(r"\s", url):
        raise ValueError(
            f"found {url!r:.80}, expected an address that begins with http:// or https://"
        )
    if parts.username is not None or parts.password is not None:
        # Told without the value: it would show the password.
        raise ValueError("found a name or password in the address; put the key into an environment "
                         "variable and name that under `key`")  # fmt: skip
    if parts.query or parts.fragment:
        raise ValueError(f"found {url!r:.80}, expected an address without ? and #")
    bare = url.rstrip("/")
    for path in ("/chat/completions", "/messages"):
        if bare.endswith(path):
            raise ValueError(f"found {url!r:.80}, expected it up to the version; drop {path}")
    return bare


def _sendable(parameters: dict[str, Any]) -> dict[str, Any]:
    secret = sorted(name for name in parameters if name.lower() in SECRET_PARAMETERS)
    if secret:
        raise ValueError(f"found {', '.join(secret)}; keys come from the environment alone: name "
                         "the variable under `key`")  # fmt: skip
    try:
        json.dumps(parameters, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("found what is not JSON; expected finite numbers, texts, lists and "
                         "mappings") from None  # fmt: skip
    return parameters


def _once(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError(f"found {', '.join(names)}; a prompt stands twice")
    return names


SECRET_PARAMETERS = frozenset(
    {"api_key", "api-key", "x-api-key", "authorization", "headers", "extra_headers"}
)
"""Parameters that may hold a key, in lower case."""
Address = Annotated[str, AfterValidator(_address)]
Prompts = Literal[
    "scale-1-4", "scale-1-4-examples", "scale-1-5", "scale-1-5-examples", "labels",
    "labels-examples", "justify",
]  # fmt: skip
Rate = Annotated[float, Field(gt=0)]
Dollars = Annotated[float, Field(ge=0)]


class Price(Settings):
    """US dollars for a million tokens."""

    input: Dollars
    """Tokens that are read."""
    output: Dollars
    """Tokens that are written."""
    cached: Dollars | None = None
    """Tokens that the server had read before; without it, as `input`."""


class TeacherSpec(Settings):
    """One teacher: a model that is asked, or replies that are there."""

    api: Literal["openai", "anthropic", "local", "recorded", "python"] = "openai"
    """`openai`: chat completions, as vLLM, SGLang, Ollama, llama.cpp, Bedrock and most hosted
    models speak it; `anthropic`: Anthropic's messages; `local`: a transformers model in this
    process; `recorded`: replies in a file, or those that came with the corpus; `python`: a
    function, handed in from Python."""
    model: str | None = None
    """The model, as the server names it; of `local`, as the recipe's `model`. Without it, the
    teacher's own name."""
    url: Either[Address, list[Address]] = []
    """Address of the server up to the version, as `http://127.0.0.1:8000/v1`. Several servers of
    the same model share the work."""
    key: Annotated[str, AfterValidator(_variable)] | None = None
    """Name of the environment variable that holds the server's key; keys are read from nowhere
    else."""
    structured: bool = True
    """Ask the server to keep to the answer's JSON schema; off for servers that do not know how."""
    parameters: Annotated[dict[str, Any], AfterValidator(_sendable)] = {}
    """Sent as they are, as `temperature` and `max_tokens`."""
    prompts: Annotated[list[Prompts], AfterValidator(_once)] | None = None
    """What it is asked: of an ordinal task `scale-1-4`, `scale-1-4-examples`, `scale-1-5`,
    `scale-1-5-examples`, of any `labels`, `labels-examples`; or `justify`: why the label fits that
    the other teachers gave. Without it, of an ordinal task the paper's four, of a nominal one
    `labels`; those with examples only where the task has any."""
    order: Literal["conversation", "question"] = "conversation"
    """What stands first. `conversation`: all questions about it share their beginning, which
    servers and local models read once."""
    reasks: Count = 1
    """How often a teacher is asked again after a reply that cannot be read; it is shown the reply.
    Recorded as such."""
    attempts: Positive = 5
    """Sends of one request after faults of the server, over all runs."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds until an answer must be whole."""
    concurrency: Positive | None = None
    """Requests in flight at each address, at most; without it, 256. Of `local`, requests in one
    batch; without it, 8."""
    requests_per_minute: Rate | None = None
    """A known limit of each address; without it, it is learned from refusals and headers."""
    tokens_per_minute: Rate | None = None
    """Likewise, of tokens read and written."""
    price: Price | None = None
    """What it costs; needed for a budget, but of servers alone."""
    path: str | None = None
    """Of `recorded`: JSON Lines with `example_id`, `task`, `teacher`, `prompt`, `text` and `scale`,
    relative to the recipe. Without it, the replies that came with the corpus."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, however many were given."""
        return (self.url,) if isinstance(self.url, str) else tuple(dict.fromkeys(self.url))

    @property
    def asked(self) -> bool:
        """Whether it is asked, and its replies are kept in the journal."""
        return self.api != "recorded"

    @property
    def remote(self) -> bool:
        """Whether it is a server."""
        return self.api in ("openai", "anthropic")

    @model_validator(mode="after")
    def _check(self) -> Self:
        remote = self.remote
        faults = []
        if remote and not self.urls:
            faults.append(f"found no url; {self.api} needs `url:`, the server's address")
        if self.url and not remote:
            faults.append(f"found url, which {self.api} has no use for; drop it")
        if self.path is not None and self.api != "recorded":
            faults.append(f"found path, which {self.api} has no use for; drop it, or set "
                          "`api: recorded`")  # fmt: skip
        refuse(faults)
        return self
