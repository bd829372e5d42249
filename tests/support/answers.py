"""Answers that go wrong on their way, each made of one that is right."""

from dataclasses import dataclass

from starlette.responses import Response


@dataclass(frozen=True)
class CutOff:
    """The first `count` bytes of the body, then a hang-up."""

    response: Response
    count: int

    async def __call__(self, scope, receive, send):
        await _begin(send, self.response.status_code, self.response.raw_headers)
        await _body(send, self.response.body[: self.count], more=True)


@dataclass(frozen=True)
class Held:
    """The first `count` bytes of the body, then nothing until the client leaves."""

    response: Response
    count: int

    async def __call__(self, scope, receive, send):
        await CutOff(self.response, self.count)(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass


@dataclass(frozen=True)
class WithoutLength:
    """All of it, but how long it is will be known at its end."""

    response: Response

    async def __call__(self, scope, receive, send):
        headers = [header for header in self.response.raw_headers if header[0] != b"content-length"]
        await _begin(send, 200, headers)
        await _body(send, self.response.body, more=False)


async def _begin(send, status, headers):
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _body(send, data, *, more):
    await send({"type": "http.response.body", "body": data, "more_body": more})
