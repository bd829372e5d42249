"""A model whose draft guesses ahead, on the real engine: it writes what it would have written without."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from a3s_power.errors import LoadFailed
from a3s_power.runner.base import LoadSpec
from a3s_power.runner.link import exchange
from tests.support.engines import real_engine

PROMPTS = ("The capital of France is", "Once upon a time there was a", "def fibonacci(n):\n", "Water boils at")
GREEDY = {"temperature": 0, "num_predict": 32}


@pytest.fixture(scope="module")
def drafted(real, smollm2_gguf):
    """The server, with the model `drafted`: SmolLM2, which drafts for itself."""
    make(real, "drafted", smollm2_gguf)
    yield real
    real.sdk.delete("drafted")


def make(api, name, draft):
    body = {"model": name, "from": "smollm2", "draft_files": {"d.gguf": api.upload(draft)}, "stream": False}
    response = api.post("/api/create", body)
    assert response.status_code == 200, response.text


def written(api, model, prompt, **options):
    body = {"model": model, "prompt": prompt, "raw": True, "stream": False, "options": GREEDY | options}
    response = api.post("/api/generate", body)
    assert response.status_code == 200, response.text
    return response.json()


# ---- over the API ----


def test_the_text_is_the_same_as_without_a_draft(drafted):
    with ThreadPoolExecutor(len(PROMPTS)) as pool:  # all slots at once
        replies = list(pool.map(lambda prompt: written(drafted, "drafted", prompt), PROMPTS))
    alone = [written(drafted, "smollm2", prompt) for prompt in PROMPTS]
    assert [reply["response"] for reply in replies] == [reply["response"] for reply in alone]
    assert [reply["eval_count"] for reply in replies] == [reply["eval_count"] for reply in alone]


@pytest.mark.parametrize("guesses", [0, 1, 16])
def test_however_far_it_guesses(drafted, guesses):
    replies = [written(drafted, model, PROMPTS[0], draft_num_predict=guesses) for model in ("drafted", "smollm2")]
    assert replies[0]["response"] == replies[1]["response"]


def test_the_smallest_batch_takes_all_guesses(drafted):
    assert written(drafted, "drafted", PROMPTS[0], num_batch=1)["eval_count"] == GREEDY["num_predict"]


def test_the_draft_is_shown(drafted):
    assert "\nDRAFT /" in drafted.post("/api/show", {"model": "drafted"}).json()["modelfile"]


def test_a_draft_that_does_not_fit_is_refused_by_name_and_can_be_done_without(real, minilm_gguf):
    make(real, "misfit", minilm_gguf)
    response = real.post("/api/generate", {"model": "misfit", "prompt": "Hi", "stream": False})
    assert response.status_code == 500
    assert "the draft /" in response.json()["error"]
    assert "draft_num_predict 0" in response.json()["error"]
    assert written(real, "misfit", PROMPTS[0], draft_num_predict=0)["response"]
    real.sdk.delete("misfit")


# ---- the engine itself ----


@pytest.mark.anyio
async def test_the_engine_takes_the_guesses_of_the_draft(short_tmp, smollm2_gguf):
    spec = LoadSpec(
        str(smollm2_gguf), num_ctx=256, slots=2, num_gpu=0, draft_path=str(smollm2_gguf), draft_num_predict=4
    )
    async with real_engine(short_tmp).start(spec):
        [socket] = short_tmp.glob("*/s.sock")
        body = msgspec.json.encode({"prompt": PROMPTS[0], "temperature": 0, "n_predict": 32})
        async with exchange(str(socket), "/completion", body) as reply:
            timings = msgspec.json.decode(await reply.read())["timings"]
    assert timings["draft_n"] >= timings["draft_n_accepted"] > 0


@pytest.mark.anyio
@pytest.mark.parametrize("content", [None, b"", b"GGUF"])
async def test_of_a_draft_that_cannot_be_read_the_name_is_told(short_tmp, smollm2_gguf, tmp_path, content):
    draft = tmp_path / "draft.gguf"
    if content is not None:
        draft.write_bytes(content)
    spec = LoadSpec(str(smollm2_gguf), num_ctx=256, draft_path=str(draft), draft_num_predict=4)
    with pytest.raises(LoadFailed, match=str(draft)):
        async with real_engine(short_tmp).start(spec):
            pass
    assert list(short_tmp.iterdir()) == []
