"""The only place that builds objects: settings → everything → serve."""

import logging
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anyio
import anyio.to_thread
import uvicorn

from a3s_power import __version__
from a3s_power.api.access import Access
from a3s_power.api.app import Application, Services
from a3s_power.api.ops import OLLAMA_VERSION
from a3s_power.errors import AppError, StoreFailed
from a3s_power.gpus import present_gpus
from a3s_power.hosts import is_loopback
from a3s_power.logs import configure_logging
from a3s_power.registry.auth import Keychain, docker_config_path
from a3s_power.runner.base import LoadSpec
from a3s_power.runner.calibration import MOST_OTHERS, calibrated, kept_in, share_at_work, this_machine
from a3s_power.runner.cores import Choice, Cores
from a3s_power.runner.devices import Device, binary_devices, idle_gpus, library_devices
from a3s_power.runner.llamacpp import LlamaCppEngine, remove_abandoned, runtime_folder
from a3s_power.scheduler.machine import EngineGPU, Memory
from a3s_power.scheduler.measured import Measurements
from a3s_power.scheduler.placement import Capacity, Need
from a3s_power.scheduler.plans import Sizing
from a3s_power.scheduler.quiet import when_quiet
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
from a3s_power.service.suspects import Suspects
from a3s_power.settings import Endpoint, Settings
from a3s_power.setup.engine import EngineChoice, chosen_engine
from a3s_power.store.models import ModelStore
from a3s_power.store.prune import migrate_names, prune

log = logging.getLogger(__name__)


CALIBRATION_QUIET_S = 300.0
"""As long as models stay loaded by default: who comes back within it finds the cores free."""
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
    choice = chosen_engine(settings.home)
    use_of_cores = _UseOfCores(settings, choice)
    engine = _engine(settings, choice, use_of_cores)
    remove_abandoned(engine.runtime_dir)
    limits = Limits(
        max_loaded=settings.max_loaded_models or float("inf"),
        max_queue=settings.max_queue,
        keep_alive_s=settings.keep_alive,
        stall_timeout_s=settings.stall_timeout,
    )
    measurements = await anyio.to_thread.run_sync(
        Measurements, settings.home / "memory.json", _engine_name(settings, choice)
    )
    memory = Memory(await _gpus(settings, choice), settings.gpu_overhead)
    machine = Machine(memory.available, memory.of, time.monotonic, anyio.sleep, partial(_record, measurements))
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
        Sizing(measurements, settings.kv_pool, settings.sched_spread),
    )
    suspects = Suspects()
    access = Access(settings.origins, guards_host=is_loopback(settings.endpoint.host))
    remotes = _remotes(settings)
    pulls = Pulls(store, remotes)
    services = Services(
        ChatService(cards, loader, suspects),
        EmbedService(cards, loader, suspects),
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
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use_of_cores.calibrate_when_quiet, scheduler, engine)
            await _serve_until_told(_Server(config), listener, app, settings.drain_timeout)
            tasks.cancel_scope.cancel()


class _UseOfCores:
    """How engines use the cores of this machine: as calibrated, or until then as most machines have it best."""

    def __init__(self, settings: Settings, choice: EngineChoice | None) -> None:
        self._path = settings.home / "cores.json"
        self._machine = this_machine(settings.llama_server or (choice and choice.python) or None)
        self._kept = kept_in(self._path, self._machine)

    def __call__(self) -> Cores:
        return self._kept.choice.cores if self._kept else Cores.default()

    async def calibrate_when_quiet(self, scheduler: Scheduler[ModelCard], engine: LlamaCppEngine) -> None:
        """Once, when nobody wants the cores, on this server or beside it."""
        if self._kept is None:
            await when_quiet(scheduler, CALIBRATION_QUIET_S, partial(self._calibrate_alone, engine))

    async def _calibrate_alone(self, engine: LlamaCppEngine) -> bool:
        if await anyio.to_thread.run_sync(share_at_work) > MOST_OTHERS:
            return False
        try:
            log.info("calibrating the use of cores: %s", await self.calibrate(engine, log.debug))
        except (AppError, OSError) as exc:
            log.warning("the use of cores stays as it is", extra={"error": str(exc)})
        return True

    async def calibrate(self, engine: LlamaCppEngine, tell: Callable[[str], None]) -> Choice:
        """Measure it. Raises AppError, OSError."""
        self._kept = await calibrated(
            self._path, self._machine, lambda cores: replace(engine, cores=lambda: cores), tell
        )
        return self._kept.choice

    def forget(self) -> None:
        """Have it measured anew."""
        self._path.unlink(missing_ok=True)


def calibrate(settings: Settings, tell: Callable[[str], None]) -> None:
    """Measure how engines use the cores of this machine best, and keep it for servers to come."""
    choice = chosen_engine(settings.home)
    use_of_cores = _UseOfCores(settings, choice)
    use_of_cores.forget()
    anyio.run(use_of_cores.calibrate, _engine(settings, choice, use_of_cores), tell)


def _engine(settings: Settings, choice: EngineChoice | None, cores: Callable[[], Cores]) -> LlamaCppEngine:
    return LlamaCppEngine(
        runtime_dir=runtime_folder(os.environ),
        load_timeout_s=settings.load_timeout,
        environ=os.environ,
        llama_server=settings.llama_server or None,
        python=choice.python if choice else sys.executable,
        cores=cores,
    )


async def _record(measurements: Measurements, spec: LoadSpec, held: Capacity) -> None:
    if measurements.record(spec, Need(held.host, sum(held.gpus.values()))):
        await anyio.to_thread.run_sync(measurements.save)


async def _gpus(settings: Settings, choice: EngineChoice | None) -> list[EngineGPU]:
    """The cards that the engine can use. What it has of integrated ones is the host's memory."""
    devices: tuple[Device, ...] = ()  # the engine that comes with us knows none but Apple's, which are integrated
    if settings.llama_server:
        devices = await binary_devices(settings.llama_server, os.environ)
    elif choice:
        devices = await library_devices(os.environ, choice.python)
    if idle := idle_gpus(await anyio.to_thread.run_sync(present_gpus), devices):
        log.warning(idle)
    return [EngineGPU(each.name, each.bus_id, each.free) for each in devices if not each.is_integrated]


def _engine_name(settings: Settings, choice: EngineChoice | None) -> str:
    """Whose figures of memory count: another engine takes another amount."""
    if settings.llama_server:
        return settings.llama_server
    return f"xllamacpp {choice.version} {choice.backend}" if choice else f"xllamacpp {version('xllamacpp')}"


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
