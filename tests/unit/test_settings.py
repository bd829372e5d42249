"""Settings: where each comes from, and what a text in the environment means."""

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.settings import Endpoint, InvalidSetting, Settings
from a3s_power.units import FOREVER


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def load(home):
    """Load settings with this environment, config.toml and flags, and nothing else."""

    def _load(environ=(), config="", flags=None):
        (home / "config.toml").write_text(config, encoding="utf-8")
        return Settings.load({"A3S_POWER_HOME": str(home), **dict(environ)}, flags)

    return _load


# ---- precedence ----

ENDPOINT = Endpoint("http", "flag", 1)


@pytest.mark.parametrize(
    ("key", "ollama_name", "flag", "ours", "theirs", "config", "default"),
    [  # for each kind of value: what a flag gives, then (text, meaning) of each source
        ("data_dir", "OLLAMA_MODELS", Path("/flag"), ("/ours", Path("/ours")), ("/theirs", Path("/theirs")),
         ('"/config"', Path("/config")), Path.home() / ".ollama" / "models"),
        ("host", "OLLAMA_HOST", ENDPOINT, ("ours:2", Endpoint(host="ours", port=2)), (":3", Endpoint(host="", port=3)),
         ('"config"', Endpoint(host="config")), Endpoint()),
        ("keep_alive", "OLLAMA_KEEP_ALIVE", 1.0, ("2m", 120.0), ("-1", FOREVER), ("4", 4.0), 300.0),
        ("load_timeout", "OLLAMA_LOAD_TIMEOUT", 1.0, ("2", 2.0), ("0", math.inf), ('"4m"', 240.0), 300.0),
        ("num_parallel", "OLLAMA_NUM_PARALLEL", 1, ("2", 2), ("3", 3), ("5", 5), 4),
        ("max_queue", "OLLAMA_MAX_QUEUE", 0, ("2", 2), ("3", 3), ("4", 4), 512),
        ("kv_cache_type", "OLLAMA_KV_CACHE_TYPE", "f32", ("Q8_0", "q8_0"), ("q4_0", "q4_0"), ('"BF16"', "bf16"), "f16"),
        ("flash_attention", "OLLAMA_FLASH_ATTENTION", False, ("1", True), ("0", False), ("true", True), None),
        ("noprune", "OLLAMA_NOPRUNE", False, ("yes", True), ("false", False), ("true", True), False),
    ],
)  # fmt: skip
def test_a_flag_beats_our_variable_beats_ollamas_beats_the_config_file_beats_the_default(
    load, key, ollama_name, flag, ours, theirs, config, default
):
    our_variable = {f"A3S_POWER_{key.upper()}": ours[0]}
    their_variable = {ollama_name: theirs[0]}
    in_file = f"{key} = {config[0]}"
    cases = [
        (load({**our_variable, **their_variable}, in_file, {key: flag}), flag),
        (load({**our_variable, **their_variable}, in_file, {key: None}), ours[1]),  # None is a flag not given
        (load({**our_variable, **their_variable}, in_file), ours[1]),
        (load(their_variable, in_file), theirs[1]),
        (load({}, in_file), config[1]),
        (load({}), default),
    ]
    assert [getattr(settings, key) for settings, _ in cases] == [expected for _, expected in cases]


OURS_ALONE = {
    "engine_index",
    "stall_timeout",
    "kv_pool",
    "home",
    "port",
    "drain_timeout",
    "num_thread",
    "llama_server",
    "registries",
    "registry_key",
    "image_urls",
}


def test_all_settings_of_ollama_that_we_have_answer_to_its_names():
    names = {field.name: field.metadata["names"] for field in dataclasses.fields(Settings)}
    assert {key for key, ollama in names.items() if not ollama} == OURS_ALONE
    assert names["data_dir"] == ("OLLAMA_MODELS",)
    assert all(n == (f"OLLAMA_{key.upper()}",) for key, n in names.items() if key not in OURS_ALONE | {"data_dir"})


def test_a_variable_that_is_empty_once_cleaned_is_as_good_as_unset(load):
    environ = {"A3S_POWER_NUM_PARALLEL": " '' ", "OLLAMA_NUM_PARALLEL": ' "3" '}
    assert load(environ, "num_parallel = 9").num_parallel == 3


def test_home_is_where_the_config_file_is_read(home, load):
    assert load({}, "num_parallel = 7").home == home
    assert load({}, "num_parallel = 7").num_parallel == 7


def test_without_a_config_file_all_is_default(tmp_path):
    settings = Settings.load({"A3S_POWER_HOME": str(tmp_path / "absent")})
    assert settings == Settings(home=tmp_path / "absent")


def test_loading_reads_the_environment_that_it_is_given_and_no_other(monkeypatch, load):
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "99")
    assert load({}).num_parallel == 4


# ---- what a text means ----


@pytest.mark.parametrize(
    ("name", "text", "key", "expected"),
    [
        *((("OLLAMA_NOPRUNE", text, "noprune", True)) for text in ("1", "t", "T", "true", "TRUE", "True", "yes", "off", "2")),
        *((("OLLAMA_NOPRUNE", text, "noprune", False)) for text in ("0", "f", "F", "false", "FALSE", "False")),
        ("OLLAMA_FLASH_ATTENTION", "banana", "flash_attention", True),
        ("OLLAMA_KEEP_ALIVE", "0", "keep_alive", 0.0),
        ("OLLAMA_KEEP_ALIVE", "1.5", "keep_alive", 1.5),
        ("OLLAMA_KEEP_ALIVE", "1h30m", "keep_alive", 5400.0),
        ("OLLAMA_KEEP_ALIVE", "-1m", "keep_alive", FOREVER),
        ("OLLAMA_LOAD_TIMEOUT", "0s", "load_timeout", math.inf),
        ("OLLAMA_LOAD_TIMEOUT", "-1", "load_timeout", math.inf),
        ("A3S_POWER_DRAIN_TIMEOUT", "0", "drain_timeout", 0.0),
        ("OLLAMA_MODELS", "~/models", "data_dir", Path.home() / "models"),
        ("OLLAMA_MODELS", "models", "data_dir", Path.cwd() / "models"),
        ("OLLAMA_MODELS", '"/with blanks/m"', "data_dir", Path("/with blanks/m")),
        ("OLLAMA_KV_CACHE_TYPE", "Q8_0", "kv_cache_type", "q8_0"),
    ],
)  # fmt: skip
def test_a_text_is_read_the_way_ollama_reads_it(load, name, text, key, expected):
    assert getattr(load({name: text}), key) == expected


BAD = [
    ("NUM_PARALLEL", "many"),
    ("NUM_PARALLEL", "-1"),
    ("NUM_PARALLEL", "2.5"),
    ("MAX_QUEUE", "1e3"),
    ("CONTEXT_LENGTH", "4k"),
    ("KEEP_ALIVE", "soon"),
    ("LOAD_TIMEOUT", "1d"),
    ("KV_CACHE_TYPE", "q9_9"),
    ("KEEP_ALIVE", "nan"),
    ("KEEP_ALIVE", "1_000"),
    ("NUM_PARALLEL", "٣"),
    pytest.param("MAX_QUEUE", "9" * 5000, id="5000 digits"),
]


@pytest.mark.parametrize(("name", "text"), [*BAD, ("PORT", "65536"), ("NUM_THREAD", "all")])
def test_a_value_that_makes_no_sense_is_refused_by_the_name_of_its_variable(load, name, text):
    with pytest.raises(InvalidSetting) as refused:
        load({f"A3S_POWER_{name}": text})
    assert str(refused.value).startswith(f"A3S_POWER_{name}={text}: ")


@pytest.mark.parametrize(("name", "text"), BAD)
def test_but_in_a_variable_of_ollamas_it_is_passed_over_with_a_warning(load, caplog, name, text):
    assert load({f"OLLAMA_{name}": text}) == load({})
    assert f"invalid environment variable, using default: OLLAMA_{name}={text}: " in caplog.text


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [("", "", "http://127.0.0.1:11434"), ("h:1", "", "http://h:1"), ("h:1", "2", "http://h:2"), ("", "0", "http://127.0.0.1:0")],
)  # fmt: skip
def test_a_port_replaces_that_of_the_host(load, host, port, url):
    assert load({"OLLAMA_HOST": host, "A3S_POWER_PORT": port}).endpoint.url == url


@pytest.mark.parametrize("config", ['num_parallel = "many"', "num_parallel = -1", "num_parallel = [1]"])
def test_a_bad_value_in_the_config_file_is_refused_by_its_key(load, config):
    with pytest.raises(InvalidSetting, match=r"^config.toml: num_parallel="):
        load({}, config)


def test_a_key_that_nobody_knows_is_refused_by_its_name(load):
    with pytest.raises(InvalidSetting, match=r"^config.toml: unknown key 'num_paralel'"):
        load({}, "num_paralel = 3")


@pytest.mark.parametrize("content", [b"num_parallel = ", b"\xff\xfe", b"[", b"a = 1\na = 2"])
def test_a_config_file_that_cannot_be_read_is_named(home, content):
    (home / "config.toml").write_bytes(content)
    with pytest.raises(InvalidSetting, match=r"config\.toml: "):
        Settings.load({"A3S_POWER_HOME": str(home)})


# ---- OLLAMA_HOST ----


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("", Endpoint()),
        ("0.0.0.0", Endpoint(host="0.0.0.0")),
        ("127.0.0.1:8080", Endpoint(port=8080)),
        (":8080", Endpoint(host="", port=8080)),                                # all interfaces
        (":0", Endpoint(host="", port=0)),                                      # a random port
        ("example.com", Endpoint(host="example.com")),
        ("example.com:1234", Endpoint(host="example.com", port=1234)),
        ("  example.com:1234\n", Endpoint(host="example.com", port=1234)),
        ("::1", Endpoint(host="::1")),
        ("[::1]", Endpoint(host="::1")),
        ("[::1]:1337", Endpoint(host="::1", port=1337)),
        ("[::]:1337", Endpoint(host="::", port=1337)),
        ("http://h", Endpoint(host="h", port=80)),
        ("https://h", Endpoint("https", "h", 443)),
        ("https://h:1/", Endpoint("https", "h", 1)),
        ("http://", Endpoint(port=80)),
        ("ftp://h", Endpoint("ftp", "h", 11434)),
        ("h/base/path", Endpoint(host="h", path="/base/path")),
        ("https://example.com/ollama", Endpoint("https", "example.com", 443, "/ollama")),
        ("1.2.3.4:99999", Endpoint(host="1.2.3.4")),                            # no port: the scheme's own
        ("1.2.3.4:-1", Endpoint(host="1.2.3.4")),
        ("h:", Endpoint(host="h")),
        ("https://h:port", Endpoint("https", "h", 443)),
        ("ollama.com", Endpoint("https", "ollama.com", 443)),
        ("http://h/a://b", Endpoint(host="h", port=80, path="/a://b")),
        pytest.param("h:" + "9" * 5000, Endpoint(host="h"), id="5000 digits"),
    ],
)  # fmt: skip
def test_a_host_is_read_the_way_ollama_reads_it(text, endpoint):
    assert Endpoint.parse(text) == endpoint


@given(st.text(max_size=40) | st.text(alphabet="ah.:/[]0159", max_size=40))
def test_any_text_is_some_endpoint(text):
    endpoint = Endpoint.parse(text)
    assert 0 <= endpoint.port <= 65535
    assert endpoint.url.startswith(f"{endpoint.scheme}://")


@pytest.mark.parametrize(
    ("text", "url", "listens_on"),
    [
        ("", "http://127.0.0.1:11434", "127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434", "0.0.0.0:11434"),
        (":8080", "http://127.0.0.1:8080", ":8080"),
        ("::", "http://[::1]:11434", "[::]:11434"),
        ("[::]:1", "http://[::1]:1", "[::]:1"),
        ("[fe80::1]:1", "http://[fe80::1]:1", "[fe80::1]:1"),
        ("https://h/base", "https://h:443/base", "h:443"),
    ],
)
def test_a_client_finds_a_server_that_listens_everywhere_on_the_loopback(text, url, listens_on):
    endpoint = Endpoint.parse(text)
    assert (endpoint.url, str(endpoint)) == (url, listens_on)
