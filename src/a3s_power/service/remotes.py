"""What pulls and pushes have in common: whom they may talk to, and as whom."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from a3s_power.errors import InvalidRequest
from a3s_power.registry.auth import HUGGING_FACE, Keychain, is_hugging_face
from a3s_power.registry.session import Session, Site, open_session

PROGRESS_S = 0.1
"""Between two progress reports of one file."""


@dataclass(frozen=True, slots=True)
class Remotes:
    """What the operator has settled about registries."""

    keychain: Keychain
    user_agent: str
    allowed: tuple[str, ...] = ()
    """Hosts, with their ports; none of them named allows all."""

    def allows(self, host: str) -> bool:
        return not self.allowed or _known_as(host) in map(_known_as, self.allowed)

    def check_allowed(self, host: str) -> None:
        """Raise InvalidRequest unless the operator lets us talk to a host."""
        if not self.allows(host):
            raise InvalidRequest(f"registry {host} is not allowed here; A3S_POWER_REGISTRIES says which are")

    def session(self, site: Site) -> AbstractAsyncContextManager[Session]:
        """Talk to a site. Raises as `open_session`."""
        return open_session(site, keychain=self.keychain, user_agent=self.user_agent)


def _known_as(host: str) -> str:
    """One spelling for each; Hugging Face has two names."""
    return HUGGING_FACE if is_hugging_face(host) else host.lower()
