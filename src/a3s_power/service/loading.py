"""From a model and a request's options to what is loaded for it."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from a3s_power.devices import logical_cores
from a3s_power.errors import InvalidRequest
from a3s_power.gguf import GGUF
from a3s_power.names import ModelName
from a3s_power.options import LoadOptions, SamplingOptions, merge
from a3s_power.runner.base import Drafting, LoadSpec, Pooling
from a3s_power.scheduler.plans import COMFORTABLE_CTX, ModelPlan, Sizing
from a3s_power.scheduler.scheduler import Scheduler
from a3s_power.scheduler.slots import ANYBODY, Asked, Lease, Loaded, LoadPlan
from a3s_power.service.cards import ModelCard

MIN_CTX = 4
MIN_VISION_CTX = 2048
"""A picture alone takes hundreds of tokens."""
MAX_BATCH = 2**14
EMBEDDING_BATCH = 2048
"""Tokens; most embedding models must see a text in one batch."""
MAX_LAYERS = 2**15 - 1
MAX_DRAFT = 16
"""Tokens. So many guesses in a row are hardly ever right; and the engine takes memory for what it is told."""

_DRAFTING = {"eagle3": Drafting.EAGLE3, "dflash": Drafting.DFLASH, "gemma4-assistant": Drafting.MTP}
"""Architecture of a draft → how it drafts, of those that are no models of their own."""


@dataclass(frozen=True, slots=True)
class LoadDefaults:
    """What the operator has set for every model."""

    slots: int = 4
    num_ctx: int = 0
    """0 takes the largest that fits, up to 32k."""
    kv_cache_type: str = "f16"
    flash_attention: bool | None = None
    num_thread: int = 0


class Loader:
    """Decides what to load for a request, and leases it from the scheduler."""

    def __init__(self, scheduler: Scheduler[ModelCard], defaults: LoadDefaults, sizing: Sizing) -> None:
        self._scheduler = scheduler
        self._defaults = defaults
        self._sizing = sizing
        self._max_threads = logical_cores()

    def plan(
        self, card: ModelCard, options: Mapping[str, object], pooling: Pooling | None = None
    ) -> tuple[LoadPlan, SamplingOptions]:
        """What `options` over the model's own parameters come to. Raises InvalidOption, InvalidRequest."""
        if card.model.model_path is None:
            raise InvalidRequest(f"model '{card.name.display}' has no GGUF file and cannot run here")
        load, sampling = merge((card.model.parameters, options))
        return ModelPlan(card.footprint, self._spec(card, load, pooling), self._sizing), sampling

    def lease(
        self, card: ModelCard, plan: LoadPlan, keep_alive_s: float | None, asked: Asked = ANYBODY
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold a runner for one request; see `Scheduler.lease`."""
        return self._scheduler.lease(card, plan, keep_alive_s, asked)

    def unload(self, card: ModelCard) -> None:
        """Let the model's runners go; names that share its file share them."""
        self._scheduler.unload(lambda other: other.model.model_path == card.model.model_path)

    def card_of_loaded(self, name: ModelName) -> ModelCard | None:
        """The card of a loaded model of that name, which may be gone from the store."""
        return next((row.model for row in self.loaded() if row.model.name.same_as(name)), None)

    def loaded(self) -> list[Loaded[ModelCard]]:
        """What is loaded and loading."""
        return self._scheduler.loaded()

    def _spec(self, card: ModelCard, load: LoadOptions, pooling: Pooling | None) -> LoadSpec:
        wanted = load.num_ctx or self._defaults.num_ctx
        num_ctx = max(wanted or COMFORTABLE_CTX, MIN_VISION_CTX if "vision" in card.capabilities else MIN_CTX)
        if card.footprint.trained_ctx:
            num_ctx = min(num_ctx, card.footprint.trained_ctx)
        spec = LoadSpec(
            model_path=str(card.model.model_path),
            projector_paths=tuple(map(str, card.model.projector_paths)),
            adapter_paths=tuple(map(str, card.model.adapter_paths)),
            num_ctx=num_ctx,
            is_ctx_automatic=not wanted,
            slots=max(1, self._defaults.slots),
            num_batch=min(max(1, load.num_batch, _least_batch(card, pooling)), MAX_BATCH),
            num_gpu=min(load.num_gpu, MAX_LAYERS),
            main_gpu=load.main_gpu,
            use_mmap=load.use_mmap,
            num_thread=min(max(0, load.num_thread or self._defaults.num_thread), self._max_threads),
            kv_cache_type=self._defaults.kv_cache_type,
            flash_attention=self._defaults.flash_attention,
            pooling=pooling,
        )
        return _with_draft(spec, card, load.draft_num_predict)


def _with_draft(spec: LoadSpec, card: ModelCard, wanted: int) -> LoadSpec:
    """With the model's draft, unless it is to guess nothing.

    Each slot's next token and all guesses after it must fit in one batch: else the engine aborts.
    """
    guesses = min(max(0, wanted), MAX_DRAFT)
    if card.draft is None or not guesses:
        return spec
    return replace(
        spec,
        draft_path=str(card.model.draft_path),
        draft_num_predict=guesses,
        drafting=_drafting(card.draft),
        num_batch=max(spec.num_batch, spec.slots * (1 + guesses)),
    )


def _drafting(draft: GGUF) -> Drafting:
    heads = draft.arch("nextn_predict_layers", 0)
    is_head = isinstance(heads, int) and heads > 0
    return _DRAFTING.get(draft.architecture, Drafting.MTP if is_head else Drafting.MODEL)


def _least_batch(card: ModelCard, pooling: Pooling | None) -> int:
    """Of the trained context, not of the one asked for: who asks for less of it needs no other runner."""
    if pooling is not Pooling.FILE:
        return 1
    return min(EMBEDDING_BATCH, card.footprint.trained_ctx or EMBEDDING_BATCH)
