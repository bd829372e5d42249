"""Models on their way to a registry."""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import anyio
import anyio.to_thread

from a3s_power.errors import InvalidName, ModelNotFound, StoreFailed
from a3s_power.names import ModelName
from a3s_power.progress import Progress, Tell
from a3s_power.registry.client import RegistryClient
from a3s_power.registry.session import Site
from a3s_power.registry.transfer import push_blob
from a3s_power.service.remotes import PROGRESS_S, Remotes
from a3s_power.service.reporting import reported
from a3s_power.store.manifests import Layer, decode
from a3s_power.store.models import ModelStore
from a3s_power.store.parts import disk_errors

log = logging.getLogger(__name__)


class Pushes:
    """Sends models of the store away."""

    def __init__(self, store: ModelStore, remotes: Remotes) -> None:
        self._store = store
        self._remotes = remotes

    def push(
        self, name: ModelName, *, insecure: bool, host: str | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Progress]]:
        """Send a model to its own registry, or to another `host`.

        Raises, while it is read, RegistryFailed, StoreFailed, ModelNotFound, and InvalidRequest for a registry not
        allowed here.
        """

        async def work(tell: Tell) -> None:
            await self._push(name, host or name.host, insecure, tell)

        return reported(work)

    async def _push(self, name: ModelName, host: str, insecure: bool, tell: Tell) -> None:
        self._remotes.check_allowed(host)
        tell(Progress("retrieving manifest"))
        try:
            found = await anyio.to_thread.run_sync(self._store.manifests.resolve, name)
            data = await anyio.to_thread.run_sync(self._store.manifests.read_bytes, found)
        except ModelNotFound:
            tell(Progress("couldn't retrieve manifest"))
            raise
        layers = (await anyio.to_thread.run_sync(decode, data)).distinct_blobs
        with self._store.blobs.pin(layer.digest for layer in layers):
            async with self._remotes.session(Site(host, insecure)) as session:
                registry = RegistryClient(session, f"{name.namespace}/{name.model}")
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


def _mount_source(layer: Layer, host: str) -> str | None:
    """The repository of the same registry that a layer was taken from; a path is nobody's business."""
    try:
        name = ModelName.parse(layer.from_ or "")
    except InvalidName:
        return None
    return f"{name.namespace}/{name.model}" if name.host == host else None
