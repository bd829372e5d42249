"""How a set-up fails, and what the words of venv, pip and the dynamic linker mean."""

import re
import signal

from a3s_power.errors import AppError


class SetupFailed(AppError):
    """Nothing was set up, and nothing that was there before has changed."""


_MEANINGS = (  # the first that is found counts: without a network, too, pip finds no matching distribution
    (
        r"No space left on device",
        "the disk is full: pip needs a few GB here, and as many in the temp folder (TMPDIR)",
    ),
    (
        r"ensurepip is not\s+available|No module named '?(venv|ensurepip)",
        "this Python cannot make environments; on Debian and Ubuntu: apt install python3-venv",
    ),
    (
        r"connection broken by|Failed to establish a new connection|Could not fetch URL|Read timed out"
        r"|Temporary failure in name resolution|ProxyError|SSLError",
        "the package index could not be reached; pip heeds HTTPS_PROXY, PIP_PROXY and PIP_CERT",
    ),
    (
        r"No matching distribution found for (?P<what>\S+)",
        "no wheel of {what} for this Python and this machine",
    ),
    (
        r"libcuda\.so",
        "the NVIDIA driver is not installed, or this container has no access to it",
    ),
    (
        r"libvulkan\.so",
        "the Vulkan loader is missing; on Debian and Ubuntu: apt install libvulkan1",
    ),
    (
        r"libgomp\.so",
        "a system library is missing; on Debian and Ubuntu: apt install libgomp1",
    ),
    (
        r"lib(amdhip64|hipblas|rocblas)\.so",
        "ROCm is not installed, or of another major version than the build",
    ),
)


def failure(what: str, output: str, returncode: int) -> SetupFailed:
    """The error for a program that failed: what it means where we know, and its own last word."""
    meaning = next(
        (text.format(**found.groupdict()) for pattern, text in _MEANINGS if (found := re.search(pattern, output))),
        None,
    )
    words = [text for text in (meaning, _last_word(output, returncode)) if text]
    return SetupFailed(": ".join([f"{what} failed", " - ".join(words)]))


def _last_word(output: str, returncode: int) -> str:
    if returncode < 0:
        return f"it was ended by {signal.Signals(-returncode).name}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return [*errors[:1], *lines[-1:], f"exit status {returncode}"][0]  # after its first error pip adds little
