"""Which requests are let in: no web page of somebody else's, and no name that was bent to point here.

Two guards, before anything else, as Ollama has them (`server/routes.go`, `envconfig/config.go`): the `Origin`
header against a list (CORS), and, on a loopback listener, the `Host` header against this machine's names (DNS
rebinding).
"""

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import psutil
from starlette.datastructures import Headers
from starlette.responses import Response

LOCAL_ORIGINS = tuple(
    f"{scheme}://{host}{port}"
    for scheme in ("http", "https")
    for host in ("localhost", "127.0.0.1", "0.0.0.0")
    for port in ("", ":*")
)
APP_ORIGINS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,"
    "X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,"
    "X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,"
    "X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
_LOCAL_ENDINGS = (".localhost", ".local", ".internal")


@dataclass(frozen=True)
class Access:
    """The policy of one listener. `origins` come before the built-in ones; `*` stands for any text, once."""

    origins: tuple[str, ...] = ()
    guards_host: bool = True
    """Whether only this machine's own names are let in: for listeners on the loopback interface."""
    own_names: frozenset[str] = field(
        default_factory=lambda: frozenset({"", "localhost", socket.gethostname().lower()})
    )

    def refuses(self, method: str, headers: Headers) -> Response | None:
        """The reply for a request that goes no further: refused, or a preflight answered. None lets it in."""
        origin = headers.get("origin")
        if origin and not self._is_own(origin, headers):
            if not self._allows(origin):
                return Response(status_code=403)
            if method == "OPTIONS":
                return Response(status_code=204, headers=self._preflight(origin))
        if not self.guards_host:
            return None
        name = _without_port(headers.get("host", ""))
        if _is_own_address(name):
            return None
        if name not in self.own_names and not name.endswith(_LOCAL_ENDINGS):
            return Response(status_code=403)
        return Response(status_code=204) if method == "OPTIONS" else None

    def grants(self, headers: Headers) -> Mapping[str, str]:
        """Headers that let the page which asked read the reply."""
        origin = headers.get("origin")
        if not origin or self._is_own(origin, headers):
            return {}
        if "*" in self.origins:
            return {"Access-Control-Allow-Origin": "*"}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

    def _preflight(self, origin: str) -> Mapping[str, str]:
        return {
            "Access-Control-Allow-Origin": "*" if "*" in self.origins else origin,
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": HEADERS,
            "Access-Control-Max-Age": "43200",
            "Vary": _VARY,
        }

    def _allows(self, origin: str) -> bool:
        return any(_matches(pattern, origin) for pattern in (*self.origins, *LOCAL_ORIGINS, *APP_ORIGINS))

    @staticmethod
    def _is_own(origin: str, headers: Headers) -> bool:
        host = headers.get("host", "")
        return origin in {f"http://{host}", f"https://{host}"}


def _matches(pattern: str, origin: str) -> bool:
    head, star, tail = pattern.partition("*")
    if not star:
        return origin == pattern.lower()
    return origin.startswith(head) and origin.endswith(tail) and len(origin) >= len(head) + len(tail)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_own_address(name: str) -> bool:
    """An address of this machine, or of a network at home: no name that a stranger's server could give out."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_private or address.is_unspecified or name in _addresses()


def _addresses() -> Iterable[str]:
    return {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
