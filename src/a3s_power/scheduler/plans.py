"""What a request wants loaded: where it fits, and how large its context and its pool of cells are to be."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from a3s_power.errors import LoadFailed, LoadFailure
from a3s_power.runner.base import LoadSpec
from a3s_power.scheduler.measured import Measurements
from a3s_power.scheduler.memory import Footprint, estimate
from a3s_power.scheduler.placement import Capacity, Need, Placement, place
from a3s_power.units import human_bytes

DEFAULT_MAX_CTX = 32768
"""The largest context window nobody asked for, in tokens."""
COMFORTABLE_CTX = 8192
"""For so much of it, to each slot, idle runners make room."""
MIN_CTX = 2048
FALLBACK_CTX = 4096
POOL_STEP = 256
"""The engine rounds its pool up to as many."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What is to be loaded, and what it takes of each device."""

    spec: LoadSpec
    taken: Capacity


@dataclass(frozen=True, slots=True)
class Sizing:
    """How the operator wants memory used, and what was seen of it."""

    measurements: Measurements
    max_pool: int = 0
    """Tokens; 0 is as many as memory allows."""
    spread: bool = False


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A `scheduler.slots.LoadPlan` of a model.

    `spec` is the least that serves the request: where `num_ctx` is automatic any other one does, too.
    """

    footprint: Footprint
    spec: LoadSpec
    sizing: Sizing
    is_settled: bool = False
    """Whether its context is decided, though nobody asked for it."""
    alone: "ModelPlan | None" = None
    """What this was before it was joined: it is loaded where there is no room for both."""

    def is_at_ease(self, free: Capacity) -> bool:
        """With a comfortable context for each slot, and on GPUs, where there are any, as a whole."""
        spec = _least_pool(self._with_ctx(COMFORTABLE_CTX))
        pool = max(spec.pool, min(self._most_pool(spec), COMFORTABLE_CTX * spec.slots))
        return self._place(replace(spec, kv_pool=pool), free, whole=spec.num_gpu < 0) is not None

    def fits(self, free: Capacity) -> bool:
        """With the least context and pool."""
        return self._has_room(free) or (self.alone is not None and self.alone.fits(free))

    def fitted(self, free: Capacity) -> Fitted:
        """What to load into so much: the largest context of the model's own, up to 32k, then the largest pool.

        If the least does not fit it is tried all the same: then the engine has the last word.
        """
        if self.alone is not None and not self._has_room(free):
            return self.alone.fitted(free)
        spec = self._with_ctx(DEFAULT_MAX_CTX)
        while self._is_automatic and spec.num_ctx > MIN_CTX and self._place(_least_pool(spec), free) is None:
            spec = replace(spec, num_ctx=max(MIN_CTX, spec.num_ctx // 2))
        spec = self._with_pool(spec, free)
        placement = self._place(spec, free)
        if placement is None:
            return Fitted(spec, self._whole(spec))
        is_chosen = len(placement.devices) < len(free.gpus)  # among all of them the engine knows best
        return Fitted(replace(spec, devices=placement.devices if is_chosen else ()), placement.taken)

    def smaller(self, loaded: LoadSpec) -> Fitted | None:
        """What to try when the engine had no memory for that; None where all that is left was asked for."""
        asked = (self.alone or self).spec
        least_ctx = MIN_CTX if asked.is_ctx_automatic else asked.num_ctx
        if loaded.is_ctx_automatic and loaded.num_ctx > least_ctx:
            spec = _least_pool(replace(loaded, num_ctx=max(least_ctx, loaded.num_ctx // 2)))
            spec = replace(spec, kv_pool=max(spec.pool, loaded.pool // 2))
        elif loaded.pool > loaded.num_ctx and loaded.pooling is None:
            spec = replace(loaded, kv_pool=loaded.num_ctx)
        else:
            return None
        return Fitted(_canonical(spec), self._whole(spec))

    def refusal(self, most: Capacity) -> LoadFailed:
        """The words for a model that cannot fit into all there is."""
        if self.alone is not None:
            return self.alone.refusal(most)
        least = self._least()
        need = self._need(least, most)
        on_gpus = self._on_gpus(least, most)
        words = (
            f"model requires more {'memory' if on_gpus else 'system memory'} "
            f"({human_bytes(need.host + need.gpu)} with num_ctx {least.num_ctx}) "
            f"than is available ({human_bytes(max(0, most.host) + on_gpus)})"
        )
        return LoadFailed(words + self._advice(least, most), LoadFailure.OUT_OF_MEMORY)

    def joined(self, replaced: LoadSpec) -> "ModelPlan":
        """The plan that also does what the runner did that it replaces: else two clients load in turns.

        The larger context of the two, and vectors if either wants some; nothing of it if they differ in more, or
        if there is no room for it.
        """
        spec = self.spec
        chosen = ("num_ctx", "is_ctx_automatic", "kv_pool", "devices", "pooling")
        if replace(spec, **{name: getattr(replaced, name) for name in chosen}) != replaced:
            return self
        alone = self.alone or self
        both = replace(spec, pooling=spec.pooling or replaced.pooling)
        if spec.is_ctx_automatic and spec.num_ctx >= replaced.num_ctx:
            return replace(self, spec=both, alone=alone)
        num_ctx = max(spec.num_ctx, replaced.num_ctx)
        is_automatic = spec.is_ctx_automatic or replaced.is_ctx_automatic
        both = replace(both, num_ctx=num_ctx, is_ctx_automatic=is_automatic)
        return replace(self, spec=both, is_settled=True, alone=alone)

    # ---- contexts and pools ----

    @property
    def _is_automatic(self) -> bool:
        return self.spec.is_ctx_automatic and not self.is_settled

    def _with_ctx(self, most: int) -> LoadSpec:
        """The context that was asked for, else the model's own up to `most`, and to the operator's pool."""
        if not self._is_automatic:
            return self.spec
        num_ctx = min(self.footprint.trained_ctx or FALLBACK_CTX, most)
        if self.sizing.max_pool:
            num_ctx = min(num_ctx, max(MIN_CTX, self.sizing.max_pool))
        return replace(self.spec, num_ctx=num_ctx)

    def _least(self) -> LoadSpec:
        return _least_pool(self._with_ctx(MIN_CTX))

    def _most_pool(self, spec: LoadSpec) -> int:
        whole = spec.num_ctx * spec.slots
        if spec.pooling is not None or not self.sizing.max_pool:  # vectors are not made with reservations
            return whole
        return min(whole, max(spec.num_ctx, self.sizing.max_pool))

    def _with_pool(self, spec: LoadSpec, free: Capacity) -> LoadSpec:
        """As large a pool as fits."""
        least, most = _least_pool(spec).pool, self._most_pool(spec)

        def fits(pool: int) -> bool:
            return self._place(replace(spec, kv_pool=pool), free, whole=True) is not None

        if not fits(most):
            steps = _last(lambda n: fits(least + n * POOL_STEP), (most - least) // POOL_STEP)
            most = least + steps * POOL_STEP
        return _canonical(replace(spec, kv_pool=most))

    # ---- memory ----

    def _need(self, spec: LoadSpec, free: Capacity) -> Need:
        """As measured, else as estimated; all of it the host's where no GPU takes part."""

        def estimated(spec: LoadSpec) -> Need:
            need = estimate(self.footprint, spec)
            return need if free.gpus and spec.num_gpu != 0 else Need(need.host + need.gpu, 0)

        return self.sizing.measurements.scaled(spec, estimated) or estimated(spec)

    def _place(self, spec: LoadSpec, free: Capacity, *, whole: bool = False) -> Placement | None:
        """Where it fits; a `whole` one must not lie on the host in part, where there are GPUs for it."""
        need, wants_gpu = self._need(spec, free), spec.num_gpu != 0
        placement = place(need, free, wants_gpu=wants_gpu, main_gpu=spec.main_gpu, spread=self.sizing.spread)
        if placement and placement.devices and whole and sum(placement.taken.gpus.values()) < need.gpu:
            return None
        return placement

    def _has_room(self, free: Capacity) -> bool:
        return self._place(self._least(), free) is not None

    def _on_gpus(self, spec: LoadSpec, most: Capacity) -> int:
        """Bytes that GPUs would hold if the host had room for all the rest."""
        need = self._need(spec, most)
        placement = self._place(spec, replace(most, host=need.host + need.gpu))
        return sum(placement.taken.gpus.values()) if placement else 0

    def _whole(self, spec: LoadSpec) -> Capacity:
        need = estimate(self.footprint, spec)
        return Capacity(need.host + need.gpu)

    def _advice(self, least: LoadSpec, most: Capacity) -> str:
        if self._is_automatic:
            return ""

        def fits(steps: int) -> bool:
            num_ctx = steps * POOL_STEP
            return self._place(_least_pool(replace(least, num_ctx=num_ctx)), most) is not None

        num_ctx = _last(fits, least.num_ctx // POOL_STEP) * POOL_STEP
        return f"; num_ctx {num_ctx} would fit" if num_ctx else ""


def _least_pool(spec: LoadSpec) -> LoadSpec:
    """With cells for one request only; for vectors, which are made without reservations, with those for all."""
    return replace(spec, kv_pool=0 if spec.pooling is not None else spec.num_ctx)


def _canonical(spec: LoadSpec) -> LoadSpec:
    return spec if spec.is_pool_short else replace(spec, kv_pool=0)


def _last(is_true: Callable[[int], bool], limit: int) -> int:
    """The largest number up to `limit` of which it is true; it is of all below. 0 if of none above."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_true(middle) else (low, middle - 1)
    return low
