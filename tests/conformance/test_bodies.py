"""8.2 Bodies that are not what they should be, and names that name nothing."""

from tests.conformance.cases import (
    CHAT,
    COPY,
    CREATE,
    DELETE,
    EMBED,
    EMBEDDINGS,
    FEW,
    GENERATE,
    PULL,
    PUSH,
    SHOW,
    Case,
    cases,
    ch,
    user,
)

HI = [user("Hi")]
PARTS = [user([{"type": "text", "text": "Hi"}])]
MISSING = {"status": 400, "error": "missing request body"}
NEEDED = {"status": 400, "error": "model is required"}
UNKNOWN = {"status": 404, "error": "model 'nope' not found"}
TO_PULL = {"status": 404, "error": 'model "nope" not found, try pulling it first'}
BOTH_SOURCES = 'use either :local or :cloud, not both: "foo:cloud:local"'
NO_CLOUD = "ollama cloud is disabled: remote model details are unavailable"


@cases(
    Case("B1", GENERATE, b"", **MISSING),
    Case("B2 chat", CHAT, b"", **MISSING),
    Case("B2 embed", EMBED, b"", **MISSING),
    Case("B2 embeddings", EMBEDDINGS, b"", **MISSING),
    Case("B2 show", SHOW, b"", **MISSING),
    Case("B2 create", CREATE, b"", **MISSING),
    Case("B2 copy", COPY, b"", **MISSING),
    Case("B2 delete", DELETE, b"", **MISSING),
    Case("B2 pull", PULL, b"", **MISSING),
    Case("B2 push", PUSH, b"", **MISSING),
    Case("B3", CHAT, '{"model":', status=400, error="unexpected EOF"),
    Case("B5", CHAT, [], status=400, error="json: cannot unmarshal array into Go value of type api.ChatRequest"),
    Case("B6", CHAT, {"model": 1}, status=400,
         error="json: cannot unmarshal number into Go struct field ChatRequest.model of type string"),
    Case("B7", CHAT, {"model": "m", "messages": PARTS}, status=400,
         error="json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"),
    Case("B9", CHAT, {}, **NEEDED),
    Case("B9 null", CHAT, "null", **NEEDED),
    Case("B10", EMBED, {}, status=404, error="model '' not found"),
    Case("B11", EMBEDDINGS, {}, **NEEDED),
    Case("B13", PULL, {}, status=400, error="invalid model name"),
    Case("B14", PUSH, {}, **NEEDED),
    Case("B15", DELETE, {}, **NEEDED),
    Case("B17", COPY, {}, status=400, error='source "" is invalid'),
    Case("B18", COPY, {"source": "m", "destination": ""}, status=400, error='destination "" is invalid'),
    Case("B19", GENERATE, {"model": "nope", "prompt": "Hi"}, **UNKNOWN),
    Case("B21", EMBED, {"model": "nope", "input": "x"}, **TO_PULL),
    Case("B22", EMBEDDINGS, {"model": "nope", "prompt": "x"}, **TO_PULL),
    Case("B23", SHOW, {"model": "nope"}, status=404, error="model 'nope:latest' not found"),
    Case("B25", COPY, {"source": "nope", "destination": "x"}, status=404, error='model "nope" not found'),
    Case("B26", GENERATE, {"model": "bad name!", "prompt": "Hi"}, status=400, error="invalid model name"),
    Case("B27", CHAT, {"model": "foo:cloud:local", "messages": HI}, status=400, error=BOTH_SOURCES),
    Case("B29", SHOW, {"model": "foo:cloud"}, status=403, error=NO_CLOUD),
    Case("B30", CHAT, ch(model="M:LATEST"), check=lambda reply: reply["model"] == "M:LATEST"),
    Case("B31", CHAT, {"Model": "m", "MESSAGES": HI, "STREAM": False, "Options": FEW},
         check=lambda reply: reply["message"]["content"]),
    Case("B33", EMBED, {"model": "nope", "input": 5}, status=400, error="invalid input type"),
    Case("B34", CHAT, ch(user("Hi", mood="good"), system="ignored", nobody={"knows": [1]}),
         check=lambda reply: reply["message"]["content"]),
)  # fmt: skip
def test_bodies(server, case):
    case.run(server)
