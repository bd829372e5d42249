"""The disk under the models: df, prune, and blobs as files. Ollama has none of these routes."""

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from a3s_power.api.ollama import fields
from a3s_power.api.ollama.replies import json_reply
from a3s_power.service.space import BlobFile, DiskUse, Space
from a3s_power.units import MIB
from a3s_power.wire import ollama as wire


class SpaceAPI:
    """The handlers; `space` does the work."""

    def __init__(self, space: Space) -> None:
        self._space = space

    async def df(self, _request: Request) -> Response:
        """GET /api/df."""
        return json_reply(_told(await self._space.use()))

    async def prune(self, request: Request) -> Response:
        """POST /api/prune."""
        body = await fields.read(request, wire.PruneRequest)
        pruned = await self._space.prune(dry_run=bool(body.dry_run))
        return json_reply(wire.PruneReply(removed=pruned.count, freed=pruned.size_bytes))

    async def blob(self, request: Request) -> Response:
        """GET /api/blobs/:digest."""
        return BlobReply(await self._space.blob(request.path_params["digest"]))

    async def delete_blob(self, request: Request) -> Response:
        """DELETE /api/blobs/:digest."""
        await self._space.delete_blob(request.path_params["digest"])
        return Response()


class BlobReply(FileResponse):
    """A blob's bytes, or the ranges asked for. Read on a thread; the file is closed when the client leaves."""

    chunk_size = MIB  # a change of threads for each

    def __init__(self, blob: BlobFile) -> None:
        super().__init__(blob.path, headers={"ETag": f'"{blob.digest}"'}, media_type="application/octet-stream")


def _told(use: DiskUse) -> wire.DfReply:
    return wire.DfReply(
        models=[
            wire.ModelSpace(model.name, model.size_bytes, model.shared_bytes, model.unique_bytes)
            for model in use.models
        ],
        blobs=wire.BlobSpace(use.blobs.count, use.blobs.size_bytes, use.unused.count, use.unused.size_bytes),
        partial=wire.PartialSpace(use.partial.count, use.partial.size_bytes),
        total=use.total_bytes,
        free=use.free_bytes,
    )
