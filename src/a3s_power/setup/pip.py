"""How pip is run: the user's ways out, and nothing else of what their settings would have it do.

A `target`, a `constraint` or an extra index that is right for the user's own projects would spoil an environment
of ours. So we ask pip for its settings, from whichever file or variable, and hand on those that are named here.
"""

import ast
import os
import re
from collections.abc import Mapping

INSTALL = (
    "install",
    "--only-binary=:all:",  # nobody wants to compile here
    "--no-input",
    "--progress-bar=off",
    "--disable-pip-version-check",
)
_WAYS_OUT = {
    "proxy", "cert", "client-cert", "trusted-host", "keyring-provider", "use-feature", "use-deprecated",
    "timeout", "default-timeout", "retries", "cache-dir", "no-cache-dir",
}  # fmt: skip
_INDEXES = {"index-url", "extra-index-url", "find-links", "no-index"}
_PRECEDENCE = ("global", "install", ":env:")
_LINE = re.compile(r"(?P<section>[^.=]+)\.(?P<key>[a-z-]+)=(?P<value>'.*'|\".*\")")


def environment(environ: Mapping[str, str], settings: str, *, with_indexes: bool = False) -> dict[str, str]:
    """The environment for pip. `settings` is what `pip config list` said in `environ`: `global.proxy='http://…'`."""
    wanted = _WAYS_OUT | _INDEXES if with_indexes else _WAYS_OUT
    found = [
        line for line in map(_LINE.fullmatch, settings.splitlines()) if line and line["section"] in _PRECEDENCE
    ]
    found.sort(key=lambda line: _PRECEDENCE.index(line["section"]))
    others = {name: value for name, value in environ.items() if not name.startswith("PIP_")}
    ours = {
        f"PIP_{line['key'].upper().replace('-', '_')}": str(ast.literal_eval(line["value"]))
        for line in found
        if line["key"] in wanted
    }
    return others | ours | {"PIP_CONFIG_FILE": os.devnull}
