"""Settings: every knob, its default and where it may be set, as one frozen value read once at start.

Precedence: command-line flag, `A3S_POWER_<KEY>`, `OLLAMA_<NAME>`, `config.toml` in the home folder, default.
No setting is read from the environment anywhere else; which editor a user has is not one of ours.
"""

import logging
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from a3s_power.errors import AppError, InvalidRequest
from a3s_power.units import FOREVER, parse_duration

DEFAULT_PORT = 11434

log = logging.getLogger(__name__)


class InvalidSetting(AppError):
    """A setting whose value makes no sense, and which cannot be replaced by a default without surprise."""


@dataclass(frozen=True)
class Endpoint:
    """Where the server listens, or where a client finds it."""

    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """`127.0.0.1:11434`, `:8080`, `[::1]`, `https://example.com/base`, the way Ollama reads OLLAMA_HOST.

        A port that is none is replaced by the scheme's default.
        """
        if text.strip() == "ollama.com":
            return cls("https", "ollama.com", 443)
        scheme, separator, rest = text.strip().partition("://")
        if not separator:
            scheme, rest = "", scheme
        default_port = {"http": 80, "https": 443}.get(scheme, DEFAULT_PORT) if separator else DEFAULT_PORT
        authority, slash, path = rest.partition("/")
        host, colon, port_text = authority.rpartition(":")
        is_bare_ipv6 = authority.count(":") > 1 and not authority.startswith("[")
        if not colon or "]" in port_text or is_bare_ipv6:
            host, port_text = authority or "127.0.0.1", ""
        is_port = re.fullmatch(r"\d{1,5}", port_text, re.ASCII) and int(port_text) <= 65535
        port = int(port_text) if is_port else default_port
        return cls(scheme or "http", host.strip("[]"), port, slash + path if path else "")

    @property
    def url(self) -> str:
        """For a client: an address that means "all interfaces" becomes the loopback one."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        bracketed = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{bracketed}:{self.port}{self.path}"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# ---- how a text from the environment becomes a value ----


_ORIGIN = re.compile(r"(https?|(chrome|safari|moz|ms-browser)-extension)://")
_IMAGE_HOST = re.compile(r"\*|((\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:\d{1,5})?", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,15}(\.\d*)?", re.ASCII)


def _boolean(text: str) -> bool:
    """Go's ParseBool; any other text that is not empty is true, as Ollama has it."""
    return text not in {"0", "f", "F", "false", "FALSE", "False"}


def _optional_boolean(text: str) -> bool | None:
    return _boolean(text) if text else None


def _natural(text: str) -> int:
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _port(text: str) -> int:
    if (port := _natural(text)) > 65535:
        raise ValueError("expected a port, 0 to 65535")
    return port


def _seconds(text: str) -> float:
    """A Go duration or a number of seconds; negative is forever."""
    seconds = float(text) if _NUMBER.fullmatch(text) else parse_duration(text)
    return FOREVER if seconds < 0 else seconds


def _stall_limit(text: str) -> float:
    """Zero too is forever."""
    return _seconds(text) or math.inf


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _origins(text: str) -> tuple[str, ...]:
    origins = _items(text)
    for origin in origins:
        if origin.count("*") > 1 or ("*" not in origin and not _ORIGIN.match(origin)):
            raise ValueError(f"{origin!r} is no origin: https://host[:port], with one * at most")
    return origins


def _hosts(text: str) -> tuple[str, ...]:
    hosts = _items(text.lower())
    for host in hosts:
        if not re.fullmatch(r"[a-z0-9_.:\[\]-]+", host):
            raise ValueError(f"{host!r} is no host: registry.example or registry.example:5000")
    return hosts


def _image_hosts(text: str) -> tuple[str, ...]:
    hosts = _items(text.lower())
    for host in hosts:
        if not _IMAGE_HOST.fullmatch(host):
            raise ValueError(f"{host!r} is no host: images.example, images.example:8443, *.example.com or *")
    return hosts


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


CACHE_TYPES = frozenset({"f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"})


def _cache_type(text: str) -> str:
    if text.lower() not in CACHE_TYPES:
        raise ValueError(f"expected one of {', '.join(sorted(CACHE_TYPES))}")
    return text.lower()


def _key(default: Any, parse: Callable[[str], Any], *ollama_names: str) -> Any:
    """A field that can be set. `ollama_names` are tried as they are, after `A3S_POWER_<KEY>`."""
    factory = default if callable(default) else lambda: default
    return field(default_factory=factory, metadata={"parse": parse, "names": ollama_names})


@dataclass(frozen=True)
class Settings:
    """All settings of one server. Sizes in bytes, times in seconds."""

    home: Path = _key(lambda: Path.home() / ".a3s" / "power", _path)
    """Ours alone: config.toml, tool environments, logs."""
    data_dir: Path = _key(lambda: Path.home() / ".ollama" / "models", _path, "OLLAMA_MODELS")
    """The store, which Ollama may share."""
    host: Endpoint = _key(Endpoint(), Endpoint.parse, "OLLAMA_HOST")
    port: int | None = _key(None, _port)
    """Replaces the port of `host`."""
    origins: tuple[str, ...] = _key((), _origins, "OLLAMA_ORIGINS")
    """Web pages that may ask, besides those of this machine: `https://chat.example`, `https://*.example`, `*`."""
    keep_alive: float = _key(300.0, _seconds, "OLLAMA_KEEP_ALIVE")
    load_timeout: float = _key(300.0, _stall_limit, "OLLAMA_LOAD_TIMEOUT")
    """How long a load may stand still."""
    drain_timeout: float = _key(30.0, _seconds)
    """How long streams may go on once the server is told to end."""
    num_parallel: int = _key(4, _natural, "OLLAMA_NUM_PARALLEL")
    """Requests served at once by one loaded model."""
    max_loaded_models: int = _key(0, _natural, "OLLAMA_MAX_LOADED_MODELS")
    """0 is as many as memory holds."""
    max_queue: int = _key(512, _natural, "OLLAMA_MAX_QUEUE")
    """Requests that may wait."""
    context_length: int = _key(0, _natural, "OLLAMA_CONTEXT_LENGTH")
    """num_ctx where neither request nor model says; 0 is the largest that fits, up to 32k."""
    kv_cache_type: str = _key("f16", _cache_type, "OLLAMA_KV_CACHE_TYPE")
    flash_attention: bool | None = _key(None, _optional_boolean, "OLLAMA_FLASH_ATTENTION")
    num_thread: int = _key(0, _natural)
    """Compute threads of an engine; 0 is one for each physical core."""
    go_template: bool | None = _key(None, _optional_boolean, "OLLAMA_GO_TEMPLATE")
    """For models with both kinds of template: True takes Go's, False the file's own, None the richer one."""
    registry_key: Path = _key(lambda: Path.home() / ".ollama" / "id_ed25519", _path)
    """Who we are to registries that ask; made when one asks first. Ollama's, if it is there."""
    registries: tuple[str, ...] = _key((), _hosts)
    """Where models may come from and go to: `registry.ollama.ai,hf.co`; none named allows all."""
    image_urls: tuple[str, ...] = _key((), _image_hosts)
    """Where pictures may be fetched from: `images.example`, `*.example.com`, `*`; none named allows none."""
    noprune: bool = _key(False, _boolean, "OLLAMA_NOPRUNE")
    nohistory: bool = _key(False, _boolean, "OLLAMA_NOHISTORY")
    """Interactive sessions leave no lines behind."""
    debug: bool = _key(False, _boolean, "OLLAMA_DEBUG")
    kv_pool: int = _key(0, _natural)
    """Tokens that the requests at one model may hold together; 0 is as many as memory allows, up to all."""
    stall_timeout: float = _key(300.0, _stall_limit)
    """How long a runner may owe tokens without a sign of progress."""
    gpu_overhead: int = _key(0, _natural, "OLLAMA_GPU_OVERHEAD")
    """Bytes of each GPU that stay free."""
    sched_spread: bool = _key(False, _boolean, "OLLAMA_SCHED_SPREAD")
    """Models lie on all GPUs, also those that fit on one."""
    llama_server: str = _key("", str)
    """A llama-server binary to drive instead of the engine that comes with us."""
    engine_index: str = _key("https://xorbitsai.github.io/xllamacpp/whl", str)
    """Where `setup engine` finds builds for GPUs: a URL with one package index below it for each build."""

    @property
    def endpoint(self) -> Endpoint:
        """`host` and `port` together."""
        return self.host if self.port is None else replace(self.host, port=self.port)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> Self:
        """Read everything once. `flags` are values already parsed; None among them means not given.

        A text that cannot be understood raises InvalidSetting, which names the key; but in Ollama's variables,
        which may be set for Ollama, it is passed over with a warning, as Ollama does.
        """
        environ = os.environ if environ is None else environ
        home = cls._from_environ(environ, _path, ("A3S_POWER_HOME",))
        config = _read_config((home or cls().home) / "config.toml")
        values: dict[str, Any] = {} if home is None else {"home": home}
        if unknown := config.keys() - {f.name for f in fields(cls) if f.name != "home"}:
            raise InvalidSetting(f"config.toml: unknown key {min(unknown)!r}")
        for f in fields(cls):
            parse, names = f.metadata["parse"], (f"A3S_POWER_{f.name.upper()}", *f.metadata["names"])
            value = cls._from_environ(environ, parse, names)
            if value is None and f.name in config:
                value = _parsed(f"config.toml: {f.name}", parse, _as_text(config[f.name]))
            if value is not None:
                values[f.name] = value
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        return cls(**values | given)

    @staticmethod
    def _from_environ(environ: Mapping[str, str], parse: Callable[[str], Any], names: tuple[str, ...]) -> Any:
        for name in names:
            if text := environ.get(name, "").strip().strip("\"'"):
                try:
                    return _parsed(name, parse, text)
                except InvalidSetting as exc:
                    if not name.startswith("OLLAMA_"):
                        raise
                    log.warning("invalid environment variable, using default: %s", exc)
        return None


def _parsed(name: str, parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except (ValueError, InvalidRequest) as exc:
        raise InvalidSetting(f"{name}={text}: {exc}") from exc


def _as_text(value: object) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InvalidSetting(f"{path}: {exc}") from exc
