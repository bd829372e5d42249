"""How replies are written: as Ollama writes those of this API, without a charset and with a newline at the end."""

from starlette.responses import Response

from a3s_power.wire.gojson import encode
from a3s_power.wire.ollama import Reply

JSON = "application/json"


def json_line(reply: Reply) -> bytes:
    """A whole reply's body."""
    return encode(reply) + b"\n"


def json_reply(reply: Reply) -> Response:
    """A whole reply."""
    return Response(json_line(reply), media_type=JSON)
