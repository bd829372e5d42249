"""The contract in `runner/base.py`, on the real engine and on the real runner with a fake `llama-server`."""

import os
import resource
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio
import pytest

from a3s_power.errors import ContextExceeded, EngineRejected, LoadFailed, LoadFailure, RunnerFailed, RunnerLost
from a3s_power.generation import Done, FinishReason, Text
from a3s_power.messages import Message
from a3s_power.options import SamplingOptions
from a3s_power.runner.base import ChatPrompt, LoadSpec, Sampling
from tests.support.engines import fake_engine, family_of, real_engine, wait_until_gone

pytestmark = pytest.mark.anyio

GREEDY = SamplingOptions(temperature=0.0)
ENDLESS = Sampling(GREEDY)


@dataclass
class Kind:
    """An engine to be held to the contract, and prompts that make it do what a case needs."""

    engine: object
    spec: LoadSpec
    short: str
    endless: str
    too_long: str


@pytest.fixture(params=["fake", "real"])
def kind(request, tmp_path_factory, short_tmp):
    if request.param == "fake":
        return Kind(fake_engine(short_tmp), LoadSpec("/nowhere.gguf"), "say:one| two", "forever", "long:4001")
    gguf = request.getfixturevalue("smollm2_gguf")
    spec = LoadSpec(str(gguf), num_ctx=256, slots=2)
    return Kind(real_engine(short_tmp), spec, "Once upon a time", "Once upon a time", "hello " * 400)


async def collect(stream):
    async with stream as events:
        return [event async for event in events]


def nothing_left(folder):
    return [path.name for path in folder.iterdir()] == []


async def test_a_runner_serves_and_leaves_nothing(kind, short_tmp):
    progress = []
    async with kind.engine.start(kind.spec, progress.append) as runner:
        events = await collect(runner.complete(kind.short, Sampling(GREEDY, max_tokens=4)))
        processes = family_of(runner.pid)
    assert all(isinstance(event, Text) for event in events[:-1])
    assert isinstance(events[-1], Done)
    assert events[-1].usage.completion_tokens >= 2
    assert progress == sorted(progress)
    assert progress[-1] > 0
    assert wait_until_gone(processes, 0) == []
    assert nothing_left(short_tmp)


async def test_a_chat_ends_with_one_done(kind):
    async with kind.engine.start(kind.spec) as runner:
        prompt = ChatPrompt((Message("user", kind.short),))
        events = await collect(runner.chat(prompt, Sampling(GREEDY, max_tokens=2)))
    assert "".join(event.text for event in events[:-1])
    assert [type(event) for event in events].count(Done) == 1
    assert events[-1].finish_reason is FinishReason.LENGTH


async def test_a_prompt_that_is_too_long_is_refused_before_any_event(kind):
    async with kind.engine.start(kind.spec) as runner:
        with pytest.raises(ContextExceeded) as refused:
            await collect(runner.complete(kind.too_long, Sampling(GREEDY)))
        assert refused.value.prompt_tokens > refused.value.num_ctx
        assert await collect(runner.complete(kind.short, Sampling(GREEDY, max_tokens=1)))  # and goes on


async def test_leaving_early_stops_the_generation(kind):
    async with kind.engine.start(kind.spec) as runner, AsyncExitStack() as stack:
        for _ in range(kind.spec.slots * 3):  # more than could be served if those left behind went on
            events = await stack.enter_async_context(runner.complete(kind.endless, ENDLESS))
            assert isinstance(await anext(events), Text)
            await stack.aclose()


async def test_a_runner_that_is_killed_fails_its_requests_and_wait_exit_returns(kind):
    async with kind.engine.start(kind.spec) as runner:
        with pytest.raises(RunnerFailed, match="unexpectedly stopped"):
            async with runner.complete(kind.endless, ENDLESS) as events:
                await anext(events)
                os.killpg(runner.pid, signal.SIGKILL)
                async for _ in events:
                    pass
        with anyio.fail_after(10):
            await runner.wait_exit()
        with pytest.raises(RunnerFailed):
            await collect(runner.complete(kind.short, ENDLESS))


async def test_cancelling_a_load_leaves_nothing(kind, short_tmp):
    with anyio.CancelScope() as scope:

        def cancel_at_first_sign(_resident: int) -> None:
            scope.cancel()

        async with kind.engine.start(kind.spec, cancel_at_first_sign):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert nothing_left(short_tmp)


async def test_cancelling_in_the_middle_of_a_stream_leaves_nothing(kind, short_tmp):
    with anyio.CancelScope() as scope:
        async with kind.engine.start(kind.spec) as runner:
            processes = family_of(runner.pid)
            async with runner.complete(kind.endless, ENDLESS) as events:
                async for _ in events:
                    scope.cancel()
    assert wait_until_gone(processes, 0) == []
    assert nothing_left(short_tmp)


# ---- what only a scripted engine can be made to do ----


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("0.1 E llama_model_load: error loading model: unknown model architecture: 'x'", LoadFailure.UNSUPPORTED_ARCHITECTURE),
        ("E ggml_backend_cuda: cudaMalloc failed: out of memory", LoadFailure.OUT_OF_MEMORY),
        ("E llama_init_from_model: failed to allocate buffer for kv cache", LoadFailure.CONTEXT_TOO_LARGE),
        ("E error loading model: tensor 'a' data is not within the file bounds", LoadFailure.CORRUPT_FILE),
        ("ImportError: libgomp.so.1: cannot open shared object file", LoadFailure.MISSING_LIBRARY),
        ("something nobody has seen before failed", LoadFailure.OTHER),
        ("", LoadFailure.OTHER),
    ],
)  # fmt: skip
async def test_an_engine_s_last_words_become_a_reason(short_tmp, words, reason):
    engine = fake_engine(short_tmp, last_words=words or " ")
    with pytest.raises(LoadFailed) as failed:
        async with engine.start(LoadSpec("/nowhere.gguf")):
            pass
    assert failed.value.reason is reason
    assert nothing_left(short_tmp)


async def test_a_load_that_stands_still_times_out(short_tmp):
    engine = fake_engine(short_tmp, stuck=True, load_timeout_s=1.0)
    with pytest.raises(LoadFailed) as failed:
        async with engine.start(LoadSpec("/nowhere.gguf")):
            pass
    assert failed.value.reason is LoadFailure.TIMED_OUT


async def test_an_engine_that_ignores_sigterm_is_killed(short_tmp, monkeypatch):
    monkeypatch.setattr("a3s_power.runner.process.GRACE_S", 0.2)
    async with fake_engine(short_tmp, ignore_term=True).start(LoadSpec("/nowhere.gguf")) as runner:
        processes = family_of(runner.pid)
    assert wait_until_gone(processes) == []


async def test_what_the_engine_refuses_keeps_its_status(short_tmp):
    async with fake_engine(short_tmp).start(LoadSpec("/nowhere.gguf")) as runner:
        with pytest.raises(EngineRejected, match="refused as told") as refused:
            await collect(runner.complete("refuse:418", ENDLESS))
    assert refused.value.status == 418


@pytest.mark.parametrize("chat", [False, True])
async def test_an_error_in_the_stream_comes_after_what_was_said(short_tmp, chat):
    async with fake_engine(short_tmp).start(LoadSpec("/nowhere.gguf")) as runner:
        seen = []
        with pytest.raises(EngineRejected, match="broke as told"):
            prompt = ChatPrompt((Message("user", "break:3"),))
            async with runner.chat(prompt, ENDLESS) if chat else runner.complete("break:3", ENDLESS) as events:
                async for event in events:
                    seen.append(event)  # noqa: PERF401
    assert [event.text for event in seen] == [" tok0", " tok1", " tok2"]


async def test_an_engine_that_dies_in_the_middle_is_told_as_such(short_tmp):
    async with fake_engine(short_tmp).start(LoadSpec("/nowhere.gguf")) as runner:
        with pytest.raises(RunnerFailed, match="unexpectedly stopped"):
            await collect(runner.complete("die:2", ENDLESS))


async def test_a_connection_that_breaks_is_no_end_of_the_runner(short_tmp):
    async with fake_engine(short_tmp).start(LoadSpec("/nowhere.gguf")) as runner:
        with pytest.raises(RunnerFailed, match="the connection to the engine broke") as broken:
            await collect(runner.complete("hangup:2", ENDLESS))
        assert not isinstance(broken.value, RunnerLost)


async def test_files_that_we_have_too_many_of_are_no_end_of_the_runner(short_tmp):
    async with fake_engine(short_tmp).start(LoadSpec("/nowhere.gguf")) as runner:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.close(lowest := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            with pytest.raises(RunnerFailed, match="Too many open files") as broken:
                await collect(runner.complete("say:hi", ENDLESS))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not isinstance(broken.value, RunnerLost)
        assert await collect(runner.complete("say:hi", ENDLESS))


async def test_a_request_that_was_left_is_settled_when_no_slot_is_busy_with_it(short_tmp):
    """Others that wait for the engine's first sign have no slot yet, and hide none that still works."""
    async with fake_engine(short_tmp).start(LoadSpec("/nowhere.gguf")) as runner:
        async with runner.complete("deaf:3", ENDLESS) as events:
            await anext(events)
        async with anyio.create_task_group() as group:
            group.start_soon(collect, runner.complete("unheard", ENDLESS))
            await anyio.wait_all_tasks_blocked()
            await runner.settled()
            assert await runner._slots() == []
            group.cancel_scope.cancel()


async def test_a_missing_openmp_runtime_is_found_before_the_first_start(short_tmp, monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("ctypes.CDLL", missing)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(LoadFailed, match="libgomp1") as failed:
        async with real_engine(short_tmp).start(LoadSpec("/nowhere.gguf")):
            pass
    assert failed.value.reason is LoadFailure.MISSING_LIBRARY
    assert nothing_left(short_tmp)
