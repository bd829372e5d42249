"""The models that are here: listing, looking, copying, deleting, making them, and their blobs."""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress

import anyio.to_thread

from a3s_power.build.assemble import assemble
from a3s_power.build.recipe import Recipe
from a3s_power.errors import AppError
from a3s_power.names import ModelName
from a3s_power.progress import Progress, Tell
from a3s_power.scheduler.slots import Loaded
from a3s_power.service.cards import Cards, ModelCard, outline
from a3s_power.service.loading import Loader
from a3s_power.service.pulling import Pulls
from a3s_power.service.reporting import from_thread, reported
from a3s_power.store.models import ModelStore

log = logging.getLogger(__name__)

WRITE_BYTES = 1 << 20


class Library:
    """Everything about stored models that is not generating."""

    def __init__(self, store: ModelStore, cards: Cards, loader: Loader, pulls: Pulls) -> None:
        self._store = store
        self._cards = cards
        self._loader = loader
        self._pulls = pulls

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

    def create(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[Progress]]:
        """Make a model, of one that is pulled if it is not here.

        Raises, while the steps are read, what `assemble` and `Pulls.fetch` do.
        """

        async def work(tell: Tell) -> None:
            if recipe.base is not None and not await anyio.to_thread.run_sync(self._has, recipe.base):
                await self._pulls.fetch(recipe.base, insecure=False, tell=tell)
            await anyio.to_thread.run_sync(assemble, self._store, recipe, from_thread(tell))
            tell(Progress("success"))

        return reported(work)

    def _has(self, name: ModelName) -> bool:
        return self._store.manifests.stamp(self._store.manifests.resolve(name)) is not None

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
