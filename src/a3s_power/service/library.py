"""The models that are here: listing, looking, copying, deleting, making them, and their blobs."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress

import anyio.from_thread
import anyio.to_thread

from a3s_power.build.assemble import Recipe, assemble
from a3s_power.errors import AppError
from a3s_power.names import ModelName
from a3s_power.scheduler.slots import Loaded
from a3s_power.service.cards import Cards, ModelCard, outline
from a3s_power.service.loading import Loader
from a3s_power.service.reporting import reported
from a3s_power.store.models import ModelStore

log = logging.getLogger(__name__)

WRITE_BYTES = 1 << 20


class Library:
    """Everything about stored models that is not generating."""

    def __init__(self, store: ModelStore, cards: Cards, loader: Loader) -> None:
        self._store = store
        self._cards = cards
        self._loader = loader

    async def card(self, name: ModelName) -> ModelCard:
        """The card of a model. Raises as `Cards.get`."""
        return await self._cards.get(name, name.display)

    async def all(self) -> list[ModelCard]:
        """Every model with a manifest that can be used, the newest first."""
        return await anyio.to_thread.run_sync(self._all)

    def _all(self) -> list[ModelCard]:
        cards = filter(None, map(self._listed, self._store.manifests.names()))
        return sorted(cards, key=lambda card: card.model.modified_at, reverse=True)

    def _listed(self, name: ModelName) -> ModelCard | None:
        """The card, or the outline of a model that is damaged: who cannot see it cannot delete it."""
        try:
            return self._cards.of(self._store.get(name))
        except AppError as exc:
            log.warning("a model cannot be read", extra={"model": name.display, "error": str(exc)})
        with suppress(AppError):
            return outline(self._store.outline(name))
        return None

    def loaded(self) -> list[Loaded[ModelCard]]:
        """What is loaded and loading. Never waits."""
        return self._loader.loaded()

    async def copy(self, source: ModelName, destination: ModelName) -> None:
        """Another name for the same model. Raises ModelNotFound, but not for a name copied onto itself."""
        if source.same_as(destination):
            return
        await anyio.to_thread.run_sync(self._store.copy, source, destination)

    async def delete(self, name: ModelName) -> None:
        """Remove a model and the blobs that no other needs; one that runs goes on. Raises ModelNotFound."""
        await anyio.to_thread.run_sync(self._store.delete, name)

    def create(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Make a model; the status lines come as it goes. Raises, while they are read, what `assemble` does."""

        async def work(tell: Callable[[str], None]) -> None:
            def on_status(status: str) -> None:
                anyio.from_thread.run_sync(tell, status)

            await anyio.to_thread.run_sync(assemble, self._store, recipe, on_status)

        return reported(work)

    async def has_blob(self, digest: str) -> bool:
        """Whether a blob is here. Raises InvalidDigest."""
        return await anyio.to_thread.run_sync(self._store.blobs.has, digest)

    async def receive_blob(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        """Store what arrives, under the digest it must have. Raises DigestMismatch, StoreFailed.

        When it breaks off nothing is visible, and what came is thrown away: the next upload starts anew.
        """
        ingests = self._store.blobs.ingest(digest)
        ingest = await anyio.to_thread.run_sync(ingests.__enter__)
        try:
            ingest.restart()
            buffer = bytearray()
            async for chunk in chunks:
                buffer += chunk
                if len(buffer) >= WRITE_BYTES:
                    await anyio.to_thread.run_sync(ingest.write, bytes(buffer))
                    buffer.clear()
            await anyio.to_thread.run_sync(ingest.write, bytes(buffer))
            await anyio.to_thread.run_sync(ingest.commit)
        except BaseException:
            ingest.abort()
            raise
        finally:
            ingests.__exit__(None, None, None)
