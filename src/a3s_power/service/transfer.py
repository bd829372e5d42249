"""Models on their way between registries and the store."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from a3s_power.errors import AppError, DigestMismatch, InvalidName, InvalidRequest, ModelNotFound, StoreFailed
from a3s_power.names import ModelName
from a3s_power.registry.auth import Keychain
from a3s_power.registry.client import RegistryClient, Repository, open_registry
from a3s_power.registry.errors import RegistryFailed
from a3s_power.registry.transfer import fetch_blob, push_blob
from a3s_power.service.reporting import reported
from a3s_power.store.manifests import TENSOR, Layer, Manifest, decode
from a3s_power.store.models import ModelStore
from a3s_power.store.parts import disk_errors

log = logging.getLogger(__name__)

PROGRESS_S = 0.1
"""Between two progress reports of one blob."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One step. `total` and `completed` are bytes of one blob."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


Tell = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Remotes:
    """What the operator has settled about registries."""

    keychain: Keychain
    user_agent: str
    allowed: tuple[str, ...] = ()
    """Hosts, with their ports; none of them named allows all."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A blob, and where it is read."""

    repository: Repository
    insecure: bool
    digest: str
    size: int


@dataclass(eq=False)
class _Download:
    """One blob on its way in, for everybody who wants it."""

    source: _Source
    completed: int = 0
    waiters: int = 0
    error: AppError | None = field(default_factory=lambda: RegistryFailed("the download was given up"))
    """None once the blob is here."""
    has_begun: anyio.Event = field(default_factory=anyio.Event)
    """Set when `completed` counts what an earlier download has left."""
    is_done: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Transfers:
    """Use `async with transfers.running()` once, and pull and push inside it."""

    def __init__(self, store: ModelStore, remotes: Remotes) -> None:
        self._store = store
        self._remotes = remotes
        self._downloads: dict[str, _Download] = {}
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own all downloads; none goes on when the block is left. What came of them stays, to be resumed."""
        async with anyio.create_task_group() as self._tasks:
            try:
                yield
            finally:
                self._tasks.cancel_scope.cancel()

    def pull(self, name: ModelName, *, insecure: bool) -> AbstractAsyncContextManager[AsyncIterator[Progress]]:
        """Fetch a model, and replace the one of that name.

        Raises, while it is read, RegistryFailed, StoreFailed, and InvalidRequest for a registry not allowed here.
        """

        async def work(tell: Tell) -> None:
            await self._pull(name, insecure, tell)

        return reported(work)

    def push(
        self, name: ModelName, *, insecure: bool, host: str | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Progress]]:
        """Send a model to its own registry, or to another `host`. Raises as `pull`, and ModelNotFound."""

        async def work(tell: Tell) -> None:
            await self._push(name, host or name.host, insecure, tell)

        return reported(work)

    # ---- pull ----

    async def _pull(self, name: ModelName, insecure: bool, tell: Tell) -> None:
        self._check_allowed(name.host)
        tell(Progress("pulling manifest"))
        repository = Repository(name.host, f"{name.namespace}/{name.model}")
        try:
            async with self._registry(repository, insecure) as registry:
                data = await registry.manifest(name.tag)
            manifest = await anyio.to_thread.run_sync(decode, data)
        except (RegistryFailed, InvalidRequest) as exc:
            raise RegistryFailed(f"pull model manifest: {exc}") from exc
        _check_layers(repository, manifest)
        layers = _distinct(manifest)
        with self._store.blobs.pin(layer.digest for layer in layers):
            for layer in layers:
                await self._fetch(_Source(repository, insecure, layer.digest, layer.size), tell)
            tell(Progress("verifying sha256 digest"))  # it was, while it came
            tell(Progress("writing manifest"))
            removed = await anyio.to_thread.run_sync(self._store.replace, name, data)
        if removed:
            tell(Progress("removing unused layers"))
        log.info("pulled", extra={"model": name.display, "bytes": sum(layer.size for layer in layers)})
        tell(Progress("success"))

    async def _fetch(self, source: _Source, tell: Tell) -> None:
        """Have a blob here, together with all others who want it, wherever they read it."""
        step = f"pulling {source.digest.removeprefix('sha256:')[:12]}"
        while not await anyio.to_thread.run_sync(self._has, source):
            download = await self._join(source)
            try:
                await download.has_begun.wait()
                while not download.is_done.is_set():
                    tell(Progress(step, source.digest, source.size, download.completed))
                    with anyio.move_on_after(PROGRESS_S):
                        await download.is_done.wait()
            finally:
                download.waiters -= 1
                if not download.waiters:
                    download.scope.cancel()  # nobody waits for it any more
            if download.error is not None and download.source == source:
                raise download.error  # somebody else's source may fail where ours does not
        tell(Progress(step, source.digest, source.size, source.size))

    def _has(self, source: _Source) -> bool:
        blobs = self._store.blobs
        return blobs.has(source.digest) and blobs.size(source.digest) == source.size

    async def _join(self, source: _Source) -> _Download:
        while (download := self._downloads.get(source.digest)) and not download.waiters:
            await download.is_done.wait()  # it is being given up
        if download is None:
            download = self._downloads[source.digest] = _Download(source)
            assert self._tasks, "transfers are running"
            self._tasks.start_soon(self._live, download)
        download.waiters += 1
        return download

    async def _live(self, download: _Download) -> None:
        """A download's whole life."""
        digest = download.source.digest
        try:
            with download.scope:
                await self._download(download)
                download.error = None
        except DigestMismatch as exc:
            words = "digest mismatch, file must be downloaded again: want {}, got {}"
            download.error = RegistryFailed(words.format(exc.expected, exc.actual))
        except AppError as exc:
            download.error = exc
        except Exception as exc:  # a download is supervised: what goes wrong in one must not end the others
            log.error("download failed", extra={"digest": digest}, exc_info=exc)
            download.error = RegistryFailed("the download failed: internal error")
        finally:
            del self._downloads[digest]
            download.has_begun.set()
            download.is_done.set()

    async def _download(self, download: _Download) -> None:
        def on_progress(completed: int) -> None:
            download.completed = completed

        source = download.source
        if await anyio.to_thread.run_sync(self._has, source):
            return  # it came while nobody looked
        opening = self._store.blobs.assemble(source.digest, source.size)
        assembly = await anyio.to_thread.run_sync(opening.__enter__)
        try:
            download.completed = assembly.completed
            download.has_begun.set()
            async with self._registry(source.repository, source.insecure) as registry:
                await fetch_blob(registry, source.digest, assembly, on_progress)
            await anyio.to_thread.run_sync(assembly.commit)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(opening.__exit__, None, None, None)

    # ---- push ----

    async def _push(self, name: ModelName, host: str, insecure: bool, tell: Tell) -> None:
        self._check_allowed(host)
        tell(Progress("retrieving manifest"))
        try:
            found = await anyio.to_thread.run_sync(self._store.manifests.resolve, name)
            data = await anyio.to_thread.run_sync(self._store.manifests.read_bytes, found)
        except ModelNotFound:
            tell(Progress("couldn't retrieve manifest"))
            raise
        layers = _distinct(await anyio.to_thread.run_sync(decode, data))
        with self._store.blobs.pin(layer.digest for layer in layers):
            async with self._registry(Repository(host, f"{name.namespace}/{name.model}"), insecure) as registry:
                for layer in layers:
                    await self._send(registry, layer, _mount_source(layer, host), tell)
                tell(Progress("pushing manifest"))
                await registry.put_manifest(name.tag, data)
        log.info("pushed", extra={"model": name.display, "host": host})
        tell(Progress("success"))

    async def _send(self, registry: RegistryClient, layer: Layer, mount_from: str | None, tell: Tell) -> None:
        if self._store.blobs.size(layer.digest) != layer.size:
            raise StoreFailed(
                f"blob {layer.digest} is not as long as its manifest says; pull it or create it again"
            )
        step = f"pushing {layer.digest.removeprefix('sha256:')[:12]}"
        next_at = 0.0

        def on_progress(completed: int) -> None:
            nonlocal next_at
            if anyio.current_time() >= next_at:
                next_at = anyio.current_time() + PROGRESS_S
                tell(Progress(step, layer.digest, layer.size, completed))

        with self._store.blobs.open(layer.digest) as file:

            def read(start: int, length: int) -> bytes:
                with disk_errors(f"read blob {layer.digest}"):
                    file.seek(start)
                    return file.read(length)

            await push_blob(registry, layer.digest, layer.size, read, mount_from, on_progress)
        tell(Progress(step, layer.digest, layer.size, layer.size))

    def _check_allowed(self, host: str) -> None:
        if self._remotes.allowed and host.lower() not in self._remotes.allowed:
            raise InvalidRequest(f"registry {host} is not allowed here; A3S_POWER_REGISTRIES says which are")

    def _registry(self, repository: Repository, insecure: bool) -> AbstractAsyncContextManager[RegistryClient]:
        remotes = self._remotes
        return open_registry(
            repository, keychain=remotes.keychain, insecure=insecure, user_agent=remotes.user_agent
        )


def _distinct(manifest: Manifest) -> list[Layer]:
    """Its blobs in their order, the config last, each once."""
    layers = [*manifest.layers, manifest.config]
    return list({layer.digest: layer for layer in layers if layer.digest}.values())


def _check_layers(repository: Repository, manifest: Manifest) -> None:
    """Raise RegistryFailed for a model that could never be whole, or run, here."""
    if any(layer.media_type == TENSOR for layer in manifest.layers):
        raise RegistryFailed("this model requires MLX support, but the MLX runtime is not available")
    if not all(layer.digest for layer in manifest.layers):
        raise RegistryFailed(f"{repository.path}: digest is empty")


def _mount_source(layer: Layer, host: str) -> str | None:
    """The repository of the same registry that a layer was taken from; a path is nobody's business."""
    try:
        name = ModelName.parse(layer.from_ or "")
    except InvalidName:
        return None
    return f"{name.namespace}/{name.model}" if name.host == host else None
