"""The keys of replies, in the order in which they are sent. None: whatever value."""

import re
from collections.abc import Mapping
from typing import Any

Shape = Mapping[str, "Shape | None"]

TIME_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z")
"""RFC 3339, up to nine digits of a second, no trailing zeros."""
TIME_LOCAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?(Z|[+-]\d\d:\d\d)")


def keys(names: str, **inner: Shape) -> Shape:
    """Keys from their names, set apart by spaces; those that hold objects, or lists of them, with their own."""
    return {name: inner.get(name) for name in names.split()}


METRICS = "total_duration load_duration prompt_eval_count prompt_eval_duration eval_count eval_duration"

FUNCTION = keys("index name arguments")
CALL = keys("id function", function=FUNCTION)
MESSAGE = keys("role content thinking tool_calls", tool_calls=CALL)
DEBUG = keys("rendered_template image_count")
LOGPROB = keys("token logprob bytes top_logprobs", top_logprobs=keys("token logprob bytes"))
DETAILS = keys("parent_model format family families parameter_size quantization_level")

SHAPES: Mapping[str, Shape] = {
    "/api/generate": keys(
        f"model created_at response thinking done done_reason context {METRICS} tool_calls _debug_info logprobs",
        tool_calls=keys("function", function=FUNCTION),
        _debug_info=DEBUG,
        logprobs=LOGPROB,
    ),
    "/api/chat": keys(
        f"model created_at message done done_reason _debug_info logprobs {METRICS}",
        message=MESSAGE,
        _debug_info=DEBUG,
        logprobs=LOGPROB,
    ),
    "/api/embed": keys("model embeddings total_duration load_duration prompt_eval_count"),
    "/api/embeddings": keys("embedding"),
    "/api/tags": keys(
        "models",
        models=keys(
            "name model modified_at size digest details capabilities",
            details={**DETAILS, "context_length": None, "embedding_length": None},
        ),
    ),
    "/api/ps": keys(
        "models",
        models=keys("name model size digest details expires_at size_vram context_length", details=DETAILS),
    ),
    "/api/show": keys(
        "license modelfile parameters template system details messages model_info projector_info tensors "
        "capabilities modified_at requires",
        details=DETAILS,
        messages=keys("role content"),
        tensors=keys("name type shape"),
    ),
}
"""By path. An ending's `truncated` is ours and may stand anywhere; see `check_shape`."""

OURS = frozenset({"truncated"})


def check_shape(path: str, reply: Any) -> None:
    """Only known keys, all in their order, times and all."""
    if path in SHAPES and "error" not in reply:
        _check(reply, SHAPES[path], path)


def _check(value: Any, shape: Shape, where: str) -> None:
    for item in value if isinstance(value, list) else [value]:
        sent = [key for key in item if key not in OURS]
        assert sent == [key for key in shape if key in item], f"{where}: {list(item)}"
        for key, inner in shape.items():
            if inner is not None and item.get(key) is not None:
                _check(item[key], inner, f"{where}.{key}")
        for key, form in (("created_at", TIME_UTC), ("modified_at", TIME_LOCAL), ("expires_at", TIME_LOCAL)):
            if key in item:
                assert form.fullmatch(item[key]), item[key]
