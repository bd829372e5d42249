"""Models on their way here: from registries, from repositories of Hugging Face, from a URL."""

import hashlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass

import anyio
import anyio.to_thread

from a3s_power.build.assemble import assemble
from a3s_power.build.recipe import Recipe
from a3s_power.errors import InvalidRequest
from a3s_power.names import ModelName
from a3s_power.progress import Progress, Tell
from a3s_power.registry.auth import is_hugging_face
from a3s_power.registry.client import RegistryClient, blob_path
from a3s_power.registry.errors import RegistryFailed, RegistryRefused, RemoteNotFound, Unauthorized
from a3s_power.registry.huggingface import RepoFile, SplitModel, list_files, split_model
from a3s_power.registry.session import Session, Site
from a3s_power.service.downloads import Downloads, Wanted
from a3s_power.service.places import FileURL, Place, places
from a3s_power.service.remotes import Remotes
from a3s_power.service.reporting import from_thread, reported
from a3s_power.store.manifests import TENSOR, Manifest, decode
from a3s_power.store.models import ModelStore

log = logging.getLogger(__name__)

Steps = AbstractAsyncContextManager[AsyncIterator[Progress]]


@dataclass(frozen=True, slots=True)
class _Published:
    """A model as a registry has it: a manifest, and blobs."""

    site: Site
    repository: str
    data: bytes
    manifest: Manifest

    @property
    def files(self) -> list[Wanted]:
        blobs = self.manifest.distinct_blobs
        return [
            Wanted(self.site, blob_path(self.repository, blob.digest), blob.digest, blob.size) for blob in blobs
        ]


@dataclass(frozen=True, slots=True)
class _Split:
    """A model in parts, which no manifest describes."""

    site: Site
    place: Place
    split: SplitModel

    @property
    def origin(self) -> str:
        """Tells these parts from all others: what is made of them has another digest."""
        digests = " ".join(part.digest for part in self.split.parts)
        return f"{self.place}@{hashlib.sha256(digests.encode()).hexdigest()}"

    def wanted(self, file: RepoFile) -> Wanted:
        return Wanted(self.site, file.url_path(self.place.repository), file.digest, file.size)


class Pulls:
    """Use `async with pulls.running()` once, and pull inside it."""

    def __init__(self, store: ModelStore, remotes: Remotes) -> None:
        self._store = store
        self._remotes = remotes
        self._downloads = Downloads(store.blobs, remotes)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Own all downloads; none goes on when the block is left. What came of them stays, to be resumed."""
        return self._downloads.running()

    def pull(self, name: ModelName, *, insecure: bool) -> Steps:
        """Fetch a model, and replace the one of that name.

        Raises, while it is read, RegistryFailed, StoreFailed, and InvalidRequest for a registry not allowed here.
        """

        async def work(tell: Tell) -> None:
            await self.fetch(name, insecure=insecure, tell=tell)

        return reported(work)

    def pull_file(self, url: FileURL, *, insecure: bool) -> Steps:
        """Fetch a GGUF, all its parts if it has several, and make a model of it that is named after the file.

        Raises as `pull`, and as `assemble` of a file that is no model.
        """

        async def work(tell: Tell) -> None:
            await self._fetch_file(url, insecure, tell)

        return reported(work)

    async def fetch(self, name: ModelName, *, insecure: bool, tell: Tell) -> None:
        """Pull, telling every step. Raises as `pull`."""
        allowed = self._allowed(name)
        tell(Progress("pulling manifest"))
        try:
            found = await self._find(name, allowed, insecure, tell)
        except (RegistryFailed, InvalidRequest) as exc:
            raise RegistryFailed(f"pull model manifest: {exc}") from exc
        match found:
            case _Published():
                await self._fetch_published(name, found, tell)
            case _Split():
                await self._fetch_split(name, found, tell)
        tell(Progress("success"))

    # ---- where ----

    def _allowed(self, name: ModelName) -> list[Place]:
        allowed = [place for place in places(name) if self._remotes.allows(place.host)]
        if not allowed:
            self._remotes.check_allowed(name.host)
        return allowed

    async def _find(
        self, name: ModelName, candidates: list[Place], insecure: bool, tell: Tell
    ) -> _Published | _Split:
        """The first place that has it. `insecure` is meant for the name's own registry."""
        missing: RegistryFailed | None = None
        for place in candidates:
            is_own = place.host == name.host
            if not is_own:
                tell(Progress(f"pulling manifest from {place}"))
            try:
                return await self._offered(place, Site(place.host, insecure and is_own))
            except RemoteNotFound as exc:
                missing = missing or exc
            except Unauthorized:  # Hugging Face's answer to strangers who ask for what is not there
                if missing is None:
                    raise
        assert missing, "every place was asked"
        raise missing

    async def _offered(self, place: Place, site: Site) -> _Published | _Split:
        async with self._remotes.session(site) as session:
            try:
                data = await RegistryClient(session, place.repository).manifest(place.tag)
            except RegistryRefused as refusal:
                return _Split(site, place, await _split(session, place, refusal))
        manifest = await anyio.to_thread.run_sync(decode, data)
        _check_layers(place, manifest)
        return _Published(site, place.repository, data, manifest)

    # ---- what ----

    async def _fetch_published(self, name: ModelName, model: _Published, tell: Tell) -> None:
        with self._store.blobs.pin(model.manifest.digests):
            for wanted in model.files:
                await self._downloads.fetch(wanted, tell)
            tell(Progress("verifying sha256 digest"))  # it was, while it came
            tell(Progress("writing manifest"))
            removed = await anyio.to_thread.run_sync(self._store.replace, name, model.data)
        if removed:
            tell(Progress("removing unused layers"))
        log.info("pulled", extra={"model": name.display, "bytes": model.manifest.size_bytes})

    async def _fetch_split(self, name: ModelName, model: _Split, tell: Tell) -> None:
        if await anyio.to_thread.run_sync(self._store.has_from, name, model.origin):
            return
        files = {file.name: file.digest for file in model.split.files}
        with self._store.blobs.pin(files.values()):
            await anyio.to_thread.run_sync(self._store.blobs.check_room, self._needed(model.split))
            for file in model.split.files:
                await self._downloads.fetch(model.wanted(file), tell)
            tell(Progress("verifying sha256 digest"))
        await self._register(name, files, model.origin, tell)

    def _needed(self, split: SplitModel) -> int:
        """Bytes: the parts, and once more what is made of them."""
        absent = [file.size for file in split.files if not self._store.blobs.has(file.digest)]
        return sum(absent) + sum(part.size for part in split.parts)

    async def _fetch_file(self, url: FileURL, insecure: bool, tell: Tell) -> None:
        self._remotes.check_allowed(url.host)
        site = Site(url.host, insecure, url.scheme)
        files = {}
        with ExitStack() as pins:
            for path in url.paths:
                wanted = Wanted(site, path)
                digest = files[wanted.file_name] = await self._downloads.fetch(wanted, tell)
                pins.enter_context(self._store.blobs.pin([digest]))
        await self._register(url.name, files, str(site), tell)
        tell(Progress("success"))

    # ---- from files to a model ----

    async def _register(self, name: ModelName, files: Mapping[str, str], origin: str, tell: Tell) -> None:
        """Make a model of files that are here, file name → digest; those that it does not need go.

        They stay if it was not their fault that there is none: the next pull goes on with them.
        """
        try:
            recipe = Recipe(name, files=files, origin=origin)
            await anyio.to_thread.run_sync(assemble, self._store, recipe, from_thread(tell))
        except InvalidRequest:
            await self._drop(files.values())
            raise
        await self._drop(files.values())

    async def _drop(self, digests: Iterable[str]) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._store.delete_unused, digests)


async def _split(session: Session, place: Place, refusal: RegistryRefused) -> SplitModel:
    """What Hugging Face's registry makes no manifest of. Raises the refusal if it was about something else."""
    if is_hugging_face(place.host) and refusal.status == 400:
        split = split_model(await list_files(session, place.repository), place.tag)
        if split is not None:
            return split
    raise refusal


def _check_layers(place: Place, manifest: Manifest) -> None:
    """Raise RegistryFailed for a model that could never be whole, or run, here."""
    if any(layer.media_type == TENSOR for layer in manifest.layers):
        raise RegistryFailed("this model requires MLX support, but the MLX runtime is not available")
    if not all(layer.digest for layer in manifest.layers):
        raise RegistryFailed(f"{place.repository}: digest is empty")
