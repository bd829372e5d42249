"""What is loaded for a request: contexts and pools by what is asked for, what is free and what was measured.

The model of the tables takes 4 GB and 100 KB for each token, so that what is free can be told in tokens.
"""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import LoadFailure
from a3s_power.runner.base import LoadSpec, Pooling
from a3s_power.scheduler.measured import Measurements
from a3s_power.scheduler.memory import Footprint
from a3s_power.scheduler.placement import Capacity, Need
from a3s_power.scheduler.plans import FALLBACK_CTX, POOL_STEP, Fitted, ModelPlan, Sizing
from a3s_power.units import GB, MIB

PROCESS, WEIGHTS, TOKEN = 64 * MIB, 4 * GB, 100_000
MODEL = Footprint(weights=WEIGHTS, kv_elements=TOKEN // 2, vocabulary=0, width=0, trained_ctx=131072)
BLOB = f"/store/blobs/sha256-{1:064x}"
AUTOMATIC = LoadSpec(BLOB, num_ctx=8192, is_ctx_automatic=True, slots=4)
FILE, LAST = Pooling.FILE, Pooling.LAST
PLENTY = Capacity(10**15)


def model(tokens):
    """Bytes of the model and so many tokens."""
    return WEIGHTS + tokens * TOKEN


def host(tokens):
    """A machine without GPUs on which the model and so many tokens fit."""
    return Capacity(PROCESS + model(tokens))


def gpus(*sizes, host=100 * GB):
    return Capacity(host, {f"CUDA{number}": size for number, size in enumerate(sizes)})


def planned(trained=131072, max_pool=0, spread=False, seen=None, **changes):
    """For a request: of an automatic context, unless `num_ctx` is asked for."""
    spec = replace(AUTOMATIC, is_ctx_automatic="num_ctx" not in changes, **changes)
    sizing = Sizing(seen or Measurements(None, "engine"), max_pool, spread)
    return ModelPlan(replace(MODEL, trained_ctx=trained), spec, sizing)


def sizes(fitted):
    """Context and pool; a pool of 0 has cells for all."""
    return fitted.spec.num_ctx, fitted.spec.kv_pool


# ---- contexts and pools ----


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (10**9,        (32768, 0)),
        (4 * 32768,    (32768, 0)),
        (131071,       (32768, 131072 - 256)),      # in steps
        (33024,        (32768, 33024)),
        (33023,        (32768, 32768)),
        (32768,        (32768, 32768)),             # for one request: rather a large context than many at once
        (32767,        (16384, 16384 + 63 * 256)),
        (16383,        (8192, 8192 + 31 * 256)),
        (2048,         (2048, 2048)),
        (2047,         (2048, 2048)),               # does not fit, and is tried all the same
        (0,            (2048, 2048)),
        (-10**6,       (2048, 2048)),
    ],
)  # fmt: skip
def test_an_automatic_context_is_the_largest_with_a_pool_for_one_then_comes_the_pool(tokens, expected):
    assert sizes(planned().fitted(host(tokens))) == expected


@pytest.mark.parametrize(
    ("trained", "tokens", "expected"),
    [
        (1_000_000, 10**9, (32768, 0)),             # nobody asked for more than 32k
        (4096,      10**9, (4096, 0)),
        (None,      10**9, (FALLBACK_CTX, 0)),
        (None,      4095,  (2048, 2048 + 7 * 256)),
        (512,       10**9, (512, 0)),               # less than the minimum
        (512,       2048,  (512, 0)),
        (512,       2047,  (512, 512 + 5 * 256)),
        (512,       511,   (512, 512)),             # does not fit
        (1,         10**9, (1, 0)),
        (3000,      3256,  (3000, 3256)),           # steps are counted from the context
        (3000,      3255,  (3000, 3000)),
        (3000,      2999,  (2048, 2048 + 3 * 256)), # never halved below the minimum
        (5000,      4999,  (2500, 2500 + 9 * 256)),
        (5000,      2499,  (2048, 2304)),
    ],
)  # fmt: skip
def test_it_is_the_models_own_at_most(trained, tokens, expected):
    assert sizes(planned(trained).fitted(host(tokens))) == expected


@pytest.mark.parametrize(
    ("num_ctx", "slots", "tokens", "expected"),
    [
        (40000, 4, 10**9,  (40000, 0)),             # above what we choose
        (40000, 4, 50000,  (40000, 40000 + 39 * 256)),
        (40000, 4, 40000,  (40000, 40000)),
        (40000, 4, 39999,  (40000, 40000)),         # does not fit
        (40000, 4, -5,     (40000, 40000)),
        (40000, 1, 10**9,  (40000, 0)),             # one request needs no pool
        (40000, 1, 40000,  (40000, 0)),
        (4,     4, 10**9,  (4, 0)),
        (4,     4, 15,     (4, 4)),                 # no step fits between 4 and 16
        (300,   4, 1199,   (300, 300 + 3 * 256)),
        (131072, 4, 131072, (131072, 131072)),
    ],
)  # fmt: skip
def test_a_context_that_was_asked_for_is_kept(num_ctx, slots, tokens, expected):
    assert sizes(planned(num_ctx=num_ctx, slots=slots).fitted(host(tokens))) == expected


@pytest.mark.parametrize(
    ("max_pool", "changes", "expected"),
    [
        (200_000, {},                                  (32768, 0)),
        (131072,  {},                                  (32768, 0)),
        (131071,  {},                                  (32768, 131071)),
        (50000,   {},                                  (32768, 50000)),
        (32768,   {},                                  (32768, 32768)),
        (20000,   {},                                  (20000, 20000)),     # bounds the context that we choose
        (1000,    {},                                  (2048, 2048)),       # but not below the minimum
        (1,       {"trained": 512},                    (512, 512)),
        (1000,    {"trained": 512},                    (512, 1000)),
        (50000,   {"num_ctx": 40000},                  (40000, 50000)),
        (20000,   {"num_ctx": 40000},                  (40000, 40000)),     # nor one that was asked for
        (20000,   {"num_ctx": 40000, "slots": 1},      (40000, 0)),
        (20000,   {"num_ctx": 4096, "pooling": FILE},  (4096, 0)),
        (10000,   {"num_ctx": 4096, "pooling": FILE},  (4096, 0)),          # vectors have cells for all
    ],
)  # fmt: skip
def test_the_operator_bounds_the_pool(max_pool, changes, expected):
    assert sizes(planned(max_pool=max_pool, **changes).fitted(PLENTY)) == expected


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize(
    ("changes", "tokens", "expected"),
    [
        ({},                4 * 32768,     (32768, 0)),
        ({},                4 * 32768 - 1, (16384, 0)),
        ({},                4 * 2048,      (2048, 0)),
        ({},                4 * 2048 - 1,  (2048, 0)),      # does not fit
        ({"trained": 512},  4 * 512,       (512, 0)),
        ({"num_ctx": 8192}, 8192,          (8192, 0)),      # does not fit
    ],
)  # fmt: skip
def test_what_makes_vectors_has_cells_for_all_at_once(pooling, changes, tokens, expected):
    assert sizes(planned(pooling=pooling, **changes).fitted(host(tokens))) == expected


def test_nothing_else_of_the_spec_is_chosen():
    asked = {"num_batch": 7, "num_thread": 3, "use_mmap": False, "adapter_paths": ("/a",), "num_gpu": 5}
    assert planned(**asked).fitted(PLENTY).spec == replace(AUTOMATIC, num_ctx=32768, **asked)


# ---- who makes room ----


@pytest.mark.parametrize(
    ("changes", "at_ease", "at_all"),
    [  # tokens that are enough to be at ease, and to fit
        ({},                                                   4 * 8192,      2048),
        ({"trained": 4096},                                    4 * 4096,      2048),
        ({"trained": 512},                                     4 * 512,       512),
        ({"trained": None},                                    4 * 4096,      2048),
        ({"slots": 1},                                         8192,          2048),
        ({"max_pool": 10000},                                  10000,         2048),
        ({"max_pool": 1000},                                   2048,          2048),
        ({"num_ctx": 4096},                                    4 * 4096,      4096),
        ({"num_ctx": 20000},                                   4 * 8192,      20000),
        ({"num_ctx": 131072},                                  131072,        131072),   # one is enough
        ({"num_ctx": 20000, "max_pool": 10000},                20000,         20000),
        ({"num_ctx": 20000, "max_pool": 25000},                25000,         20000),
        ({"num_ctx": 20000, "slots": 1},                       20000,         20000),
        ({"pooling": LAST},                                    4 * 8192,      4 * 2048),
        ({"pooling": LAST, "num_ctx": 4096},                   4 * 4096,      4 * 4096),
        ({"pooling": LAST, "num_ctx": 20000},                  4 * 20000,     4 * 20000),  # no ease without a place
        ({"pooling": LAST, "num_ctx": 4096, "max_pool": 4096}, 4 * 4096,      4 * 4096),
    ],
)  # fmt: skip
def test_idle_runners_make_room_for_a_comfortable_pool_but_less_will_do(changes, at_ease, at_all):
    plan = planned(**changes)
    assert [plan.is_at_ease(host(tokens)) for tokens in (at_ease - 1, at_ease)] == [False, True]
    assert [plan.fits(host(tokens)) for tokens in (at_all - 1, at_all)] == [False, True]


@pytest.mark.parametrize(
    ("free", "changes", "is_at_ease", "fits"),
    [
        (gpus(model(4 * 8192)),                       {},                           True,  True),
        (gpus(model(4 * 8192), host=PROCESS),         {},                           True,  True),
        (gpus(model(4 * 8192), host=PROCESS - 1),     {},                           False, False),
        (gpus(model(4 * 8192) - 1),                   {},                           False, True),   # in part on the host
        (gpus(0),                                     {},                           False, True),
        (gpus(-GB),                                   {},                           False, True),
        (gpus(2 * GB, host=PROCESS + 3 * GB),         {},                           False, True),
        (gpus(2 * GB, host=PROCESS + 2 * GB),         {},                           False, False),
        (gpus(2 * GB, 6 * GB),                        {},                           True,  True),   # together
        (gpus(2 * GB, 5 * GB),                        {},                           False, True),
        (gpus(8 * GB, 2 * GB),                        {"main_gpu": 1},              False, True),
        (gpus(8 * GB, 2 * GB),                        {"main_gpu": 0},              True,  True),
        (gpus(2 * GB),                                {"num_gpu": 20},              True,  True),   # as it was asked for
        (gpus(2 * GB),                                {"num_gpu": 0},               True,  True),
        (gpus(100 * GB, host=PROCESS),                {"num_gpu": 0},               False, False),
    ],
)  # fmt: skip
def test_to_be_at_ease_gpus_must_hold_it_as_a_whole(free, changes, is_at_ease, fits):
    plan = planned(**changes)
    assert (plan.is_at_ease(free), plan.fits(free)) == (is_at_ease, fits)


# ---- GPUs ----


@pytest.mark.parametrize(
    ("free", "changes", "expected", "devices", "taken"),
    [  # of the host beside the process, and of each GPU
        (gpus(40 * GB),           {},                (32768, 0),         (),         [0, model(131072)]),
        (gpus(model(131071)),     {},                (32768, 130816),    (),         [0, model(130816)]),
        (gpus(8 * GB),            {},                (32768, 39936),     (),         [0, model(39936)]),
        (gpus(8 * GB, host=PROCESS), {},             (32768, 39936),     (),         [0, model(39936)]),
        # Not as a whole: the largest context, but no more cells, which would push layers off the GPU.
        (gpus(6 * GB),            {},                (32768, 32768),     (),         [model(32768) - 6 * GB, 6 * GB]),
        (gpus(6 * GB),            {"num_ctx": 4096}, (4096, 0),          (),         [0, model(4 * 4096)]),
        (gpus(1 * GB),            {"num_ctx": 4096}, (4096, 4096),       (),         [model(4096) - GB, GB]),
        (gpus(1 * GB, host=PROCESS + 4 * GB), {},    (8192, 8192),       (),         [model(8192) - GB, GB]),
        (gpus(0),                 {"num_ctx": 4096}, (4096, 4096),       (),         [model(4096), 0]),
        (gpus(-GB),               {"num_ctx": 4096}, (4096, 4096),       (),         [model(4096), 0]),
        # Two: the roomier one if it holds all with ease, else both.
        (gpus(8 * GB, 24 * GB),   {},                (32768, 0),         ("CUDA1",), [0, model(131072)]),
        (gpus(24 * GB, 8 * GB),   {},                (32768, 0),         ("CUDA0",), [0, model(131072)]),
        (gpus(24 * GB, 8 * GB),   {"spread": True},  (32768, 0),         (),         [0, 12_830_400_000, 4_276_800_000]),
        (gpus(10 * GB, 10 * GB),  {},                (32768, 0),         (),         [0, 8_553_600_000, 8_553_600_000]),
        (gpus(24 * GB, 8 * GB),   {"main_gpu": 1},   (32768, 39936),     ("CUDA1",), [0, model(39936)]),
        (gpus(24 * GB, 8 * GB),   {"main_gpu": 7},   (32768, 0),         ("CUDA0",), [0, model(131072)]),
        # What was asked for decides.
        (gpus(8 * GB),            {"num_gpu": 0},    (32768, 0),         (),         [model(131072)]),
        (gpus(8 * GB, 8 * GB),    {"num_gpu": 0},    (32768, 0),         (),         [model(131072)]),
        (gpus(8 * GB),            {"num_gpu": 99},   (32768, 39936),     (),         [0, model(39936)]),
        (gpus(6 * GB),            {"num_gpu": 20},   (32768, 32768),     (),         [model(32768) - 6 * GB, 6 * GB]),
        (gpus(8 * GB),            {"pooling": LAST}, (32768, 0),         (),         [model(131072) - 8 * GB, 8 * GB]),
    ],
)  # fmt: skip
def test_where_it_goes_and_what_it_takes_there(free, changes, expected, devices, taken):
    fitted = planned(**changes).fitted(free)
    assert sizes(fitted) == expected
    assert fitted.spec.devices == devices
    assert [fitted.taken.host - PROCESS, *fitted.taken.gpus.values()] == taken


# ---- what was measured ----


def seen(*loads, **changes):
    """What runners of these pools took."""
    measurements = Measurements(None, "engine")
    for tokens, need in loads:
        measurements.record(replace(AUTOMATIC, kv_pool=tokens, **changes), need)
    return measurements


LESS = seen((32768, Need(PROCESS + model(32768) - GB, 0)))
MORE = seen((32768, Need(PROCESS + model(32768) + GB, 0)))
ON_GPU = seen((32768, Need(GB, model(32768) - GB)))
GB_OF_TOKENS = GB // TOKEN


@pytest.mark.parametrize(
    ("measured", "tokens", "expected"),
    [
        (LESS, 32768 - GB_OF_TOKENS,         (32768, 32768)),
        (LESS, 32768 - GB_OF_TOKENS - 1,     (16384, 16384 + 63 * 256)),
        (LESS, 32768 - GB_OF_TOKENS + 256,   (32768, 33024)),           # more cells take what they are estimated to
        (LESS, 131072 - GB_OF_TOKENS,        (32768, 0)),
        (MORE, 32768 + GB_OF_TOKENS - 1,     (16384, 16384 + 63 * 256)),
        (MORE, 32768 + GB_OF_TOKENS,         (32768, 32768)),
        (MORE, 2048 + GB_OF_TOKENS,          (2048, 2048)),
        (seen((32768, Need(1, 0)), num_batch=7), 32768, (32768, 32768)),  # that was another runner
    ],
)  # fmt: skip
def test_what_was_measured_counts_and_only_its_difference_is_estimated(measured, tokens, expected):
    assert sizes(planned(seen=measured).fitted(host(tokens))) == expected


@pytest.mark.parametrize(
    ("free", "taken"),
    [
        (gpus(model(32768) - GB, host=GB), Capacity(GB, {"CUDA0": model(32768) - GB})),
        (gpus(5 * GB, host=10 * GB),       Capacity(GB + model(32768) - 6 * GB, {"CUDA0": 5 * GB})),
        (Capacity(model(32768)),           Capacity(model(32768))),       # the GPU is gone
    ],
)  # fmt: skip
def test_what_was_measured_is_taken(free, taken):
    assert planned(seen=ON_GPU, slots=4).fitted(free).taken == taken


def test_what_a_gpu_held_the_host_holds_at_ease_once_there_is_no_gpu():
    plan = planned(seen=ON_GPU)
    assert [plan.is_at_ease(Capacity(model(32768) - less)) for less in (1, 0)] == [False, True]
    assert sizes(plan.fitted(Capacity(10**15))) == (32768, 0)


# ---- refusals ----


@pytest.mark.parametrize(
    ("free", "changes", "words"),
    [
        (host(2047), {}, "system memory (4.3 GB with num_ctx 2048) than is available (4.3 GB)"),
        (Capacity(GB), {}, "system memory (4.3 GB with num_ctx 2048) than is available (1 GB)"),
        (Capacity(-GB), {}, "system memory (4.3 GB with num_ctx 2048) than is available (0 B)"),
        (Capacity(GB), {"num_ctx": 40000}, "system memory (8.1 GB with num_ctx 40000) than is available (1 GB)"),
        (host(20000), {"num_ctx": 40000},
         "system memory (8.1 GB with num_ctx 40000) than is available (6.1 GB); num_ctx 19968 would fit"),
        (host(255), {"num_ctx": 300}, "system memory (4.1 GB with num_ctx 300) than is available (4.1 GB)"),
        (host(256), {"num_ctx": 300},
         "system memory (4.1 GB with num_ctx 300) than is available (4.1 GB); num_ctx 256 would fit"),
        (host(20000), {"num_ctx": 8192, "pooling": FILE},          # four times as many cells
         "system memory (7.3 GB with num_ctx 8192) than is available (6.1 GB); num_ctx 4864 would fit"),
        (gpus(2 * GB, host=3 * GB), {"num_ctx": 40000},
         "memory (8.1 GB with num_ctx 40000) than is available (5 GB); num_ctx 9216 would fit"),
        (gpus(2 * GB, 9 * GB, host=3 * GB), {"num_ctx": 40000, "main_gpu": 0},   # the other may not help
         "memory (8.1 GB with num_ctx 40000) than is available (5 GB); num_ctx 9216 would fit"),
        (gpus(-2 * GB, host=3 * GB), {"num_ctx": 40000},           # what others took of a GPU is not ours to give
         "system memory (8.1 GB with num_ctx 40000) than is available (3 GB)"),
        (gpus(20 * GB, host=3 * GB), {"num_gpu": 0}, "system memory (4.3 GB with num_ctx 2048) than is available (3 GB)"),
        (Capacity(GB), {"seen": MORE}, "system memory (5.3 GB with num_ctx 2048) than is available (1 GB)"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_needed_what_there_is_and_what_would_fit(free, changes, words):
    plan = planned(**changes)
    assert not plan.fits(free)
    refusal = plan.refusal(free)
    assert str(refusal) == f"model requires more {words}"
    assert refusal.reason is LoadFailure.OUT_OF_MEMORY


# ---- after the engine ran out of memory ----


@pytest.mark.parametrize(
    ("changes", "loaded", "expected"),
    [  # (num_ctx, kv_pool)
        ({},                  (32768, 0),     (16384, 0)),
        ({},                  (32768, 40000), (16384, 20000)),
        ({},                  (32768, 32768), (16384, 16384)),
        ({},                  (3000, 0),      (2048, 6000)),
        ({},                  (3000, 3000),   (2048, 2048)),
        ({},                  (2048, 0),      (2048, 2048)),    # cells for one
        ({},                  (2048, 3000),   (2048, 2048)),
        ({},                  (2048, 2048),   None),
        ({},                  (512, 0),       (512, 512)),
        ({"slots": 1},        (4096, 0),      (2048, 0)),
        ({"slots": 1},        (2048, 0),      None),
        ({"num_ctx": 40000},  (40000, 0),     (40000, 40000)),  # that was asked for
        ({"num_ctx": 40000},  (40000, 50000), (40000, 40000)),
        ({"num_ctx": 40000},  (40000, 40000), None),
        ({"pooling": FILE},   (32768, 0),     (16384, 0)),
        ({"pooling": FILE},   (3000, 0),      (2048, 0)),
        ({"pooling": FILE},   (2048, 0),      None),
        ({"pooling": FILE, "num_ctx": 40000}, (40000, 0), None),
    ],
)  # fmt: skip
def test_with_too_little_memory_the_context_is_halved_or_the_pool_is_for_one(changes, loaded, expected):
    plan = planned(**changes)
    num_ctx, kv_pool = loaded
    spec = replace(plan.spec, num_ctx=num_ctx, kv_pool=kv_pool, devices=("CUDA1",))
    smaller = plan.smaller(spec)
    assert (smaller and sizes(smaller)) == expected
    if smaller:
        assert smaller.spec == replace(spec, num_ctx=expected[0], kv_pool=expected[1])
        assert smaller.taken.total == PROCESS + model(smaller.spec.pool)


# ---- two clients of one model ----


def asked(num_ctx, pooling=None, is_automatic=False, kv_pool=0):
    spec = replace(AUTOMATIC, num_ctx=num_ctx, pooling=pooling, kv_pool=kv_pool)
    return replace(spec, is_ctx_automatic=is_automatic)


def ours(num_ctx, pooling=None, kv_pool=0):
    """A context that we chose."""
    return asked(num_ctx, pooling, is_automatic=True, kv_pool=kv_pool)


def joined(wanted, replaced, **sizing):
    return ModelPlan(MODEL, wanted, Sizing(Measurements(None, "engine"), **sizing)).joined(replaced)


@pytest.mark.parametrize(
    ("wanted", "replaced", "expected"),
    [
        (asked(16384),      asked(4096),             asked(16384)),
        (asked(16384),      asked(4096, FILE),       asked(16384, FILE)),
        (asked(4096, LAST), asked(16384),            asked(16384, LAST)),
        (asked(4096, LAST), asked(16384, kv_pool=9), asked(16384, LAST)),      # how many cells it had is no matter
        (asked(16384),      ours(8192),              ours(16384)),             # both are served: who asked, who did not
        (asked(4096, LAST), ours(32768),             ours(32768, LAST)),
        (asked(65536),      ours(32768),             ours(65536)),
        (ours(8192),        asked(4096),             ours(32768)),             # so the context is still ours to choose
        (ours(8192),        asked(4096, FILE),       ours(32768, FILE)),
        (ours(8192),        asked(65536),            ours(65536)),
        (ours(8192, LAST),  asked(65536),            ours(65536, LAST)),
        (ours(8192, LAST),  ours(16384),             ours(16384, LAST)),       # as large as the other had it
        (ours(8192, LAST),  ours(4096),              ours(32768, LAST)),
        (asked(4096, LAST), asked(4096, FILE),       asked(4096, LAST)),       # there is one way to pool
    ],
)  # fmt: skip
def test_a_runner_that_replaces_another_serves_that_ones_clients_too(wanted, replaced, expected):
    assert joined(wanted, replaced).fitted(PLENTY).spec == expected


@pytest.mark.parametrize(
    "other",
    [{"num_batch": 7}, {"slots": 2}, {"num_gpu": 3}, {"use_mmap": False}, {"model_path": "/other"},
     {"kv_cache_type": "q8_0"}],
)  # fmt: skip
def test_of_a_runner_that_differs_in_more_nothing_is_kept(other):
    plan = planned(num_ctx=16384)
    assert plan.joined(replace(asked(65536, LAST), **other)) is plan


@pytest.mark.parametrize(
    ("wanted", "replaced", "tokens", "expected"),
    [
        (asked(16384),      ours(8192, FILE), 4 * 16384,     ours(16384, FILE)),
        (asked(16384),      ours(8192, FILE), 4 * 16384 - 1, asked(16384, kv_pool=16384 + 191 * 256)),
        (asked(16384),      ours(8192, FILE), 16384,         asked(16384, kv_pool=16384)),
        (asked(4096),       asked(65536),     65535,         asked(4096)),
        (ours(8192),        asked(4096, FILE), 4 * 2048 - 1, ours(4096, kv_pool=4096 + 15 * 256)),
        # One that shared few cells had a larger context than one that makes vectors can have.
        (ours(8192, LAST),  ours(32768, kv_pool=40000), 40000, ours(8192, LAST)),
        (ours(8192, LAST),  asked(32768, kv_pool=40000), 40000, ours(8192, LAST)),
        (asked(4096, LAST), ours(32768, kv_pool=40000), 40000, asked(4096, LAST)),
    ],
)  # fmt: skip
def test_where_there_is_no_room_for_both_a_request_gets_what_it_asked_for(wanted, replaced, tokens, expected):
    plan = joined(wanted, replaced)
    assert plan.fits(host(tokens))
    assert plan.fitted(host(tokens)).spec == expected


def test_room_is_made_for_both():
    plan = joined(asked(4096, LAST), ours(16384))
    assert [plan.is_at_ease(host(tokens)) for tokens in (4 * 16384 - 1, 4 * 16384)] == [False, True]


def test_a_refusal_speaks_of_what_was_asked_for_and_not_of_what_was_joined():
    plan = joined(asked(16384), asked(65536, LAST))
    assert not plan.fits(host(16383))
    assert "with num_ctx 16384)" in str(plan.refusal(host(16383)))
    assert "; num_ctx 16128 would fit" in str(plan.refusal(host(16383)))


def test_a_third_client_is_joined_as_well():
    plan = joined(asked(4096), asked(8192, LAST)).joined(asked(16384, LAST))
    assert plan.fitted(PLENTY).spec == asked(16384, LAST)
    assert plan.fitted(host(4 * 4096)).spec == asked(4096)


def test_nor_does_a_third_client_make_less_of_what_was_asked_for():
    plan = joined(asked(16384), ours(8192)).joined(ours(32768))
    once = plan.smaller(plan.fitted(PLENTY).spec)
    assert sizes(once) == (16384, 0)
    assert sizes(plan.smaller(once.spec)) == (16384, 16384)


@pytest.mark.parametrize(
    ("wanted", "replaced", "contexts"),
    [
        (asked(16384), ours(32768), [(16384, 0), (16384, 16384)]),  # not below what was asked for
        (asked(20000), ours(32768), [(20000, 65536), (20000, 20000)]),
        (asked(32768), ours(8192), [(32768, 32768)]),
        (ours(8192), asked(16384), [(8192, 0), (4096, 0), (2048, 0), (2048, 2048)]),
        (asked(4096, LAST), ours(8192), [(4096, 0)]),
    ],
)
def test_with_too_little_memory_the_others_wishes_go_first(wanted, replaced, contexts):
    plan = joined(wanted, replaced)
    loaded, tried = plan.fitted(PLENTY), []
    while loaded := plan.smaller(loaded.spec):
        tried.append(sizes(loaded))
    assert tried == contexts


# ---- for every model, request and machine ----

tokens_or_all = st.just(0) | st.integers(1, 200_000)
footprints = st.builds(
    Footprint,
    weights=st.integers(0, 10 * GB),
    kv_elements=st.integers(0, 50_000),
    vocabulary=st.integers(0, 10**6),
    width=st.integers(0, 10**4),
    trained_ctx=st.none() | st.integers(1, 10**6),
    window_elements=st.integers(0, 50_000),
    window=st.integers(0, 10**4),
)
requests = st.builds(
    LoadSpec,
    model_path=st.just(BLOB),
    num_ctx=st.integers(4, 200_000),
    is_ctx_automatic=st.booleans(),
    slots=st.integers(1, 8),
    num_gpu=st.sampled_from([-1, 0, 20]),
    main_gpu=st.none() | st.integers(0, 3),
    pooling=st.none() | st.sampled_from(Pooling),
)
needs = st.builds(Need, st.integers(1, 10 * GB), st.integers(0, 10 * GB))


@st.composite
def plans(draw):
    """Of a model that was never loaded, or once."""
    spec, measurements = draw(requests), Measurements(None, "engine")
    if draw(st.booleans()):
        measurements.record(replace(spec, kv_pool=draw(st.integers(1, 200_000))), draw(needs))
    return ModelPlan(draw(footprints), spec, Sizing(measurements, draw(tokens_or_all), draw(st.booleans())))


capacities = st.builds(
    lambda host, free: gpus(*free, host=host),
    st.integers(-GB, 100 * GB),
    st.lists(st.integers(-GB, 50 * GB), max_size=3),
)


def order(fitted):
    return fitted.spec.num_ctx, fitted.spec.pool


@given(plans(), capacities)
def test_no_more_is_taken_than_is_free_if_it_fits(plan, free):
    for room in (free, plan.fitted(free).taken):  # the second has nothing to spare
        taken = plan.fitted(room).taken
        has_room = all(size <= max(0, room.gpus[name]) for name, size in taken.gpus.items())
        assert plan.fits(room) <= (has_room and taken.host <= room.host)


@given(plans(), capacities)
def test_a_pool_has_cells_for_one_at_least_and_for_all_at_most(plan, free):
    spec, max_pool = plan.fitted(free).spec, plan.sizing.max_pool
    assert spec.num_ctx <= spec.pool <= spec.slots * spec.num_ctx
    assert spec.is_pool_short == bool(spec.kv_pool)  # cells for all have one name
    assert spec.pooling is None or not spec.kv_pool
    assert spec.pooling or not max_pool or spec.pool <= max(spec.num_ctx, max_pool)


@given(plans(), capacities)
def test_what_is_loaded_serves_the_request(plan, free):
    spec = plan.fitted(free).spec
    assert spec.serves(plan.spec)
    assert spec.num_ctx == plan.spec.num_ctx or plan.spec.is_ctx_automatic


@given(plans(), capacities, st.data())
def test_more_memory_never_gives_less(plan, free, data):
    more = Capacity(data.draw(st.integers(0, GB)), {name: data.draw(st.integers(0, GB)) for name in free.gpus})
    assert plan.fits(free) <= plan.fits(free + more)
    assert plan.is_at_ease(free) <= plan.is_at_ease(free + more)
    assert order(plan.fitted(free)) <= order(plan.fitted(free + more))


@given(plans(), capacities)
def test_what_is_at_ease_fits(plan, free):
    assert plan.is_at_ease(free) <= plan.fits(free)


@given(plans(), capacities)
def test_a_context_that_a_refusal_advises_would_fit(plan, free):
    advice = re.search(r"; num_ctx (\d+) would fit$", str(plan.refusal(free)))
    if advice and not plan.fits(free):
        num_ctx = int(advice[1])
        assert replace(plan, spec=replace(plan.spec, num_ctx=num_ctx)).fits(free)
        assert num_ctx < plan.spec.num_ctx
        assert num_ctx % POOL_STEP == 0


@given(plans(), capacities)
def test_the_engines_failures_end_in_what_serves_the_request(plan, free):
    loaded: Fitted | None = plan.fitted(free)
    while smaller := plan.smaller(loaded.spec):
        assert smaller.spec.serves(plan.spec)
        assert order(smaller) < order(loaded)
        loaded = smaller


@given(plans(), requests, st.data())
def test_a_joined_plan_fits_where_it_did_alone_and_serves_the_request(plan, other, data):
    alike = ("num_ctx", "is_ctx_automatic", "pooling")
    both = plan.joined(replace(plan.spec, **{name: getattr(other, name) for name in alike}))
    free = data.draw(capacities)
    assert plan.fits(free) <= both.fits(free)
    assert both.is_at_ease(free) <= both.fits(free)
    loaded = both.fitted(free)
    assert loaded.spec.serves(plan.spec)
    while loaded := both.smaller(loaded.spec):
        assert loaded.spec.serves(plan.spec)
