"""The only place that builds objects: settings → everything → serve."""

import logging
import os
import platform
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import uvicorn

from a3s_power import __version__
from a3s_power.api.access import Access
from a3s_power.api.app import Application, Services
from a3s_power.api.ops import OLLAMA_VERSION
from a3s_power.devices import available_memory, memory_of
from a3s_power.errors import AppError, StoreFailed
from a3s_power.hosts import is_loopback
from a3s_power.logs import configure_logging
from a3s_power.registry.auth import Keychain, docker_config_path
from a3s_power.runner.llamacpp import LlamaCppEngine, remove_abandoned, runtime_folder
from a3s_power.scheduler.scheduler import Scheduler
from a3s_power.scheduler.slots import Limits, Machine
from a3s_power.service.cards import Cards, ModelCard
from a3s_power.service.chat import ChatService
from a3s_power.service.embed import EmbedService
from a3s_power.service.imageurls import ImageUrls
from a3s_power.service.library import Library
from a3s_power.service.loading import LoadDefaults, Loader
from a3s_power.service.pulling import Pulls
from a3s_power.service.pushing import Pushes
from a3s_power.service.remotes import Remotes
from a3s_power.service.space import Space
from a3s_power.settings import Endpoint, Settings
from a3s_power.store.models import ModelStore
from a3s_power.store.prune import migrate_names, prune

log = logging.getLogger(__name__)


LAST_WORDS_S = 2.0
"""What clients get to read why their request has ended."""


class CannotListen(AppError):
    """The address is taken, or not ours to take."""


def serve(settings: Settings) -> None:
    """Run the server until it is told to stop. Raises AppError when it cannot start."""
    configure_logging(debug=settings.debug)
    with _listening(settings.endpoint) as listener:
        anyio.run(_serve, settings, listener, backend_options={"use_uvloop": True})


async def _serve(settings: Settings, listener: socket.socket) -> None:
    store = ModelStore(settings.data_dir, noprune=settings.noprune)
    await anyio.to_thread.run_sync(_tidy, store, settings)
    runtime_dir = runtime_folder(os.environ)
    remove_abandoned(runtime_dir)
    engine = LlamaCppEngine(
        runtime_dir=runtime_dir,
        load_timeout_s=settings.load_timeout,
        environ=os.environ,
        llama_server=settings.llama_server or None,
    )
    limits = Limits(
        max_loaded=settings.max_loaded_models or float("inf"),
        max_queue=settings.max_queue,
        keep_alive_s=settings.keep_alive,
    )
    machine = Machine(available_memory, memory_of, time.monotonic)
    scheduler: Scheduler[ModelCard] = Scheduler(engine, machine, limits)
    cards = Cards(store, settings.go_template)
    loader = Loader(
        scheduler,
        LoadDefaults(
            slots=settings.num_parallel,
            num_ctx=settings.context_length,
            kv_cache_type=settings.kv_cache_type,
            flash_attention=settings.flash_attention,
            num_thread=settings.num_thread,
        ),
    )
    access = Access(settings.origins, guards_host=is_loopback(settings.endpoint.host))
    remotes = _remotes(settings)
    pulls = Pulls(store, remotes)
    services = Services(
        ChatService(cards, loader),
        EmbedService(cards, loader),
        Library(store, cards, loader, pulls),
        pulls,
        Pushes(store, remotes),
        Space(store),
        ImageUrls(settings.image_urls, remotes.user_agent),
    )
    app = Application(services, access)
    config = uvicorn.Config(
        app,
        log_config=None,
        lifespan="off",
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=[("Server", f"a3s-power/{__version__}")],
    )
    async with scheduler.running(), pulls.running():
        log.info("Listening on %s (version %s)", _address(listener), __version__)
        await _serve_until_told(_Server(config), listener, app, settings.drain_timeout)


def _remotes(settings: Settings) -> Remotes:
    machine = f"{platform.machine().lower()} {platform.system().lower()}"
    return Remotes(
        Keychain(
            settings.registry_key, docker_config_path(os.environ, Path.home()), os.environ.get("HF_TOKEN", "")
        ),
        f"ollama/{OLLAMA_VERSION} ({machine}) a3s-power/{__version__}",
        settings.registries,
    )


def _tidy(store: ModelStore, settings: Settings) -> None:
    """Start-up care of the store."""
    migrate_names(store.blobs)
    if not settings.noprune:
        try:
            freed = prune(store)
        except StoreFailed as exc:  # no reason not to serve
            log.warning("unused blobs stay", extra={"error": str(exc)})
        else:
            log.info("unused blobs removed", extra={"count": freed.count, "bytes": freed.size_bytes})


# ---- ending ----


class _Server(uvicorn.Server):
    """uvicorn, but for the signals: it would raise them again before our runners are gone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve_until_told(
    server: _Server, listener: socket.socket, app: Application, drain_timeout_s: float
) -> None:
    """At the first signal no new connections; after `drain_timeout_s`, or a second signal, requests are ended."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_on_signals, server, app, drain_timeout_s)
        await server.serve([listener])
        tasks.cancel_scope.cancel()


async def _end_on_signals(server: _Server, app: Application, drain_timeout_s: float) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        log.info("shutting down")
        server.should_exit = True
        with anyio.move_on_after(drain_timeout_s):
            await anext(signals)
        app.interrupt()
        await anyio.sleep(LAST_WORDS_S)
        server.force_exit = True  # do not wait for clients that do not read what they are told


# ---- listening ----


@contextmanager
def _listening(endpoint: Endpoint) -> Iterator[socket.socket]:
    """A listening socket, before anything else starts: a taken address is the usual mistake."""
    is_dual = not endpoint.host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual or ":" in endpoint.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (endpoint.host, endpoint.port),
            family=family,
            backlog=2048,
            dualstack_ipv6=is_dual,
        )
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise CannotListen(f"listen tcp {endpoint}: bind: {reason}") from exc
    with listener:
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return str(Endpoint(host=host, port=port))
