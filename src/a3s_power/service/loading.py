"""From a model and a request's options to what is loaded for it."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from a3s_power.options import LoadOptions, SamplingOptions, merge
from a3s_power.runner.base import LoadSpec
from a3s_power.scheduler.memory import default_ctx, estimate
from a3s_power.scheduler.scheduler import Lease, Loaded, Scheduler
from a3s_power.service.cards import ModelCard

MIN_NUM_CTX = 4
FALLBACK_TRAINED_CTX = 2**31


@dataclass(frozen=True, slots=True)
class LoadDefaults:
    """What the operator has set for every model."""

    slots: int = 4
    num_ctx: int = 0
    """0 takes the largest that fits, up to 32k."""
    kv_cache_type: str = "f16"
    flash_attention: bool | None = None
    num_thread: int = 0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What a request wants loaded, and the bytes it is estimated to take."""

    spec: LoadSpec
    need: int


class Loader:
    """Decides what to load for a request, and leases it from the scheduler."""

    def __init__(self, scheduler: Scheduler[ModelCard], defaults: LoadDefaults) -> None:
        self._scheduler = scheduler
        self._defaults = defaults

    def plan(self, card: ModelCard, options: Mapping[str, object]) -> tuple[LoadPlan, SamplingOptions]:
        """What `options` over the model's own parameters come to. Raises InvalidOption."""
        load, sampling = merge((card.model.parameters, options))
        spec = self._spec(card, load)
        if load.num_ctx is None and not self._defaults.num_ctx:
            spec = replace(spec, num_ctx=self._automatic_ctx(card, spec))
        need = estimate(
            card.gguf,
            num_ctx=spec.num_ctx,
            slots=spec.slots,
            num_batch=spec.num_batch,
            kv_cache_type=spec.kv_cache_type,
        )
        return LoadPlan(spec, need), sampling

    def lease(
        self, card: ModelCard, plan: LoadPlan, keep_alive_s: float | None
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold a runner for one request; see `Scheduler.lease`."""
        return self._scheduler.lease(card, plan.spec, need=plan.need, keep_alive_s=keep_alive_s)

    def unload(self, card: ModelCard) -> None:
        """Let the model's runners go; names that share its file share them."""
        self._scheduler.unload(lambda other: other.model.model_path == card.model.model_path)

    def loaded(self) -> list[Loaded[ModelCard]]:
        """What is loaded and loading."""
        return self._scheduler.loaded()

    def _spec(self, card: ModelCard, load: LoadOptions) -> LoadSpec:
        trained = card.gguf.context_length or FALLBACK_TRAINED_CTX
        is_embedding = "embedding" in card.capabilities
        return LoadSpec(
            model_path=str(card.model.model_path),
            projector_paths=tuple(map(str, card.model.projector_paths)),
            adapter_paths=tuple(map(str, card.model.adapter_paths)),
            num_ctx=min(max(load.num_ctx or self._defaults.num_ctx, MIN_NUM_CTX), trained),
            slots=max(1, self._defaults.slots),
            num_batch=load.num_batch,
            num_gpu=load.num_gpu,
            main_gpu=load.main_gpu,
            use_mmap=load.use_mmap,
            num_thread=load.num_thread or self._defaults.num_thread,
            kv_cache_type=self._defaults.kv_cache_type,
            flash_attention=self._defaults.flash_attention,
            embedding=is_embedding,
        )

    def _automatic_ctx(self, card: ModelCard, spec: LoadSpec) -> int:
        """What is loaded already does for who did not ask; else the largest context that fits."""
        for loaded in self._scheduler.loaded_specs():
            if replace(loaded, num_ctx=spec.num_ctx) == spec:
                return loaded.num_ctx
        return default_ctx(
            card.gguf,
            slots=spec.slots,
            num_batch=spec.num_batch,
            kv_cache_type=spec.kv_cache_type,
            free=self._scheduler.free(),
        )
