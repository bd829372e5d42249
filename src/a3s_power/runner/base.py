"""What a runner is, and what every kind of runner promises.

A *runner* is one live instance of an engine with one model loaded. Whoever starts it owns it: `Engine.start`
is an async context manager; inside it the runner serves, and when it is left, however it is left, nothing of
the runner remains, neither process nor socket. The contract, which `tests/contract/` holds every kind to:

Start. `start` returns once the model is loaded and the runner answers. While it loads, `on_progress` is called
    with the bytes taken so far, without those that the system still counts as available. It raises LoadFailed,
    with the engine's last words and a reason, when the engine refuses or dies, and with reason TIMED_OUT when
    nothing moved for the load timeout. Cancelling it ends the load and leaves no process.
Serve. `chat`, `complete` are async context managers over an iterator of events: some Text, Thinking, CallPart or
    ToolCalls, then exactly one Done. Entering sends the request and returns when the engine has accepted it: one
    that the engine refuses raises ContextExceeded or EngineRejected there, before any event. Leaving early stops
    the generation. As many requests may be open at once as the spec has slots; more wait inside the engine.
Embed. `embed` gives one vector for each input, in order; only on a spec with a `pooling`. All or nothing: one
    input that the engine refuses fails them all, in the same words as above. Cancelling it stops the engine.
Die. A runner that dies raises RunnerLost, with the engine's last words, in every open request and in every
    later one; `wait_exit` returns. It is never restarted in place: the owner starts another.
Stall. As long as a runner gets on with what it owes, `progress` changes. What to do about one that stands still is
    the owner's business: to end it, the owner says why in `condemn`, for open requests to be told, and leaves.
Stop. The engine is asked to end, then made to. It ends by itself when the process that started it does.

A spec and all that goes in and out are plain values that could be sent to another machine; nothing here says
where a runner lives.
"""

from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from a3s_power.generation import Event
from a3s_power.messages import Message
from a3s_power.options import SamplingOptions


class Pooling(StrEnum):
    """How the vectors of a text's tokens become one."""

    FILE = "file"
    """As the model's file says."""
    LAST = "last"
    """The last token's: a causal model's has seen all the others."""


class Drafting(StrEnum):
    """How a draft comes to its guesses; its file decides."""

    MODEL = "model"
    """It is a model of its own, small and of the same vocabulary."""
    MTP = "mtp"
    """It is a head that was trained on the model's states, to tell several tokens ahead."""
    EAGLE3 = "eagle3"
    DFLASH = "dflash"


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """All that makes one loaded runner differ from another: its identity. Paths are absolute."""

    model_path: str
    projector_paths: tuple[str, ...] = ()
    adapter_paths: tuple[str, ...] = ()
    num_ctx: int = 4096
    """Most tokens one request may see, prompt and answer together."""
    is_ctx_automatic: bool = False
    """Whether nobody asked for that many, and we chose."""
    slots: int = 1
    """Requests served at once."""
    kv_pool: int = 0
    """Tokens of all requests together that the KV cache holds; 0 is slots x num_ctx: it cannot overflow."""
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int | None = None
    devices: tuple[str, ...] = ()
    """The devices that hold it, by the engine's names, where we have chosen: CUDA0. () leaves it to the engine."""
    use_mmap: bool | None = None
    num_thread: int = 0
    kv_cache_type: str = "f16"
    flash_attention: bool | None = None
    pooling: Pooling | None = None
    """None does not embed."""
    draft_path: str | None = None
    """A model that guesses tokens ahead, which this one checks at once and writes as it would have anyway."""
    draft_num_predict: int = 0
    """Most tokens guessed at once; 0 without a draft."""
    drafting: Drafting = Drafting.MODEL

    @property
    def files(self) -> tuple[object, ...]:
        """What makes the model that it is. Specs with other files are other models', even on the same weights."""
        return self.model_path, self.projector_paths, self.adapter_paths

    @property
    def pool(self) -> int:
        """`kv_pool` in tokens, whoever chose it."""
        return self.kv_pool or self.slots * self.num_ctx

    @property
    def is_pool_short(self) -> bool:
        """Whether requests that all fill their context would overflow it."""
        return self.pool < self.slots * self.num_ctx

    def serves(self, wanted: "LoadSpec") -> bool:
        """Whether a runner loaded like this does for `wanted`.

        Its context must be at least as large, unless both were chosen by us; a `num_gpu` of -1 wants none in
        particular; who wants no embedding does not mind one that embeds; where it lies and how much it holds of
        all requests together nobody minds; all else must be the same.
        """
        is_ctx_enough = self.num_ctx >= wanted.num_ctx or (self.is_ctx_automatic and wanted.is_ctx_automatic)
        alike = replace(
            self,
            num_ctx=wanted.num_ctx,
            is_ctx_automatic=wanted.is_ctx_automatic,
            kv_pool=wanted.kv_pool,
            devices=wanted.devices,
        )
        if wanted.num_gpu < 0:
            alike = replace(alike, num_gpu=wanted.num_gpu)
        if wanted.pooling is None:
            alike = replace(alike, pooling=None)
        return is_ctx_enough and alike == wanted


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request generates: options, bounds and constraints, already decided."""

    options: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    """None generates until the context window is full."""
    grammar: str | None = None
    """What the reply must match, in llama.cpp's GBNF, thoughts and all."""
    top_logprobs: int | None = None
    preserved_tokens: tuple[str, ...] = ()
    """Special tokens to be written out where `complete` would leave them out."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token → what is added to its logit."""
    thinking_budget: int | None = None
    """Most tokens of thoughts that `chat` lets the model have; `complete` knows of no thoughts."""
    tells_tokens: bool = False
    """Whether `complete` tells the tokens of each Text."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation for the engine's own chat template."""

    messages: tuple[Message, ...]
    tools: Sequence[Mapping[str, object]] = ()
    think: bool | str | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What `embed` gives. A vector is little-endian float32, of the length the model gave it."""

    vectors: tuple[bytes, ...]
    prompt_tokens: int


EventStream = AbstractAsyncContextManager[AsyncIterator[Event]]


class Runner(Protocol):
    """One live engine process with one model."""

    @property
    def pid(self) -> int:
        """The process whose memory is the runner's, children included."""

    def chat(self, prompt: ChatPrompt, sampling: Sampling) -> EventStream:
        """Continue a conversation; the engine renders it and parses what comes back."""

    @property
    def media_marker(self) -> str:
        """What stands in a prompt where a picture belongs; no client can guess it."""

    def complete(
        self, prompt: str | Sequence[int], sampling: Sampling, images: Sequence[bytes] = ()
    ) -> EventStream:
        """Continue a finished prompt. Special tokens in it count as such; all that comes back is Text.

        There must be as many `images`, PNG or JPEG, as markers in the prompt; none in one that is given as tokens.
        """

    async def render(self, prompt: ChatPrompt) -> str:
        """The text that `chat` would put before the model."""

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Tokens of a text; `special` adds those the model wants at the ends."""

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""

    async def embed(self, inputs: Sequence[str | Sequence[int]]) -> Embeddings:
        """The vectors of texts, to which the model's special tokens are added, or of tokens as they are."""

    async def settled(self) -> None:
        """Return when the engine works on nothing but what is open: it notices late that a request was left."""

    async def progress(self) -> Hashable | None:
        """What changes with each piece of a reply or batch of a prompt; None of one that owes nothing."""

    def condemn(self, reason: str) -> None:
        """Have all that is open end with this reason, once the owner ends the runner."""

    async def wait_exit(self) -> None:
        """Return when the engine process has ended, wanted or not."""


class Engine(Protocol):
    """A way to make runners."""

    def start(
        self, spec: LoadSpec, on_progress: Callable[[int], None] = ...
    ) -> AbstractAsyncContextManager[Runner]:
        """Own one runner for the length of the `async with`; see the module's contract."""
