"""Where other programs keep models, in made-up homes."""

import json
import os
from pathlib import Path

import pytest

from a3s_power.cli import other_programs
from a3s_power.cli.found_models import named
from a3s_power.errors import InvalidRequest
from tests.support.api import tiny_gguf

COMMIT, OLDER = "a" * 40, "b" * 40


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return tiny_gguf(path)


def found(home, *sources, **environ):
    finds = other_programs.find(sources, home, environ)
    return [model.name.display for model in named(finds)], [str(problem) for problem in finds.problems]


# ---- LM Studio ----


@pytest.mark.parametrize("models", [".lmstudio/models", ".cache/lm-studio/models"])
def test_lm_studio_has_folders_of_publishers_and_repositories(models, home):
    put(home / models / "bartowski/Tiny-GGUF/Tiny-Q8_0.gguf")
    put(home / models / "bartowski/Tiny-GGUF/old/Tiny-F16.gguf")
    put(home / models / "lonely/Stray-Q4_0.gguf")
    assert found(home, "lmstudio") == (["stray:q4_0", "tiny:f16", "tiny:q8_0"], [])


def test_lm_studios_home_may_be_elsewhere(home, tmp_path):
    put(tmp_path / "big disk" / "models" / "me/Tiny-GGUF/Tiny-Q8_0.gguf")
    (home / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'big disk'}\n")
    assert found(home, "lmstudio") == (["tiny:q8_0"], [])


@pytest.mark.parametrize("pointer", [b"", b"\xff\0\n", b"/nowhere", b"x" * 10_000])
def test_a_pointer_to_nowhere_does_not_matter(pointer, home):
    put(home / ".lmstudio/models/me/Tiny-GGUF/Tiny-Q8_0.gguf")
    (home / ".lmstudio-home-pointer").write_bytes(pointer)
    assert found(home, "lmstudio") == (["tiny:q8_0"], [])


def test_lm_studio_may_keep_new_models_in_another_folder(home, tmp_path):
    put(home / ".lmstudio/models/me/Old-GGUF/Old-Q8_0.gguf")
    put(tmp_path / "big disk" / "me/New-GGUF/New-Q8_0.gguf")
    (home / ".lmstudio/settings.json").write_text(
        json.dumps({"language": "en", "downloadsFolder": f"{tmp_path / 'big disk'}"})
    )
    assert found(home, "lmstudio") == (["new:q8_0", "old:q8_0"], [])


@pytest.mark.parametrize(
    "settings",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"downloadsFolder": 3}',
        b'{"downloadsFolder": ""}',
        b'{"downloadsFolder": "."}',
        b'{"downloadsFolder": "/nowhere"}',
        b'{"downloadsFolder": "/\\u0000"}',
        b"[" * 10_000,
    ],
)
def test_settings_that_name_no_folder_do_not_matter(settings, home):
    put(home / ".lmstudio/models/me/Tiny-GGUF/Tiny-Q8_0.gguf")
    (home / ".lmstudio/settings.json").write_bytes(settings)
    assert found(home, "lmstudio") == (["tiny:q8_0"], [])


# ---- Hugging Face ----


def cached(hub, repository, *files, commit=COMMIT, main=None):
    """A repository as huggingface_hub caches it."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    for file in files:
        blob = put(folder / "blobs" / f"{len(list(folder.glob('blobs/*'))):064}")
        link = folder / "snapshots" / commit / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if main:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(main)


@pytest.mark.parametrize(
    ("environ", "hub"),
    [
        ({}, ".cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "{home}/cache"}, "cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/nowhere", "HF_HOME": "{home}/hf"}, "hf/hub"),
        ({"HF_HOME": "/nowhere", "HF_HUB_CACHE": "{home}/hub"}, "hub"),
        ({"HUGGINGFACE_HUB_CACHE": "{home}/hub"}, "hub"),
    ],
)
def test_hugging_faces_cache_is_where_its_variables_say(environ, hub, home):
    cached(home / hub, "ggml-org/Tiny-GGUF", "Tiny-Q8_0.gguf", "sub/Tiny-F16.gguf", main=COMMIT)
    cached(home / hub, "gpt2", "gpt2.gguf", main=COMMIT)
    environ = {key: value.format(home=home) for key, value in environ.items()}
    assert found(home, "huggingface", **environ) == (["gpt2:f32", "tiny:f16", "tiny:q8_0"], [])


def snapshots_of(home):
    finds = other_programs.find(["huggingface"], home, {})
    return {model.name.display: model.content.parts[0].path.parent.name for model in named(finds)}


def test_of_several_snapshots_main_comes_first_and_older_ones_have_the_rest(home):
    hub = home / ".cache/huggingface/hub"
    cached(hub, "me/tiny", "tiny-F16.gguf", "tiny-Q4_0.gguf", commit=OLDER)
    cached(hub, "me/tiny", "tiny-Q8_0.gguf", "tiny-Q4_0.gguf", commit=COMMIT, main=COMMIT)
    assert snapshots_of(home) == {"tiny:f16": OLDER, "tiny:q4_0": COMMIT, "tiny:q8_0": COMMIT}
    (hub / "models--me--tiny/refs/main").write_text(OLDER)
    assert snapshots_of(home) == {"tiny:f16": OLDER, "tiny:q4_0": OLDER, "tiny:q8_0": COMMIT}


def test_what_is_wrong_with_one_repository_hides_no_other(home):
    hub = home / ".cache/huggingface/hub"
    cached(hub, "me/tiny", "tiny-Q8_0.gguf")
    cached(hub, "me/other", "other-F16.gguf")
    (hub / "models--me--tiny/snapshots/.DS_Store").write_bytes(b"")
    (hub / "models--me--stray").write_bytes(b"")
    assert found(home, "huggingface") == (["other:f16", "tiny:q8_0"], [])


@pytest.mark.parametrize("main", [None, "c" * 40, "../../../..", ""])
def test_without_a_main_the_snapshot_that_changed_last_comes_first(main, home):
    hub = home / ".cache/huggingface/hub"
    cached(hub, "me/tiny", "tiny-Q8_0.gguf", commit=OLDER, main=main)
    cached(hub, "me/tiny", "tiny-Q8_0.gguf", commit=COMMIT)
    os.utime(hub / "models--me--tiny/snapshots" / OLDER, (1, 1))
    assert snapshots_of(home) == {"tiny:q8_0": COMMIT}


# ---- folders ----


def test_a_folder_is_looked_through_to_its_bottom(home, tmp_path):
    put(tmp_path / "a/b/c/Deep-Q8_0.GGUF")
    put(tmp_path / "a/Flat-Q8_0.gguf")
    (tmp_path / "a/notes.txt").write_text("GGUF")
    (tmp_path / "a/._Flat-Q8_0.gguf").write_bytes(b"\0\5\x16\7")
    assert found(home, str(tmp_path / "a")) == (["deep:q8_0", "flat:q8_0"], [])


def test_a_cache_of_hugging_faces_may_be_any_folder(home, tmp_path):
    cached(tmp_path / "hub", "me/Tiny-GGUF", "x-Q8_0.gguf", main=COMMIT)
    assert found(home, str(tmp_path / "hub")) == (["tiny:q8_0"], [])


def test_links_are_followed_but_not_in_a_circle(home, tmp_path):
    put(tmp_path / "elsewhere/m.gguf")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "up").symlink_to(tmp_path)
    (folder / "self").symlink_to("self")
    assert found(home, str(folder)) == (["m:f32"], [])


def test_the_walk_has_bounds(home, tmp_path, monkeypatch):
    deep = tmp_path / "models" / "/".join("abcdefghi")
    put(deep / "too-deep.gguf")
    put(deep.parent / "deep.gguf")
    assert found(home, str(tmp_path / "models")) == (["deep:f32"], [])
    for number in range(20):
        (tmp_path / "models" / f"{number}.txt").touch()
    monkeypatch.setattr(other_programs, "_MAX_ENTRIES", 10)
    names, problems = found(home, str(tmp_path / "models"))
    assert names == []
    assert problems == [f"{tmp_path / 'models'}: only its first 10 files and folders were looked at"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_what_may_not_be_read_is_told(home, tmp_path):
    put(tmp_path / "m/open.gguf")
    (tmp_path / "m/closed").mkdir(mode=0)
    try:
        names, problems = found(home, str(tmp_path / "m"))
    finally:
        (tmp_path / "m/closed").chmod(0o700)
    assert (names, problems) == (["open:f32"], [f"{tmp_path / 'm/closed'}: Permission denied"])


def test_a_program_whose_files_may_not_be_read_is_told(home, tmp_path, monkeypatch):
    service = tmp_path / "service"
    service.symlink_to("service")  # fails as a folder that is closed does, for root too
    monkeypatch.setattr(other_programs, "OLLAMA_SERVICE", service)
    assert found(home, "ollama") == ([], [f"{service}: Too many levels of symbolic links"])


def test_programs_that_are_not_here_have_left_nothing(home, monkeypatch, tmp_path):
    monkeypatch.setattr(other_programs, "OLLAMA_SERVICE", tmp_path / "ollama")
    (home / ".cache").touch()
    assert found(home, *other_programs.PROGRAMS) == ([], [])


@pytest.mark.parametrize("source", ["lm-studio", "/nowhere", "~nobody-of-this-name/x", __file__])
def test_a_source_is_a_program_or_a_folder(source, home):
    with pytest.raises(
        InvalidRequest, match=f"{Path(source)} is neither a folder nor one of lmstudio, huggingface, ollama"
    ):
        found(home, source)
