"""An interactive session, without a terminal: what is typed, what is printed, what is asked of the server."""

import io

import httpx2
import msgspec
import pytest

from a3s_power.cli import session_help
from a3s_power.cli.chat import Next, Session
from a3s_power.cli.wishes import Wishes
from a3s_power.client import Client, ClientError
from a3s_power.wire.ollama import ShowRequest

DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "135M",
    "quantization_level": "Q8_0",
}
SHOWN = {"modelfile": "FROM m", "template": "", "details": DETAILS, "model_info": {}, "modified_at": ""}


class Server:
    """A scripted server: `models` are the /api/show replies by name, `answer` the pieces of each reply."""

    def __init__(self):
        self.models = {"m": SHOWN}
        self.answer = [{"content": "Hello"}, {"content": " there"}]
        self.error = None
        self.requests = []

    def __call__(self, request):
        path, body = request.url.path, msgspec.json.decode(request.content or b"{}")
        if path == "/api/show":
            return self._show(body["model"])
        self.requests.append((path, body))
        if self.error:
            return httpx2.Response(self.error[0], json={"error": self.error[1]})
        reply = {
            "/api/generate": {"model": "m", "created_at": "", "response": "", "done": True},
            "/api/create": {"status": "success"},
            "/api/tags": {"models": []},
        }
        return httpx2.Response(200, json=reply[path]) if path in reply else self._chat()

    def _show(self, name):
        if name in self.models:
            return httpx2.Response(200, json=self.models[name])
        return httpx2.Response(404, json={"error": f"model '{name}' not found"})

    def _chat(self):
        return httpx2.Response(200, content=self._chat_lines())

    def _chat_lines(self):
        for number, piece in enumerate(self.answer, 1):
            if piece is KeyboardInterrupt:
                raise KeyboardInterrupt
            line = {
                "model": "m",
                "created_at": "",
                "message": {"role": "assistant", "content": "", **piece},
                "done": number == len(self.answer),
                "eval_count": 7,
            }
            yield msgspec.json.encode(line) + b"\n"

    @property
    def chats(self):
        return [body for path, body in self.requests if path == "/api/chat"]


class Table:
    """A session, its server and its two streams."""

    def __init__(self, **wishes):
        self.server = Server()
        self.wishes = wishes
        self.out, self.err = io.StringIO(), io.StringIO()

    def open(self):
        self.client = Client("http://test", transport=httpx2.MockTransport(self.server))
        shown = self.client.show(ShowRequest(model="m"))
        self.session = Session(self.client, Wishes("m", **self.wishes), shown, self.out, self.err)
        return self

    def type(self, *lines):
        """What is printed for these lines, out and err."""
        for stream in (self.out, self.err):
            stream.seek(0)
            stream.truncate()
        self.next = [self.session.handle(line) for line in lines][-1]
        return self.out.getvalue() + self.err.getvalue()


@pytest.fixture
def table():
    table = Table().open()
    yield table
    table.client.close()


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


# ---- talking ----


def test_a_message_is_answered_and_both_are_remembered(table):
    assert table.type("hi") == "Hello there\n\n"
    table.type("again")
    assert table.server.chats[1]["messages"] == [user("hi"), assistant("Hello there"), user("again")]


def test_an_empty_line_says_nothing(table):
    assert table.type("") == ""
    assert table.server.chats == []


def test_a_cancelled_reply_is_not_remembered_and_the_session_goes_on(table):
    table.server.answer = [{"content": "Hel"}, KeyboardInterrupt]
    assert table.type("hi") == "Hel\n\n"
    assert table.next is Next.LINE
    table.server.answer = [{"content": "ok"}]
    assert table.type("again") == "ok\n\n"
    assert table.server.chats[1]["messages"] == [user("hi"), user("again")]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['"""one line"""'], "one line"),
        (['"""', "first", "second", '"""'], "\nfirst\nsecond\n"),
        (['"""first', 'last"""'], "first\nlast"),
        (['"""/set verbose', '/bye"""'], "/set verbose\n/bye"),
        (["pasted\nlines"], "pasted\nlines"),
    ],
)
def test_texts_of_several_lines(table, lines, expected):
    table.type(*lines)
    assert table.next is Next.LINE
    assert table.server.chats[0]["messages"] == [user(expected)]


def test_a_multi_line_text_wants_more_until_it_is_closed_or_dropped(table):
    table.type('"""open')
    assert table.next is Next.MORE
    table.session.drop_input()
    table.type("hi")
    assert table.server.chats[0]["messages"] == [user("hi")]


def test_thinking_is_shown_and_sent_back(table):
    table.server.answer = [{"thinking": "hm"}, {"content": "yes"}]
    assert table.type("hi") == "Thinking...\nhm\n...done thinking.\n\nyes\n\n"
    table.type("again")
    assert table.server.chats[1]["messages"][1] == assistant("yes") | {"thinking": "hm"}


def test_a_mistake_that_set_can_mend_does_not_end_the_session(table):
    table.server.error = (400, '"m" does not support thinking')
    assert table.type("hi") == 'error: "m" does not support thinking\n'
    table.server.error = (502, "upstream error: gone")
    assert table.type("hi").startswith("An error occurred while processing your message.")
    table.server.error = None
    table.type("again")
    assert table.server.chats[-1]["messages"] == [user("again")]


def test_any_other_failure_ends_it(table):
    table.server.error = (500, "out of memory")
    with pytest.raises(ClientError, match="out of memory"):
        table.type("hi")


def test_the_model_is_loaded_first_and_its_own_messages_are_shown():
    table = Table(keep_alive="5m", options={"num_ctx": 64})
    table.server.models["m"] = SHOWN | {"messages": [user("ping"), assistant("pong")]}
    with table.open().client:
        table.session.start()
        table.type("hi")
    assert table.server.requests[0] == (
        "/api/generate",
        {"model": "m", "keep_alive": "5m", "options": {"num_ctx": 64}, "stream": False},
    )
    assert table.server.chats[0]["messages"] == [user("hi")]
    assert table.server.chats[0]["options"] == {"num_ctx": 64}


def test_a_thinking_model_thinks_unless_told_otherwise():
    table = Table()
    table.server.models["m"] = SHOWN | {"capabilities": ["completion", "thinking"]}
    with table.open().client:
        table.type("a", "/set nothink", "b", "/set think high", "c")
    assert [chat["think"] for chat in table.server.chats] == [True, False, "high"]


def test_a_picture_named_in_the_text_goes_along(tmp_path):
    picture = tmp_path / "a b.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    escaped = str(picture).replace(" ", "\\ ")
    table = Table()
    table.server.models["m"] = SHOWN | {"capabilities": ["completion", "vision"]}
    with table.open().client:
        assert f"Added image '{picture}'\n" in table.type(f"what is {escaped} ?")
        assert "Unknown command" not in table.type(f"{escaped} describe")
        picture.write_text("no picture")
        assert table.type(f"see {escaped}") == 'Couldn\'t process file: "invalid file type: text/plain"\n'
    assert table.server.chats[0]["messages"] == [user("what is  ?") | {"images": ["iVBORw0KGgo="]}]


# ---- commands ----


@pytest.mark.parametrize("line", ["/bye", "/exit", "/bye now", "/byeee"])
def test_leaving(table, line):
    table.type(line)
    assert table.next is Next.END


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/what is this", "Unknown command '/what'. Type /? for help\n"),
        ("/clear", "Cleared session context\n"),
        ("/list", "NAME    ID    SIZE    MODIFIED \n"),
        ("/?", f"{session_help.COMMANDS}\n"),
        ("/help set", session_help.SET),
        ("/? shortcuts", session_help.SHORTCUTS),
        ("/set", session_help.SET),
        ("/setx", session_help.SET),
        ("/set x", "Unknown command '/set x'. Type /? for help\n"),
        ("/set history", ""),
        ("/set wordwrap", "Set 'wordwrap' mode.\n"),
        ("/set nowordwrap", "Set 'nowordwrap' mode.\n"),
        ("/set verbose", "Set 'verbose' mode.\n"),
        ("/set quiet", "Set 'quiet' mode.\n"),
        ("/set nothink", "Set 'nothink' mode.\n"),
        (
            "/set think low",
            "Set 'think' mode to 'low'.\nwarning: model \"m\" does not support thinking output\n",
        ),
        ("/set format json", "Set format to 'json' mode.\n"),
        ("/set format", "Invalid or missing format. For 'json' mode use '/set format json'\n"),
        ("/set noformat", "Disabled format.\n"),
        ("/set system", session_help.SET),
        ("/set system be brief", "Set system message.\n"),
        ("/set parameter seed", session_help.PARAMETERS),
        ("/set parameter seed 7", "Set parameter 'seed' to '7'\n"),
        ("/set parameter stop a b", "Set parameter 'stop' to 'a, b'\n"),
        ("/set parameter seed x", 'Couldn\'t set parameter: "invalid int value [x]"\n'),
        ("/set parameter x 1", "Couldn't set parameter: \"unknown parameter 'x'\"\n"),
        ("/show", session_help.SHOW),
        ("/show x", "Unknown command '/show x'. Type /? for help\n"),
        ("/show modelfile", "FROM m\n"),
        ("/show license", "No license was specified for this model.\n"),
        ("/show system", "No system message was specified for this model.\n"),
        ("/show template", "No prompt template was specified for this model.\n"),
        (
            "/show parameters",
            "Model defined parameters:\n  No additional parameters were specified for this model.\n\n",
        ),
        ("/load", "Usage:\n  /load <modelname>\n"),
        ("/load x", "Loading model 'x'\nCouldn't find model 'x'\n"),
        ("/load m", "Loading model 'm'\n"),
        ("/save", "Usage:\n  /save <modelname>\n"),
        ("/save mine", "Created new model 'mine'\n"),
    ],
)
def test_commands(table, line, expected):
    assert table.type(line) == expected
    assert table.next is Next.LINE
    assert table.server.chats == []


def test_what_is_set_is_wished_of_the_next_reply(table):
    table.type("/set parameter seed 7", "/set parameter stop a b", "/set format json", "/set verbose")
    assert table.type("hi") == "Hello there\n\neval count:           7 token(s)\n"
    assert table.server.chats[0]["options"] == {"seed": 7, "stop": ["a", "b"]}
    assert table.server.chats[0]["format"] == "json"
    assert "User defined parameters:\n  seed                           7\n" in table.type("/show parameters")


def test_a_system_message_is_replaced_until_something_follows_it(table):
    table.type("/set system one", '/set system """two', 'lines"""', "hi", "/set system three", "again")
    system = {"role": "system", "content": "two\nlines"}
    assert table.server.chats[1]["messages"] == [
        system,
        user("hi"),
        assistant("Hello there"),
        {"role": "system", "content": "three"},
        user("again"),
    ]
    assert table.type("/show system") == "three\n\n"
    table.type("/clear", "new")
    assert table.server.chats[2]["messages"] == [{"role": "system", "content": "three"}, user("new")]


def test_loading_begins_anew_and_failing_to_changes_nothing(table):
    table.server.models["n"] = SHOWN
    table.type("hi", "/load x", "again")
    assert len(table.server.chats[1]["messages"]) == 3
    table.type("/load n", "new")
    assert table.server.chats[2]["model"] == "n"
    assert table.server.chats[2]["messages"] == [user("new")]


def test_saving_makes_a_model_of_what_was_said_and_set(table):
    table.type("/set system brief", "/set parameter seed 7", "hi", "/save mine")
    assert table.server.requests[-1] == (
        "/api/create",
        {
            "model": "mine",
            "from": "m",
            "system": "brief",
            "parameters": {"seed": 7},
            "messages": [{"role": "system", "content": "brief"}, user("hi"), assistant("Hello there")],
        },
    )
    table.server.error = (400, "invalid model name")
    assert table.type("/save a//b") == "error: The model name 'a//b' is invalid\n"


def test_history_can_be_switched_off(table):
    table.type("/set nohistory")
    assert not table.session.keeps_history
    table.type("/set history")
    assert table.session.keeps_history
