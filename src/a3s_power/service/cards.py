"""What is known of a model beyond its manifest: its file's header, how it is prompted, what it can do."""

import threading
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from a3s_power.errors import InvalidGGUF, InvalidTemplate, ModelNotFound, StoreFailed
from a3s_power.gguf import GGUF, read_gguf
from a3s_power.names import ModelName
from a3s_power.prompt.capabilities import capabilities
from a3s_power.prompt.choice import is_harmony, uses_chat_template
from a3s_power.prompt.reading import Markup
from a3s_power.prompt.template import GoTemplate
from a3s_power.scheduler.memory import Footprint
from a3s_power.store.models import Model, ModelStore

MAX_CARDS = 4096
NO_HEADER = GGUF(3, {}, (), 0, 0)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model and all that requests ask of it. Shared between requests: nothing in it changes."""

    model: Model
    gguf: GGUF
    """The header of its file; an empty one for a model that has none here, and cannot run."""
    projectors: tuple[GGUF, ...]
    template: GoTemplate | None
    """The Go template that prompts it; None where the engine's own chat template does."""
    markup: Markup
    capabilities: tuple[str, ...]
    footprint: Footprint
    draft: GGUF | None = None
    """The header of the model that drafts for it."""

    @property
    def name(self) -> ModelName:
        """Its name in the store."""
        return self.model.name

    @property
    def has_file(self) -> bool:
        """Whether there is a GGUF that could be read."""
        return self.gguf is not NO_HEADER

    @property
    def has_chat_template(self) -> bool:
        """Whether the file brings a chat template for the engine."""
        return self.gguf.chat_template is not None

    @property
    def adds_bos(self) -> bool:
        """Whether the engine puts the token for a beginning before every prompt."""
        return self.gguf.metadata.get("tokenizer.ggml.add_bos_token") is True

    @property
    def drops_old_thoughts(self) -> bool:
        """Whether thoughts in the text of earlier answers are cut out, as Ollama does for these models."""
        return self.model.config.model_family == "qwen3" or self.name.model == "deepseek-r1"


def outline(model: Model) -> ModelCard:
    """What can be said of a model whose files cannot be read: that it is there, to be deleted."""
    return ModelCard(model, NO_HEADER, (), None, Markup(), model.config.capabilities, Footprint.of(NO_HEADER))


class Cards:
    """Name → card. A file's header is read once for as long as its manifest stays the same.

    `go_template` decides for models that have both kinds of template: True for Go's, False for the file's own.
    """

    def __init__(self, store: ModelStore, go_template: bool | None) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._go_template = go_template
        self._cards: dict[ModelName, ModelCard] = {}

    async def get(self, name: ModelName, spelling: str) -> ModelCard:
        """The card of the model that a client spells like this.

        Raises ModelNotFound with the spelling, StoreFailed for a model that is damaged.
        """
        if card := self._known(name):
            return card
        return await anyio.to_thread.run_sync(self._read, name, spelling)

    def _known(self, name: ModelName) -> ModelCard | None:
        """Without a thread, which costs every request a tenth of a millisecond: nothing is read here."""
        model = self._store.known(name)
        card = None if model is None else self._cards.get(model.name)
        return card if card is not None and card.model is model else None

    def _read(self, name: ModelName, spelling: str) -> ModelCard:
        try:
            return self.of(self._store.get(name))
        except ModelNotFound:
            raise ModelNotFound(spelling) from None

    def of(self, model: Model) -> ModelCard:
        """The card of a model from the store; blocking."""
        card = self._cards.get(model.name)
        if card is None or card.model is not model:
            card = self._make(model)
            with self._lock:
                self._cards[model.name] = card
                if len(self._cards) > MAX_CARDS:
                    del self._cards[next(iter(self._cards))]  # the one that was made first
        return card

    def _make(self, model: Model) -> ModelCard:
        gguf = _header(model, model.model_path) if model.model_path else NO_HEADER
        projectors = tuple(_header(model, path) for path in model.projector_paths)
        draft = _header(model, model.draft_path) if model.draft_path else None
        template = _go_template(model)
        config = model.config
        is_native = uses_chat_template(
            gguf.chat_template,
            template,
            renderer=config.renderer,
            parser=config.parser,
            family=config.model_family,
            go_template=self._go_template,
        )
        found = capabilities(
            declared=config.capabilities,
            gguf=gguf if model.model_path else None,
            projectors=projectors,
            template=template,
            native=is_native,
            parser=config.parser,
            family=config.model_family,
        )
        used = None if is_native else template
        markup, footprint = _markup(model, gguf, used), Footprint.of(gguf, projectors, draft)
        return ModelCard(model, gguf, projectors, used, markup, found, footprint, draft)


def _markup(model: Model, gguf: GGUF, template: GoTemplate | None) -> Markup:
    """How the model marks thoughts and calls, told from the template that prompts it."""
    if template is not None:
        speaks_harmony = model.config.parser == "harmony" or is_harmony(template, model.config.model_family)
        return Markup.of_template(template, is_harmony=speaks_harmony)
    return Markup.of_chat_template(gguf.chat_template or "")


def _header(model: Model, path: Path) -> GGUF:
    try:
        return read_gguf(path)
    except (InvalidGGUF, OSError) as exc:
        raise StoreFailed(f"model '{model.name.display}' cannot be read: {exc}") from exc


def _go_template(model: Model) -> GoTemplate | None:
    if model.template is None:
        return None
    try:
        return GoTemplate.parse(model.template)
    except InvalidTemplate as exc:
        raise StoreFailed(f"model '{model.name.display}' has a template that does not parse: {exc}") from exc
