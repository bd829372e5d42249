"""Many clients at once, some of whom leave, while runners are killed: all are told how it ends, and nothing is left."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest

from demo.server import running_server
from tests.support.api import API, tiny_gguf, until
from tests.support.asking import DIALECTS, EMBED, Answer, Failure, vector_text
from tests.support.storm import AfterItems, AfterOthers, Left, Outcome, Storm, Visit

MODELS = ("a", "b", "c")
QUEUE = 180
SETTINGS = {"OLLAMA_MAX_LOADED_MODELS": "2", "OLLAMA_MAX_QUEUE": str(QUEUE)}
SLOTS = 4
"""Requests at one runner, by default: more than that its end cannot fail."""

LOST = "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error"
KILLED_WHILE_LOADING = "the model could not be loaded (out of memory): "
BUSY = "server busy, please try again.  maximum pending requests exceeded"

DRIP = "drip:5:"
"""Slow enough for some to be in the middle of it when their runner is killed."""

SPARE_FILES = 4
GROWTH_BYTES = 64 << 20
WORKER_THREADS = 40
"""Those for blocking calls, which come and go: anyio has no more."""

Outcomes = list[tuple[Visit, Outcome]]


# ---- what the clients want ----


def visits(count: int, seed: int, prompt_of: Callable[[int, bool], str], max_tokens: int) -> Iterator[Visit]:
    """Requests of all kinds. Each third client leaves at some time, if it is not done before.

    `prompt_of` makes one of a number, and of whether it is to be embedded. No two are alike, nor are those of two
    seeds: who asks again for what has ended runners is refused.
    """
    rng = random.Random(seed)
    for number in range(seed * count, (seed + 1) * count):
        dialect = rng.choice(DIALECTS)
        is_embedded = dialect is EMBED
        stream = not is_embedded and rng.random() < 0.7
        moments = AfterItems(rng.randrange(10) if stream else 0), AfterOthers(rng.randrange(count))
        leaves = rng.choice(moments) if number % 3 == 0 else None
        yield Visit(dialect, rng.choice(MODELS), prompt_of(number, is_embedded), stream, max_tokens, leaves)


def script(number: int, is_embedded: bool) -> str:
    """Twenty tokens of which each says whose it is; or words, by whose number a vector is known."""
    if is_embedded:
        return "word " * (number + 1)
    return DRIP + "|".join(f"{number}.{index};" for index in range(20))


def said_by(prompt: str) -> str:
    """The answer to a script."""
    if prompt.startswith(DRIP):
        return prompt.removeprefix(DRIP).replace("|", "")
    count = len(prompt.split())
    length = (count**2 + 3**2 + 4**2) ** 0.5
    return vector_text((count / length, 3 / length, 4 / length))


def question(number: int, is_embedded: bool) -> str:
    return f"Sentence {number}." if is_embedded else f"Count from {number}."


# ---- what is to come of it ----


def is_documented(visit: Visit, failure: Failure) -> bool:
    """Whether it is what a killed runner or a full queue comes to."""
    match failure:
        case Failure(400, message) if visit.dialect is EMBED:
            return message.startswith(LOST)
        case Failure(503, message):
            return message == BUSY
        case Failure(500 | 200, message):
            return message.startswith((LOST, KILLED_WHILE_LOADING))
    return False


def check_outcomes(outcomes: Outcomes, kills: int) -> None:
    """Errors are such as are documented, and no more than there was reason for."""
    failed = [(visit, outcome) for visit, outcome in outcomes if isinstance(outcome, Failure)]
    assert [each for each in failed if not is_documented(*each)] == []
    failures = [failure for _, failure in failed]
    busy = sum(failure.message == BUSY for failure in failures)
    assert busy <= max(0, len(outcomes) - QUEUE)
    assert len(failures) - busy <= kills * SLOTS
    assert all(visit.leaves for visit, outcome in outcomes if isinstance(outcome, Left))


# ---- what is left ----


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a server holds of its machine."""

    files: int
    threads: int
    resident_bytes: int


def footprint(api: API) -> Footprint:
    server = psutil.Process(api.server.process.pid)
    return Footprint(server.num_fds(), server.num_threads(), server.memory_info().rss)


def unload_all(api: API) -> None:
    """Let all runners go, and see them gone: a lease that nobody gave back would keep its own."""
    for model in MODELS:
        assert api.post("/api/generate", {"model": model, "keep_alive": 0}).status_code == 200
    until(lambda: api.loaded() == [])
    until(lambda: psutil.Process(api.server.process.pid).children(recursive=True) == [])
    until(lambda: os.listdir(api.runtime_dir) == [])


def go_through(api: API, storm: Storm) -> Outcomes:
    outcomes = storm.run()
    assert storm.kills
    assert storm.polls
    check_outcomes(outcomes, storm.kills)
    unload_all(api)
    return outcomes


def go_through_two(api: API, first: Storm, second: Storm) -> Outcomes:
    """The first shows what the server needs, the second that it needs no more for being hit again."""
    outcomes = go_through(api, first)
    warm = footprint(api)
    outcomes += go_through(api, second)
    until(lambda: footprint(api).files <= warm.files + SPARE_FILES)
    assert footprint(api).threads <= warm.threads + WORKER_THREADS
    assert footprint(api).resident_bytes <= warm.resident_bytes + GROWTH_BYTES
    assert "Traceback" not in api.server.log.read_text()
    return outcomes


# ---- an engine that says what it is told ----


def test_a_storm_ends_every_request_and_leaves_nothing(scripted, tmp_path):
    api = scripted(**SETTINGS)
    for name in MODELS:
        api.create(name, tiny_gguf(tmp_path / f"{name}.gguf", **{"general.basename": name}))

    storms = (Storm(api, list(visits(200, seed, script, 64)), kill_every=20, seed=seed) for seed in range(2))
    answers = {visit: got.text for visit, got in go_through_two(api, *storms) if isinstance(got, Answer)}
    assert answers == {visit: said_by(visit.prompt) for visit in answers}
    for name in MODELS:
        assert api.sdk.generate(name, "say:still here").response == "still here"


# ---- the real engine ----


@pytest.fixture
def three_real(tmp_path, short_tmp, smollm2_gguf):
    """A server with three models that share no file."""
    with running_server(
        tmp_path / "server", **SETTINGS, OLLAMA_CONTEXT_LENGTH="512", XDG_RUNTIME_DIR=str(short_tmp)
    ) as server:
        api = API(server)
        api.runtime_dir = short_tmp
        for padding, name in enumerate(MODELS, 1):
            path = tmp_path / "model.gguf"
            path.write_bytes(smollm2_gguf.read_bytes() + bytes(padding))  # nobody reads beyond the last tensor
            api.create(name, path)
        yield api
        api.close()


def test_so_does_one_over_real_models(three_real):
    api = three_real
    storms = (Storm(api, list(visits(40, seed, question, 8)), kill_every=15, seed=seed) for seed in range(2))
    go_through_two(api, *storms)
    for name in MODELS:
        assert api.sdk.generate(name, "Hi", options={"num_predict": 1}).done
