"""From a model and a request's options to what is loaded for it."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial

from a3s_power.devices import logical_cores
from a3s_power.errors import InvalidRequest
from a3s_power.names import ModelName
from a3s_power.options import LoadOptions, SamplingOptions, merge
from a3s_power.runner.base import LoadSpec, Pooling
from a3s_power.scheduler.memory import Footprint, comfortable, estimate, largest
from a3s_power.scheduler.scheduler import Scheduler
from a3s_power.scheduler.slots import Lease, Loaded, LoadPlan
from a3s_power.service.cards import ModelCard

MIN_CTX = 4
MIN_VISION_CTX = 2048
"""A picture alone takes hundreds of tokens."""
MAX_BATCH = 2**14
EMBEDDING_BATCH = 2048
"""Tokens; most embedding models must see a text in one batch."""
MAX_LAYERS = 2**15 - 1


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

    def __init__(self, scheduler: Scheduler[ModelCard], defaults: LoadDefaults) -> None:
        self._scheduler = scheduler
        self._defaults = defaults
        self._max_threads = logical_cores()

    def plan(
        self, card: ModelCard, options: Mapping[str, object], pooling: Pooling | None = None
    ) -> tuple[LoadPlan, SamplingOptions]:
        """What `options` over the model's own parameters come to. Raises InvalidOption, InvalidRequest."""
        if card.model.model_path is None:
            raise InvalidRequest(f"model '{card.name.display}' has no GGUF file and cannot run here")
        load, sampling = merge((card.model.parameters, options))
        spec = self._spec(card, load, pooling)
        if spec.is_ctx_automatic:
            spec = comfortable(card.footprint, spec)
        return _planned(card.footprint, spec), sampling

    def lease(
        self, card: ModelCard, plan: LoadPlan, keep_alive_s: float | None
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold a runner for one request; see `Scheduler.lease`."""
        return self._scheduler.lease(card, plan, keep_alive_s)

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
        num_ctx = max(wanted, MIN_VISION_CTX if "vision" in card.capabilities else MIN_CTX)
        if card.footprint.trained_ctx:
            num_ctx = min(num_ctx, card.footprint.trained_ctx)
        return LoadSpec(
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


def _least_batch(card: ModelCard, pooling: Pooling | None) -> int:
    """Of the trained context, not of the one asked for: who asks for less of it needs no other runner."""
    if pooling is not Pooling.FILE:
        return 1
    return min(EMBEDDING_BATCH, card.footprint.trained_ctx or EMBEDDING_BATCH)


def _planned(footprint: Footprint, spec: LoadSpec) -> LoadPlan:
    fit = partial(_fitted, footprint, spec) if spec.is_ctx_automatic else None
    return LoadPlan(spec, estimate(footprint, spec), fit, partial(_joined, footprint, spec))


def _joined(footprint: Footprint, wanted: LoadSpec, replaced: LoadSpec) -> LoadPlan:
    """The larger context of the two, and vectors if either wants some; nothing of it if they differ in more."""
    joinable = {name: getattr(replaced, name) for name in ("num_ctx", "is_ctx_automatic", "pooling")}
    if replace(wanted, **joinable) != replaced:
        return _planned(footprint, wanted)
    both = replace(wanted, pooling=wanted.pooling or replaced.pooling)
    if replaced.num_ctx <= wanted.num_ctx and wanted.is_ctx_automatic:
        return _planned(footprint, both)
    is_automatic = wanted.is_ctx_automatic or replaced.is_ctx_automatic
    both = replace(both, num_ctx=max(wanted.num_ctx, replaced.num_ctx), is_ctx_automatic=is_automatic)
    return LoadPlan(both, estimate(footprint, both), None, partial(_joined, footprint, both))


def _fitted(footprint: Footprint, spec: LoadSpec, free: int) -> tuple[LoadSpec, int]:
    spec = largest(footprint, spec, free)
    return spec, estimate(footprint, spec)
