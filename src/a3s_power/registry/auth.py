"""What this machine can show a registry: an ed25519 key, passwords of Docker's configuration file, a token.

Everything here blocks; callers put it on a thread.
"""

import base64
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from a3s_power.registry.errors import KeychainFailed

HUGGING_FACE = "huggingface.co"


def is_hugging_face(host: str) -> bool:
    """Whether a host is Hugging Face's, by its long name or its short one."""
    return host.lower() in {HUGGING_FACE, "hf.co"}


class Keychain:
    """The key at `key_path`, made when it is first needed; the passwords in `docker_config`, if it is there.

    `hugging_face_token` opens private and gated repositories there.
    """

    def __init__(self, key_path: Path, docker_config: Path | None, hugging_face_token: str = "") -> None:
        self._key_path = key_path
        self._docker_config = docker_config
        self._hugging_face_token = hugging_face_token.strip()  # it may come from a file, with its newline

    def sign(self, message: bytes) -> str:
        """`<public key>:<signature>`, both in base64: what Ollama's registry takes for an Authorization header.

        The public key is in SSH's wire form, as in the `.pub` file. Raises KeychainFailed.
        """
        key = _load_or_make(self._key_path)
        return f"{_public(key)}:{base64.b64encode(key.sign(message)).decode()}"

    def token(self, host: str) -> str | None:
        """What a site is shown before it asks. Only Hugging Face takes one."""
        return (self._hugging_face_token or None) if is_hugging_face(host) else None

    def password(self, host: str) -> str | None:
        """The `user:password` kept for `localhost:5000`, in base64 as basic authentication wants it.

        Credential helpers and identity tokens are not looked at. Raises KeychainFailed.
        """
        return _password(self._docker_config, host.lower()) if self._docker_config else None


def docker_config_path(environ: Mapping[str, str], home: Path) -> Path:
    """Where Docker's own client would look. There may be no such file."""
    return Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


# ---- the key ----


def _load_or_make(path: Path) -> Ed25519PrivateKey:
    try:
        if not path.exists():
            _make(path)
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:  # TypeError: it has a passphrase
        raise KeychainFailed(f"{path}: {exc}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise KeychainFailed(f"{path}: not an ed25519 key")
    return key


def _make(path: Path) -> None:
    """Write a new key and its `.pub`, as ssh-keygen would. A key that someone else makes meanwhile stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # 0600 from the start
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(file.name, path)  # unlike a rename, it never replaces
        except FileExistsError:
            return
    path.with_name(f"{path.name}.pub").write_text(f"ssh-ed25519 {_public(key)}\n")


def _public(key: Ed25519PrivateKey) -> str:
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return line.split()[1].decode()


# ---- Docker's configuration file ----


class _Entry(msgspec.Struct):
    auth: str = ""


class _DockerConfig(msgspec.Struct):
    auths: dict[str, _Entry] = {}


def _password(path: Path, host: str) -> str | None:
    """In base64; None without an entry, or with one that has no password of its own."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=_DockerConfig)
        found = (entry.auth for name, entry in config.auths.items() if _host(name) == host and entry.auth)
        auth = next(found, None)
        return None if auth is None else _normal(auth)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:  # msgspec's and base64's errors are ValueErrors
        raise KeychainFailed(f"{path}: {exc}") from exc


def _host(name: str) -> str:
    """Entries are named `localhost:5000`, or `https://index.docker.io/v1/` as it was long ago."""
    return name.rpartition("://")[2].partition("/")[0].lower()


def _normal(auth: str) -> str:
    user, _, password = base64.b64decode(auth).rstrip(b"\0").partition(b":")
    return base64.b64encode(user + b":" + password).decode()
