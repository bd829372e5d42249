"""Which files of a Hugging Face repository a tag means; and what a listing may say without harm."""

import hashlib
import json
from pathlib import Path

import httpx2
import pytest

from a3s_power.registry import huggingface
from a3s_power.registry.auth import Keychain
from a3s_power.registry.errors import BadReply, RegistryRefused, RemoteNotFound, Unauthorized
from a3s_power.registry.huggingface import RepoFile, list_files, split_model
from a3s_power.registry.session import Site, open_session

RECORDED = Path(__file__).parent.parent / "data" / "huggingface"


def file(path, size=1):
    return RepoFile(path, f"sha256:{hashlib.sha256(path.encode()).hexdigest()}", size)


def parts(prefix, count=2, size=1):
    return [file(f"{prefix}-{number:05}-of-{count:05}.gguf", size) for number in range(1, count + 1)]


def chosen(files, tag):
    """The first part's path; None if there is no model."""
    model = split_model(files, tag)
    return model and model.parts[0].path


# ---- what a tag means ----

FLAT = [*parts("m-Q4_K_M"), *parts("m-Q8_0"), *parts("m-BF16", 3)]
FOLDERS = [
    *parts("Q4_K_M/m-Q4_K_M"),
    *parts("UD-Q4_K_XL/m-UD-Q4_K_XL"),
    *parts("Q8_0/m-Q8_0"),
    *parts("deep/BF16/m"),
]


@pytest.mark.parametrize(
    ("files", "tag", "prefix"),
    [
        (FLAT, "Q8_0", "m-Q8_0"),
        (FLAT, "q8_0", "m-Q8_0"),
        (FLAT, "bF16", "m-BF16"),
        (FLAT, "m-bf16-00001-of-00003.gguf", "m-BF16"),
        (FLAT, "m-bf16-00003-of-00003.gguf", "m-BF16"),
        (FLAT, "Q4_K", None),  # a beginning is no name
        (FLAT, "F16", None),
        (FLAT, ".*", None),
        (FOLDERS, "Q4_K_M", "Q4_K_M/m-Q4_K_M"),
        (FOLDERS, "bf16", "deep/BF16/m"),  # only the folder says it
        (FOLDERS, "deep", None),  # the folder itself, not one above it
        (FOLDERS, "Q4_K_XL", "UD-Q4_K_XL/m-UD-Q4_K_XL"),
        (FOLDERS, "UD-Q4_K_XL", "UD-Q4_K_XL/m-UD-Q4_K_XL"),
        ([*parts("m-UD-Q4_K_M"), *parts("m-Q4_K_M")], "Q4_K_M", "m-Q4_K_M"),  # the plainest
        ([*parts("m.Q6_K")], "q6_k", "m.Q6_K"),
        ([*parts("Q6_K")], "q6_k", "Q6_K"),
    ],
)
def test_a_tag_is_a_quantization_a_folder_or_a_file(files, tag, prefix):
    first = prefix and next(file.path for file in files if file.path.startswith(f"{prefix}-00001-"))
    assert chosen(files, tag) == first
    assert chosen(reversed(files), tag) == first


@pytest.mark.parametrize(
    ("files", "prefix"),
    [
        (FLAT, "m-Q4_K_M"),
        ([*parts("m-Q8_0"), *parts("m-Q4_0")], "m-Q4_0"),
        ([*parts("a/m-UD-Q4_K_M"), *parts("m-Q8_0")], "a/m-UD-Q4_K_M"),
        (
            [*parts("m-BF16", size=9), *parts("m-IQ1_S", size=4), *parts("m-F32", size=20)],
            "m-IQ1_S",
        ),  # the smallest
    ],
)
def test_latest_is_the_usual_quantization_or_the_smallest_model(files, prefix):
    assert chosen(files, "latest") == f"{prefix}-00001-of-00002.gguf"


@pytest.mark.parametrize("tag", ["latest", "Q8_0"])
@pytest.mark.parametrize(
    "files",
    [
        [],
        [file("m-Q8_0.gguf")],
        parts("m-Q8_0", 3)[:2],
        parts("m-Q8_0", 3)[1:],
        parts("m-Q8_0", 1),
        [*parts("m-Q8_0", 2)[:1], *parts("m-Q8_0", 3)[1:]],
        [file("m-Q8_0-00000-of-00002.gguf"), file("m-Q8_0-00001-of-00002.gguf")],
        [file("m-Q8_0-00001-of-00002.gguf"), file("n-Q8_0-00002-of-00002.gguf")],
        [file("a/m-Q8_0-00001-of-00002.gguf"), file("b/m-Q8_0-00002-of-00002.gguf")],
        [file("m-Q8_0-00001-of-00002.safetensors"), file("m-Q8_0-00002-of-00002.safetensors")],
        parts("mmproj-Q8_0"),
    ],
)
def test_a_model_with_parts_missing_is_none(files, tag):
    assert split_model(files, tag) is None


def test_the_parts_are_in_their_order():
    files = parts("m-Q8_0", 12)
    assert split_model(reversed(files), "Q8_0").parts == tuple(files)


@pytest.mark.parametrize(
    ("projectors", "expected"),
    [
        ([], None),
        (["mmproj-m.gguf"], "mmproj-m.gguf"),
        (["a/MMPROJ-F16.gguf"], "a/MMPROJ-F16.gguf"),
        (["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], "mmproj-F16.gguf"),
        (["mmproj-BF16.gguf", "mmproj-F32.gguf"], "mmproj-BF16.gguf"),
        (["mmproj.py"], None),
    ],
)
def test_a_projector_goes_with_it_in_half_precision_if_there_is_a_choice(projectors, expected):
    model = split_model([*parts("m-Q8_0"), *map(file, projectors)], "Q8_0")
    assert (model.projector and model.projector.path) == expected
    assert [each.path for each in model.files[2:]] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("a b/m.gguf", "/user/repo/resolve/main/a%20b/m.gguf"),
        ("m?x=1#y.gguf", "/user/repo/resolve/main/m%3Fx%3D1%23y.gguf"),
        ("é.gguf", "/user/repo/resolve/main/%C3%A9.gguf"),
    ],
)
def test_a_files_path_is_quoted(path, url):
    assert file(path).url_path("user/repo") == url


# ---- listings ----


def response(status, body=b"", **headers):
    """An answer whose body is still to be read."""
    return httpx2.Response(status, headers=headers, stream=httpx2.ByteStream(body))


async def listed(answer):
    """What a listing comes to; `answer` is its body, or the whole response."""
    asked = []

    def respond(request):
        asked.append(request)
        return answer if isinstance(answer, httpx2.Response) else response(200, answer)

    opening = open_session(
        Site("hf.co"),
        keychain=Keychain(Path("/nowhere/id_ed25519"), None),
        user_agent="tests/1",
        transport=httpx2.MockTransport(respond),
    )
    async with opening as session:
        files = await list_files(session, "user/repo")
    assert [str(request.url) for request in asked] == [
        "https://huggingface.co/api/models/user/repo/tree/main?recursive=true"
    ]
    return files


def entry(path="m.gguf", **lfs):
    return {"path": path, "lfs": {"oid": "0" * 64, "size": 1} | lfs}


@pytest.mark.anyio
async def test_a_recorded_listing_is_read():
    recorded = json.loads((RECORDED / "tree.json").read_text())
    files = await listed(json.dumps(recorded).encode())
    large = [entry for entry in recorded if "lfs" in entry]
    assert files == [
        RepoFile(entry["path"], f"sha256:{entry['lfs']['oid']}", entry["lfs"]["size"]) for entry in large
    ]
    assert files


@pytest.mark.anyio
@pytest.mark.parametrize(
    "entries",
    [
        "{}",
        "[",
        "<html>",
        "[1]",
        '[{"lfs":null}]',
        json.dumps([entry(oid="../../etc/passwd")]),
        json.dumps([entry(oid="0" * 63)]),
        json.dumps([entry(oid="A" * 64)]),
        json.dumps([entry(oid="0" * 64 + "\n")]),
        json.dumps([entry(size=-1)]),
        json.dumps([entry(size=2**63)]),
        json.dumps([entry(size="1")]),
        json.dumps([entry(path=None)]),
        '[{"path":"a","more":' + "[" * 100_000,
        b'[{"path":"\xff"}]',
    ],
)
async def test_what_is_no_list_of_files_is_a_bad_reply(entries):
    with pytest.raises(BadReply, match=r"huggingface\.co sent no list of files"):
        await listed(entries if isinstance(entries, bytes) else entries.encode())


@pytest.mark.anyio
async def test_a_listing_without_end_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(huggingface, "_MAX_LISTING", 1000)
    with pytest.raises(BadReply, match="more than 1000 bytes"):
        await listed(b" " * 1001)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "failure", "words"),
    [
        (response(404), RemoteNotFound, "file does not exist"),
        (response(401, b"no"), Unauthorized, r"access denied: no; .* HF_TOKEN"),
        (response(503, b"later"), RegistryRefused, "503: later"),
        (response(302, Location="https://other.example/"), BadReply, "redirects to another host"),
        (response(200, **{"Content-Encoding": "gzip"}), BadReply, "'gzip' data"),
    ],
)
async def test_a_listing_that_is_refused(answer, failure, words):
    with pytest.raises(failure, match=words):
        await listed(answer)
