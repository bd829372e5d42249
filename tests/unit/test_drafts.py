"""What is loaded of a model that has a draft."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from a3s_power.gguf import GGUF
from a3s_power.runner.base import Drafting, LoadSpec
from a3s_power.scheduler.measured import Measurements
from a3s_power.scheduler.plans import Sizing
from a3s_power.service.loading import MAX_DRAFT, LoadDefaults, Loader


def spec(options, *, draft="/d", architecture="llama", parameters=None, **keys):
    """For a request with these options to a model with this draft."""
    model = SimpleNamespace(
        model_path=Path("/m"),
        projector_paths=(),
        adapter_paths=(),
        draft_path=draft and Path(draft),
        parameters=parameters or {},
    )
    metadata = {"general.architecture": architecture} | {
        f"{architecture}.{key}": value for key, value in keys.items()
    }
    header = GGUF(3, metadata, (), 0, 0) if draft else None
    footprint = SimpleNamespace(trained_ctx=2048)
    card = SimpleNamespace(model=model, draft=header, capabilities=(), footprint=footprint)
    plan, _ = Loader(None, LoadDefaults(slots=4), Sizing(Measurements(None, ""))).plan(card, options)
    return plan.spec


@pytest.mark.parametrize(
    ("draft", "options", "path", "guesses"),
    [
        ("/d", {},                            "/d", 4),
        ("/d", {"draft_num_predict": 7},      "/d", 7),
        ("/d", {"draft_num_predict": 10**12}, "/d", MAX_DRAFT),
        ("/d", {"draft_num_predict": 0},      None, 0),         # it is not loaded for nothing
        ("/d", {"draft_num_predict": -1},     None, 0),
        (None, {},                            None, 0),
        (None, {"draft_num_predict": 7},      None, 0),         # there is none to ask
    ],
)  # fmt: skip
def test_a_draft_is_loaded_to_guess(draft, options, path, guesses):
    found = spec(options, draft=draft)
    assert (found.draft_path, found.draft_num_predict) == (path, guesses)


def test_a_model_may_say_how_far_its_draft_guesses():
    assert spec({}, parameters={"draft_num_predict": 2}).draft_num_predict == 2


@pytest.mark.parametrize(
    ("options", "num_batch"),
    [
        ({}, 512),
        ({"num_batch": 1}, 4 * (1 + 4)),                            # four slots, each a token and its guesses
        ({"num_batch": 30}, 30),
        ({"num_batch": 30, "draft_num_predict": 16}, 4 * (1 + 16)),
        ({"num_batch": 1, "draft_num_predict": 0}, 1),
    ],
)  # fmt: skip
def test_all_guesses_fit_in_one_batch(options, num_batch):
    assert spec(options).num_batch == num_batch


@pytest.mark.parametrize(
    ("architecture", "keys", "drafting"),
    [
        ("llama", {}, Drafting.MODEL),
        ("eagle3", {}, Drafting.EAGLE3),
        ("dflash", {}, Drafting.DFLASH),
        ("gemma4-assistant", {}, Drafting.MTP),
        ("qwen35", {"nextn_predict_layers": 1}, Drafting.MTP),
        ("qwen35", {"nextn_predict_layers": 0}, Drafting.MODEL),
        ("qwen35", {"nextn_predict_layers": "one"}, Drafting.MODEL),
    ],
)
def test_how_it_drafts_is_told_by_its_header(architecture, keys, drafting):
    assert spec({}, architecture=architecture, **keys).drafting is drafting


@pytest.mark.parametrize(
    "other", [{"draft_path": None, "draft_num_predict": 0}, {"draft_path": "/e"}, {"draft_num_predict": 5}]
)
def test_a_runner_serves_nobody_who_wants_another_draft(other):
    loaded = LoadSpec("/m", draft_path="/d", draft_num_predict=4)
    wanted = LoadSpec("/m", **({"draft_path": "/d", "draft_num_predict": 4} | other))
    assert loaded.serves(loaded)
    assert not loaded.serves(wanted)
