"""Server-sent events, as the OpenAI and Anthropic APIs frame their streams."""

EVENT_STREAM = "text/event-stream"


def data_frame(payload: bytes) -> bytes:
    """A frame without a name; `payload` is JSON on one line, or `[DONE]`."""
    return b"data: " + payload + b"\n\n"


def event_frame(event: str, payload: bytes) -> bytes:
    """A frame that tells what it is."""
    return b"event: " + event.encode() + b"\ndata: " + payload + b"\n\n"
