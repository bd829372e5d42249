"""Embedding texts: from a request to vectors, whatever API it came through."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from a3s_power.errors import ContextExceeded, InvalidRequest, RunnerFailed
from a3s_power.names import ModelName
from a3s_power.options import merge
from a3s_power.requester import Requester
from a3s_power.runner.base import LoadSpec, Pooling, Runner
from a3s_power.scheduler.slots import Asked, Lease, LoadPlan
from a3s_power.service.cards import Cards, ModelCard
from a3s_power.service.checks import check_place
from a3s_power.service.loading import Loader
from a3s_power.service.suspects import Suspects, tried_twice

Vectors: TypeAlias = npt.NDArray[np.float32]
"""One in each row."""

GROUP_TEXTS = 16
GROUP_CHARS = 8192
"""What the engine gets at once: enough to fill its slots, little enough that other clients soon get a turn.

512 short texts take as long in groups of 16 as all at once, and 1.7 times as long one by one.
"""

LEAST_NORM = 1e-12
"""A vector of zeros stays one."""

BYTEWISE_TOKENIZERS = frozenset({"bert", "gpt2", "llama"})
"""Values of `tokenizer.ggml.model` of which no token stands for less than a byte of the text.

Others normalise first, and that can make a text longer: T5's makes 18 letters of the three bytes of U+FDFA.
"""
MOST_ADDED = 3
"""Tokens that stand for no byte: the special ones at both ends, and a space that some put in front."""
CHARS_EACH = 4
"""Of a token, on average."""
CHARS_PER_TOKEN = 32
"""The beginning of a text that is looked at first, for each token that fits."""

POOLING_NONE, POOLING_LAST = 0, 3
"""llama.cpp's numbers, in a file's `pooling_type`."""


class EmbeddingFailed(RunnerFailed):
    """The runner was lost while it embedded, or computed what is no number."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """What a client wants embedded, in no API's own words; fields named as in GenerationRequest mean the same."""

    name: ModelName
    model: str
    inputs: tuple[str, ...]
    options: Mapping[str, object] = field(default_factory=dict)
    keep_alive_s: float | None = None
    truncate: bool = True
    """Whether a text that is too long loses its end; else it is refused."""
    normalize: bool = True
    """To length 1."""
    dimensions: int = 0
    """Only the first so many; all of them if there are no more, or if this is not positive."""
    requester: Requester = field(default_factory=Requester)


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A vector for each input, in order."""

    vectors: Vectors
    prompt_tokens: int
    load_ns: int
    """From the request's arrival until a runner was there for it."""


class EmbedService:
    """Embeddings, on any API. Causal models embed too: by their last token."""

    def __init__(self, cards: Cards, loader: Loader, suspects: Suspects) -> None:
        self._cards = cards
        self._loader = loader
        self._suspects = suspects

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """Embed all inputs, of which there must be some, or none: one that fails fails the request.

        Raises ContextExceeded for a text that is too long and must not be cut, InvalidRequest for one of which
        nothing would be left, EmbeddingFailed; else as `ChatService.open`. Cancelling it stops the engine; one
        that is lost is replaced once.
        """
        try:
            return await tried_twice(lambda: self._embed(request), request.model)
        except RunnerFailed as exc:
            raise EmbeddingFailed(str(exc)) from exc

    async def _embed(self, request: EmbeddingRequest) -> Embedded:
        started = time.monotonic_ns()
        card = await self._cards.get(request.name, request.model)
        plan = self._plan(card, request)
        asked = Asked(request.requester, sum(map(len, request.inputs)) // CHARS_EACH)
        matters = replace(request, requester=Requester(), keep_alive_s=None)
        async with (
            self._suspects.watching(card.model.model_path, matters) as attempt,
            self._loader.lease(card, plan, request.keep_alive_s, asked) as lease,
        ):
            attempt.reaches(lease.runner.pid)
            load_ns = time.monotonic_ns() - started
            window = _window(card, request, plan.spec, lease)
            lease.cost = lease.expected  # for who leaves
            vectors, prompt_tokens = await _embed_in_groups(lease.runner, request, window)
            lease.cost = prompt_tokens
        return Embedded(vectors, prompt_tokens, load_ns)

    async def load(self, request: EmbeddingRequest) -> None:
        """Have the model loaded, and its keep-alive set, without embedding. Raises as `embed` does."""
        card = await self._cards.get(request.name, request.model)
        async with self._loader.lease(card, self._plan(card, request), request.keep_alive_s):
            pass

    def _plan(self, card: ModelCard, request: EmbeddingRequest) -> LoadPlan:
        check_place(card)
        return self._loader.plan(card, request.options, _pooling(card))[0]


def _pooling(card: ModelCard) -> Pooling:
    """The file's own where it has one."""
    return Pooling.FILE if card.gguf.arch("pooling_type", POOLING_NONE) != POOLING_NONE else Pooling.LAST


async def _embed_in_groups(runner: Runner, request: EmbeddingRequest, window: "Window") -> tuple[Vectors, int]:
    parts: list[Vectors] = []
    prompt_tokens = 0
    for group in groups(request.inputs):
        inputs = [await window.fit(text, runner) for text in group]
        found = await runner.embed(inputs)
        raw = np.frombuffer(b"".join(found.vectors), "<f4").reshape(len(inputs), -1)
        parts.append(shaped(raw, request))
        prompt_tokens += found.prompt_tokens
    return np.concatenate(parts), prompt_tokens


def groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in order, so many at once as the bounds allow; one that is larger goes alone."""
    start = chars = 0
    for end, text in enumerate(texts):
        chars += len(text)
        if end > start and (end - start == GROUP_TEXTS or chars > GROUP_CHARS):
            yield texts[start:end]
            start, chars = end, len(text)
    if start < len(texts):
        yield texts[start:]


def shaped(vectors: Vectors, request: EmbeddingRequest) -> Vectors:
    """As many dimensions as wanted, as long as wanted. Raises EmbeddingFailed for what is no number."""
    if not np.isfinite(vectors).all():
        raise EmbeddingFailed("embedding contains NaN or Inf values")
    if request.dimensions > 0:
        vectors = vectors[:, : request.dimensions]
    return normalized(vectors) if request.normalize else vectors


def normalized(vectors: Vectors) -> Vectors:
    """Scaled to length 1."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    scaled: Vectors = (vectors / np.maximum(norms, LEAST_NORM)[:, None]).astype(np.float32)
    return scaled


# ---- how long a text may be ----


@dataclass(frozen=True, slots=True)
class Window:
    """What one text must fit into."""

    limit: int
    """Tokens, special ones included; not positive if the client asked for that."""
    is_bytewise: bool
    """Whether a text has no more tokens than bytes."""
    truncate: bool
    nothing: tuple[int, ...] = ()
    """Tokens for an empty text, where the tokenizer adds none: the engine embeds no text of no tokens."""

    async def fit(self, text: str, runner: Runner) -> str | Sequence[int]:
        """The text, or as many of its tokens as fit. Raises ContextExceeded, InvalidRequest."""
        if not text and self.nothing:
            return self.nothing
        if self.is_bytewise and len(text.encode()) + MOST_ADDED <= self.limit:
            return text  # the usual one: without asking the engine
        beginning, tokens = await self._beginning(text, runner)
        if len(tokens) <= self.limit:
            return tokens
        if not self.truncate:
            raise ContextExceeded(len(tokens), self.limit)
        return cut(tokens, await runner.tokenize(beginning), self.limit)

    async def _beginning(self, text: str, runner: Runner) -> tuple[str, list[int]]:
        """The whole text, or a beginning of it that is too long already; and its tokens, with special ones.

        Megabytes would keep the engine busy for seconds. Twice as many tokens as fit are looked at, because
        those at the end of the beginning are not those that the text has there.
        """
        chars = max(self.limit, 1) * CHARS_PER_TOKEN
        while True:
            beginning = text[:chars]
            tokens = await runner.tokenize(beginning, special=True)
            if len(beginning) == len(text) or len(tokens) > 2 * self.limit + MOST_ADDED:
                return beginning, tokens
            chars *= 4


def _window(card: ModelCard, request: EmbeddingRequest, wanted: LoadSpec, lease: Lease) -> Window:
    """A request has the context it asked for, however little, and not the larger one that is loaded."""
    asked = merge((card.model.parameters, request.options))[0].num_ctx
    limit = lease.spec.num_ctx if wanted.is_ctx_automatic else min(wanted.num_ctx, asked or wanted.num_ctx)
    # In batches, the engine leaves room for a token that is never made.
    limit = min(limit, lease.spec.num_ctx - 1 if _sees_in_batches(card) else lease.spec.num_batch)
    is_bytewise = card.gguf.metadata.get("tokenizer.ggml.model") in BYTEWISE_TOKENIZERS
    return Window(limit, is_bytewise, request.truncate, _nothing(card))


def _nothing(card: ModelCard) -> tuple[int, ...]:
    """The token for the beginning of a text, of a causal model that does not put it there by itself."""
    token = card.gguf.metadata.get("tokenizer.ggml.bos_token_id")
    return (token,) if isinstance(token, int) and _sees_in_batches(card) and not card.adds_bos else ()


def _sees_in_batches(card: ModelCard) -> bool:
    """Whether the engine can compute a text batch by batch; other models must have all of it in one."""
    pools_last = card.gguf.arch("pooling_type", POOLING_NONE) in (POOLING_NONE, POOLING_LAST)
    return pools_last and card.gguf.arch("attention.causal") is not False


def cut(tokens: Sequence[int], plain: Sequence[int], limit: int) -> list[int]:
    """`tokens` without the end of `plain` that is in the middle of them, between special ones.

    Raises InvalidRequest if the special ones alone fill the limit.
    """
    added = len(tokens) - len(plain)
    room = limit - added
    if room <= 0:
        raise InvalidRequest("input after truncation exceeds maximum context length")
    ahead = next((n for n in range(added + 1) if tokens[n : n + len(plain)] == plain), added)
    return [*tokens[: ahead + room], *tokens[ahead + len(plain) :]]
