"""Progress on stderr: spinners and bars for a person, one line a step for a log."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.status import Status

    from a3s_power.wire.ollama import StatusReply

# rich takes 0.1 s to import, and few commands need it: each import stands where it is used.


@contextmanager
def reporting(err: TextIO) -> Iterator["Steps"]:
    """Shows the steps of something long. A bar is redrawn until the block is left."""
    steps = Bars(err) if err.isatty() else Steps(err)
    try:
        yield steps
    finally:
        steps.end()


def report(reply: "StatusReply", steps: "Steps") -> None:
    """One status of the server's."""
    if reply.total:
        steps.amount(reply.status, reply.completed, reply.total)
    else:
        steps.status(reply.status)


class Steps:
    """A line for each step, which is all that a log needs."""

    def __init__(self, err: TextIO) -> None:
        self._err = err
        self._latest = ""

    def status(self, text: str) -> None:
        """A step begins; saying so again changes nothing."""
        if self._is_new(text):
            print(text, file=self._err, flush=True)

    def amount(self, text: str, completed: int, total: int) -> None:  # noqa: ARG002
        """How far the step has come, in bytes."""
        self.status(text)

    def end(self) -> None:
        """The latest step is over."""
        self._latest = ""

    def _is_new(self, text: str) -> bool:
        if text == self._latest:
            return False
        self.end()
        self._latest = text
        return True


class Bars(Steps):
    """The same on a terminal: a step that has an amount is a bar."""

    _bar: "Progress | None" = None

    def amount(self, text: str, completed: int, total: int) -> None:
        if self._is_new(text):
            self._bar = _new_bar(self._err)
            self._bar.add_task(text, total=total)
            self._bar.start()
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=completed)

    def end(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
        super().end()


def _new_bar(err: TextIO) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
    from rich.table import Column

    what = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # a digest is wider than some terminals
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=what),
        BarColumn(bar_width=20, table_column=Column(no_wrap=True)),
        DownloadColumn(table_column=Column(no_wrap=True)),
        TransferSpeedColumn(table_column=Column(no_wrap=True)),
        console=Console(file=err),
        expand=True,
    )


@contextmanager
def spinner(err: TextIO) -> Iterator["Spinner"]:
    """Turns until it is stopped, at the latest when the block is left. On a terminal only."""
    turning = Spinner(err)
    try:
        yield turning
    finally:
        turning.stop()


class Spinner:
    """A sign that something is going on."""

    def __init__(self, err: TextIO) -> None:
        self._status: Status | None = None
        if err.isatty():
            from rich.console import Console

            self._status = Console(file=err).status("")
            self._status.start()

    def stop(self) -> None:
        """Make room for output. May be called again."""
        if self._status:
            self._status.stop()
            self._status = None
