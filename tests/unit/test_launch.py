"""What starts an engine: the tables are complete, the engine knows each name in them, and no secret gets through."""

import dataclasses

import pytest
import xllamacpp

from a3s_power.environment import child_environment
from a3s_power.runner.base import Drafting, LoadSpec, Pooling
from a3s_power.runner.cores import Cores
from a3s_power.runner.host import _assign
from a3s_power.runner.launch import BINARY, LIBRARY, binary_argv, engine_environment, library_params

CORES = Cores(6, 700)
PLAIN = LoadSpec("/m")
DRAFTED = LoadSpec("/m", draft_path="/d/raft", draft_num_predict=4)
RICH = LoadSpec(
    "/rich", ("/p",), ("/a", "/b"), num_ctx=1024, slots=3, kv_pool=2048, num_batch=64, num_gpu=7, main_gpu=1,
    devices=("CUDA1",), use_mmap=False, num_thread=5, kv_cache_type="q8_0", flash_attention=True, pooling=Pooling.LAST,
    draft_path="/d", draft_num_predict=5, drafting=Drafting.MTP,
)  # fmt: skip
NO_MATTER = {"is_ctx_automatic"}  # to the engine: it says who chose, not what
FIELDS = {field.name for field in dataclasses.fields(LoadSpec)} - NO_MATTER


def test_every_field_of_a_spec_has_its_row_in_both_tables():
    assert set(LIBRARY) == set(BINARY) == FIELDS


@pytest.mark.parametrize("name", sorted(FIELDS - {"slots", "num_ctx"}))
def test_each_field_reaches_the_engine_by_its_own_row(name):
    changed = dataclasses.replace(DRAFTED, **{name: getattr(RICH, name)})
    assert LIBRARY[name](changed) != LIBRARY[name](DRAFTED)
    assert BINARY[name](changed) != BINARY[name](DRAFTED)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"model.path": "/m", "n_ctx": 4096, "kv_unified_per_slot": 4096, "n_parallel": 1, "kv_unified": True}),
        ({"num_ctx": 100, "slots": 3}, {"n_ctx": 300, "kv_unified_per_slot": 100, "n_parallel": 3, "n_threads_http": 7}),
        ({}, {"n_gpu_layers": -1, "fit_params": True, "flash_attn_type": "LLAMA_FLASH_ATTN_TYPE_AUTO"}),
        ({"num_gpu": 0}, {"n_gpu_layers": 0, "fit_params": False}),
        ({"main_gpu": 0}, {"main_gpu": 0, "split_mode": "LLAMA_SPLIT_MODE_NONE"}),
        ({"devices": ("CUDA1",)}, {"main_gpu": 1, "split_mode": "LLAMA_SPLIT_MODE_NONE"}),
        ({"devices": ("ROCm12",), "main_gpu": 0}, {"main_gpu": 12}),
        ({"devices": ("Metal",)}, {"main_gpu": 0}),
        ({"use_mmap": False}, {"load_mode": "LLAMA_LOAD_MODE_NONE"}),
        ({"flash_attention": False}, {"flash_attn_type": "LLAMA_FLASH_ATTN_TYPE_DISABLED"}),
        ({"kv_cache_type": "q8_0"}, {"cache_type_k": "GGML_TYPE_Q8_0", "cache_type_v": "GGML_TYPE_Q8_0"}),
        ({"pooling": Pooling.FILE}, {"embedding": True}),
        ({"pooling": Pooling.LAST}, {"embedding": True, "pooling_type": "LLAMA_POOLING_TYPE_LAST"}),
        ({"num_thread": 3}, {"cpuparams.n_threads": 3, "cpuparams_batch.n_threads": 3}),
        ({}, {"cpuparams.n_threads": CORES.threads, "cache_ram_mib": 0, "offline": True, "ui": False}),
    ],
)  # fmt: skip
def test_a_spec_becomes_parameters_of_the_library(changes, expected):
    params = library_params(dataclasses.replace(PLAIN, **changes), CORES)
    assert expected.items() <= params.items()


@pytest.mark.parametrize(
    "absent", ["main_gpu", "split_mode", "load_mode", "mmproj.path", "lora_adapters", "embedding", "pooling_type"]
)
def test_what_nobody_asked_for_is_left_to_the_engine(absent):
    assert absent not in library_params(PLAIN, CORES)


def test_several_devices_are_all_that_the_library_has():
    params = library_params(dataclasses.replace(PLAIN, devices=("CUDA0", "CUDA1"), main_gpu=7), CORES)
    assert {"main_gpu", "split_mode"} & set(params) == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"main_gpu": 1}, ["--main-gpu", "1", "--split-mode", "none"]),
        ({"devices": ("CUDA1",)}, ["--device", "CUDA1"]),
        ({"devices": ("CUDA1",), "main_gpu": 1}, ["--device", "CUDA1"]),  # where it would be one of one
        ({"devices": ("CUDA0", "CUDA1")}, ["--device", "CUDA0,CUDA1"]),
        ({}, []),
    ],
)
def test_the_binary_is_given_its_devices_by_name(changes, expected):
    spec = dataclasses.replace(PLAIN, **changes)
    assert BINARY["main_gpu"](spec) + BINARY["devices"](spec) == expected


def test_a_file_s_own_pooling_is_left_to_the_engine():
    spec = dataclasses.replace(PLAIN, pooling=Pooling.FILE)
    assert "pooling_type" not in library_params(spec, CORES)
    assert BINARY["pooling"](spec) == ["--embedding"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"mparams.path": "/d/raft", "n_max": 4, "n_gpu_layers": -1, "cache_type_k": "GGML_TYPE_F16"}),
        ({"draft_num_predict": 9}, {"n_max": 9}),
        ({"num_gpu": 0}, {"n_gpu_layers": 0}),                          # it lies where the model lies
        ({"kv_cache_type": "q8_0"}, {"cache_type_k": "GGML_TYPE_Q8_0", "cache_type_v": "GGML_TYPE_Q8_0"}),
        ({"num_thread": 3}, {"cpuparams.n_threads": 3, "cpuparams_batch.n_threads": 3}),
        ({}, {"cpuparams.n_threads": CORES.threads}),                   # and not one for each logical core
    ],
)  # fmt: skip
def test_a_draft_is_loaded_like_its_model(changes, expected):
    params = library_params(dataclasses.replace(DRAFTED, **changes), CORES)
    assert {f"speculative.draft.{name}": value for name, value in expected.items()}.items() <= params.items()


@pytest.mark.parametrize("drafting", Drafting)
def test_the_engine_knows_every_way_of_drafting(drafting):
    params = library_params(dataclasses.replace(DRAFTED, drafting=drafting), CORES)
    common = xllamacpp.CommonParams()
    _assign(common, "speculative.types", params["speculative.types"])
    assert [kind.name for kind in common.speculative.types] == params["speculative.types"]


def test_without_a_draft_nothing_is_said_of_one():
    assert not [name for name in library_params(PLAIN, CORES) if "speculative" in name]
    assert not [arg for arg in binary_argv(PLAIN, "/s", CORES) if "spec" in arg]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"num_gpu": 0}, ["--spec-draft-ngl", "0"]),
        ({"devices": ("CUDA0", "CUDA1")}, ["--spec-draft-device", "CUDA0,CUDA1"]),
    ],
)
def test_a_draft_of_the_binary_lies_where_the_model_lies(changes, expected):
    kv = ["--spec-draft-type-k", "f16", "--spec-draft-type-v", "f16"]
    argv = BINARY["draft_path"](dataclasses.replace(DRAFTED, **changes))
    assert argv == ["--spec-draft-model", "/d/raft", *kv, *expected]


@pytest.mark.parametrize("spec", [PLAIN, RICH, DRAFTED], ids=["plain", "rich", "drafted"])
def test_the_engine_knows_every_parameter_and_every_name_of_a_value(spec):
    common = xllamacpp.CommonParams()
    params = library_params(spec, CORES)
    params.pop("lora_adapters", None)  # objects, which the host makes
    for path, value in params.items():
        _assign(common, path, value)  # AttributeError or KeyError for one that is not there
        found = common
        for name in path.split("."):
            found = getattr(found, name)
        members = [getattr(each, "name", each) for each in (found if isinstance(found, list) else [found])]
        assert members == (value if isinstance(value, list) else [value])


@pytest.mark.parametrize("kv_cache_type", ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"])
def test_the_engine_knows_every_type_of_kv_cache(kv_cache_type):
    spec = dataclasses.replace(PLAIN, kv_cache_type=kv_cache_type)
    _assign(xllamacpp.CommonParams(), "cache_type_k", library_params(spec, CORES)["cache_type_k"])


def test_a_spec_becomes_arguments_of_the_binary():
    assert binary_argv(RICH, "/s.sock", CORES) == [
        "--host", "/s.sock", "--offline", "--no-webui", "--jinja", "--cache-ram", "0", "--log-verbosity", "2",
        "--model", "/rich", "--mmproj", "/p", "--lora", "/a", "--lora", "/b",
        "--parallel", "3", "--threads-http", "7", "--ctx-size", "2048", "--kv-unified",
        "--batch-size", "64", "--ubatch-size", "64", "--n-gpu-layers", "7", "--device", "CUDA1",
        "--no-mmap", "--threads", "5", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "--flash-attn", "on",
        "--embedding", "--pooling", "last", "--spec-draft-model", "/d", "--spec-draft-type-k", "q8_0",
        "--spec-draft-type-v", "q8_0", "--spec-draft-ngl", "7", "--spec-draft-device", "CUDA1", "--spec-draft-n-max", "5",
        "--spec-type", "draft-mtp",
    ]  # fmt: skip


def test_zero_layers_on_the_gpu_is_told_and_automatic_is_not():
    assert BINARY["num_gpu"](dataclasses.replace(PLAIN, num_gpu=0)) == ["--n-gpu-layers", "0"]
    assert BINARY["num_gpu"](PLAIN) == []


@pytest.mark.parametrize(("num_thread", "expected"), [(0, 6), (3, 3)])
def test_threads_are_those_asked_for_or_else_the_machine_s(num_thread, expected):
    spec = dataclasses.replace(PLAIN, num_thread=num_thread)
    params, argv = library_params(spec, Cores(6, 700)), binary_argv(spec, "/s", Cores(6, 700))
    assert params["cpuparams.n_threads"] == params["cpuparams_batch.n_threads"] == expected
    assert argv[argv.index("--threads") + 1] == str(expected)


# ---- the child's environment ----


def test_an_engine_spins_as_the_machine_has_it():
    assert engine_environment(Cores(6, 700))["GOMP_SPINCOUNT"] == "700"
    assert engine_environment(Cores.default())["GOMP_SPINCOUNT"] == "1000"


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
     "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION", "GGML_VK_VISIBLE_DEVICES", "LLAMA_ARG_FIT"],
)  # fmt: skip
def test_a_child_sees_what_an_engine_needs(name):
    assert child_environment({name: "x"}) == {name: "x"}


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN",
     "LLAMA_API_KEY", "A3S_POWER_API_KEYS", "A3S_POWER_HOME", "OLLAMA_HOST", "HTTPS_PROXY", "LD_PRELOAD", "PYTHONPATH",
     "PYTHONSTARTUP", "XPATH", "path", "PATHS", "XCUDA_"],
)  # fmt: skip
def test_a_child_sees_no_secret_and_nothing_that_changes_what_it_runs(name):
    assert child_environment({name: "secret"}) == {}


def test_what_we_set_ourselves_wins():
    assert child_environment({"PATH": "theirs"}, {"PATH": "ours", "GOMP_SPINCOUNT": "1"}) == {
        "PATH": "ours",
        "GOMP_SPINCOUNT": "1",
    }


def test_every_engine_has_a_picture_marker_that_nobody_can_guess():
    markers = {engine_environment(Cores.default())["LLAMA_MEDIA_MARKER"] for _ in range(9)}
    assert len(markers) == 9
    assert all(len(marker) >= 32 for marker in markers)
