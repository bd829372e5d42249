"""Nothing outlives its owner: the owner of a runner is killed, and looked for is what is left."""

import subprocess
import sys

import psutil
import pytest

from a3s_power.runner.base import LoadSpec
from a3s_power.runner.llamacpp import remove_abandoned
from tests.support.engines import fake_engine, family_of, wait_until_gone


@pytest.mark.parametrize(("kind", "state"), [("real", "loading"), ("real", "loaded"), ("fake", "loaded")])
def test_a_runner_dies_with_its_owner(kind, state, smollm2_gguf, short_tmp):
    argv = [sys.executable, "-m", "tests.support.owner", kind, str(smollm2_gguf), str(short_tmp), state]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        family = family_of(int(owner.stdout.readline()))
        assert all(process.is_running() for process in family)
        owner.kill()
    assert wait_until_gone(family) == []
    if state == "loading":  # it dies with the kernel's signal, and the next server tidies up
        remove_abandoned(short_tmp)
    assert list(short_tmp.iterdir()) == []


@pytest.mark.anyio
async def test_what_a_living_server_uses_is_not_abandoned(short_tmp):
    async with fake_engine(short_tmp).start(LoadSpec("/nowhere.gguf")) as runner:
        remove_abandoned(short_tmp)
        assert await runner.tokenize("two words") == [0, 1]


def test_an_engine_binary_dies_with_its_host(smollm2_gguf, short_tmp):
    argv = [sys.executable, "-m", "tests.support.owner", "fake", str(smollm2_gguf), str(short_tmp), "loaded"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        host, binary = family_of(int(owner.stdout.readline()))
        host.kill()
        assert wait_until_gone([binary]) == []
        owner.kill()
    assert psutil.pid_exists(binary.pid) is False
