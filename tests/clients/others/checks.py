"""Run the checks of one library and tell how each went, one JSON line each.

Scripts import it in environments of their own: it needs pydantic alone, which each of the libraries brings.
"""

import json
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

CHAT_MODEL = "smollm2"
CALLER = "caller"
"""The same model, with a template that takes tools: it calls one if it must."""
EMBEDDING_MODEL = "embedder"
AGENT = "agent"
"""On the scripted server: its engine says what the last message tells it to."""

SAY, SAID = "say:All |is |well.", "All is well."
"""Makes the agent answer, in three tokens."""

CALL = 'say:<tool_call>|{"name": "get_weather", |"arguments": {"city": "Oslo"}}|</tool_call>'
"""Makes the agent call a tool."""
ANSWER = "rain, says "
"""What the agent says to the tool's result, and then the tool's name, if the client told it."""


def get_weather(city: str) -> str:
    """The weather in a city."""
    return "say:rain, |says "


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
"""What it takes, for libraries that do not find it out, and no more than a small model can say."""


class Mood(BaseModel):
    """How somebody feels."""

    mood: Literal["happy", "sad"]


@dataclass(frozen=True)
class Servers:
    """URLs, without a path."""

    real: str
    scripted: str


Check = Callable[[Servers], None]


def run(*checks: Check, **named: Check) -> None:
    """Call each, under its own name or the one given, with the servers that the command line names."""
    servers = Servers(*sys.argv[1:])
    sys.addaudithook(_refuse_other_machines)
    for name, check in ({check.__name__: check for check in checks} | named).items():
        with redirect_stdout(sys.stderr):  # some libraries talk
            failure = _failure_of(check, servers)
        print(json.dumps({"check": name, "failure": failure}), flush=True)


Error = TypeVar("Error", bound=BaseException)


def caught(kind: type[Error], call: Callable[[], Any]) -> Error:
    """What a call raises, which must be of a kind."""
    try:
        call()
    except kind as exc:
        return exc
    raise AssertionError(f"no {kind.__name__}")


def _failure_of(check: Check, servers: Servers) -> str | None:
    try:
        check(servers)
    except Exception:
        return traceback.format_exc()
    return None


def _refuse_other_machines(event: str, arguments: tuple) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
        if not ip_address(host).is_loopback:
            raise ConnectionRefusedError(f"a client asks {host}")
