"""The ways a registry says no, or nothing at all.

Messages are Ollama's own where it has one: clients match on `file does not exist` and `access denied`.
"""

from a3s_power.errors import AppError


class RegistryFailed(AppError):
    """Base: a request to a registry came to nothing. `is_transient`: the same request may do better later."""

    is_transient = False


class RegistryUnreachable(RegistryFailed):
    """No connection, silence, or an answer that broke off."""

    is_transient = True


class InsecureRegistry(RegistryFailed):
    """There is no trustworthy https at the registry's address, and nobody allowed less."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            f"{host}: no trusted https connection: {reason}; "
            "if the registry has a certificate of its own making or speaks plain http, use --insecure"
        )


class RemoteNotFound(RegistryFailed):
    """The registry has no such manifest, blob or upload."""

    def __init__(self) -> None:
        super().__init__("file does not exist")


class Unauthorized(RegistryFailed):
    """The registry does not let us, with all that we may show it."""

    def __init__(self, message: str = "unauthorized: access denied") -> None:
        super().__init__(message)


class RegistryRefused(RegistryFailed):
    """An HTTP status that is no success, and what the body says about it."""

    def __init__(self, status: int, text: str, *, is_transient: bool) -> None:
        super().__init__(f"{status}: {text}" if text else str(status))
        self.status = status
        self.is_transient = is_transient


class KeychainFailed(RegistryFailed):
    """A key or a password file of ours is there and cannot be used, or a key cannot be written."""


class BadReply(RegistryFailed):
    """An answer that the protocol does not have for the question: too large, the wrong range, a stray redirect."""
