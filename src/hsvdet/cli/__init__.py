"""The command line. Answers go to stdout, everything else to stderr.

Exit codes: 0 done; 1 `data check` found something to repair, or hsvdet itself failed; 2 something the user can
put right, said in one line; 128 + the signal's number after Ctrl-C (130) and SIGTERM (143).
With --json, stdout has exactly one JSON object: the answer, or {"error": {"type", "message"}}.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any, TextIO

from ..errors import HsvdetError, harmless
from .answer import Answer
from .other_names import as_options, hint

_PIPE_CLOSED = 128 + signal.SIGPIPE  # the reader had enough: `hsvdet models | head -1`


class _Terminated(KeyboardInterrupt):
    """SIGTERM: what ends work on Ctrl-C ends it the same way."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. arguments: those of the process, if not given."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    # Known before the arguments are parsed, because parsing may fail.
    as_json = "--json" in arguments
    with _only_answers_on_stdout(as_json) as stdout, _sigterm_as_interrupt(), _messages():
        answer = _run(arguments)
        content = json.dumps(answer.json, ensure_ascii=False, allow_nan=False) if as_json else answer.text
        try:
            if content and _is_first_process():
                print(harmless(content), file=stdout)
            stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())  # Python flushes again when it ends
            if isinstance(error, BrokenPipeError):
                return _PIPE_CLOSED
            return _failed("OSError", f"stdout cannot be written: {error.strerror}.", 2).code
        return answer.code


def _open_streams() -> None:
    """What the caller closed is opened as nothing. Else the next file that is opened would take its number, and what is
    meant for people be written into that."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))


def _run(arguments: list[str]) -> Answer:
    if not all(map(str.strip, arguments)) or any(re.fullmatch("--[a-z-]+=", each) for each in arguments):
        what = "an argument is empty text, as an unset variable gives it: a name, a path or a number was expected."
        return _failed("UsageError", what, 2)
    try:
        import typer

        from .commands import app

        if "_HSVDET_COMPLETE" in os.environ:  # a shell asks, as --show-completion told it
            typer.main.get_command(app).main(prog_name="hsvdet")
        # Not app(): that would turn Ctrl-C and a closed pipe into exit codes of its own.
        command = typer.main.get_command(app)
        with command.make_context("hsvdet", arguments) as context:
            return command.invoke(context) or Answer({}, "")
    except _Terminated:
        return _failed("Interrupted", "stopped by SIGTERM.", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return _failed("Interrupted", "stopped by Ctrl-C.", 128 + signal.SIGINT)
    except typer.Abort:  # pyright: ignore[reportPossiblyUnboundVariable] Ctrl-C, or the end of stdin, where it asks
        return _failed("Interrupted", "stopped where it asked.", 128 + signal.SIGINT)
    except HsvdetError as error:
        return _failed(type(error).__name__, str(error), getattr(error, "exit_code", 2), error)
    except BrokenPipeError:
        return Answer({}, "", _PIPE_CLOSED)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}." if error.filename and error.strerror else f"{error}."
        return _failed(type(error).__name__, what, 2, error)
    except typer.Exit as done:  # pyright: ignore[reportPossiblyUnboundVariable] --help and --version have printed already
        return Answer({}, "", done.exit_code)
    except Exception as error:
        worded = getattr(error, "format_message", None)
        if worded is not None:  # an option or argument that is wrong, from the parser
            message = " ".join(worded().split())
            known = hint(message, arguments)
            if known:  # the parser guesses by spelling
                message = message.partition(" (Possible options:")[0]
            message += "" if message.endswith((".", "?")) else "."
            return _failed("UsageError", f"{message}{known} {_help_of(error)}", 2, error)
        if type(error).__name__ == "OutOfMemoryError":
            return _failed("OutOfMemoryError", f"{error} A smaller --batch or --size needs less.", 2, error)
        what = f"unexpected {type(error).__name__}: {error}".rstrip(".: ")
        return _failed(
            type(error).__name__, f"{what}. HSVDET_DEBUG=1 shows where; please report it.", 1, error
        )


def _failed(kind: str, message: str, code: int, error: Exception | None = None) -> Answer:
    message = as_options(" ".join(message.split()))
    _say(message)
    if error is not None and os.environ.get("HSVDET_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return Answer({"error": {"type": kind, "message": message}}, "", code)


def _help_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"See {context.command_path if context else 'hsvdet'} --help"


@contextmanager
def _only_answers_on_stdout(as_json: bool) -> Iterator[TextIO]:
    """The stdout for the answer. With --json all other writing to it, by libraries and by the processes they
    start, goes to stderr."""
    if not as_json:
        # File names need not be text: their odd bytes are escaped.
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    sys.stdout.flush()
    kept, own = os.dup(1), sys.stdout
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8", errors="backslashreplace") as stdout:
            yield stdout
    finally:
        sys.stdout = own
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def terminate(number, frame):
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _ToStderr(logging.Handler):
    """Also while a progress bar has replaced sys.stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        _say(as_options(f"{kind}{' '.join(record.getMessage().split())}"))


def _say(message: str) -> None:
    with suppress(OSError):  # nobody reads it, or the disk is full
        print(f"hsvdet: {harmless(message)}", file=sys.stderr, flush=True)


@contextmanager
def _messages() -> Iterator[None]:
    """hsvdet's own messages on stderr; the warnings of libraries only with HSVDET_DEBUG."""
    log, handler = logging.getLogger("hsvdet"), _ToStderr()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO if _is_first_process() else logging.WARNING)
    log.propagate = False
    try:
        with warnings.catch_warnings():
            if not os.environ.get("HSVDET_DEBUG"):
                warnings.simplefilter("ignore", append=True)  # after what -W and PYTHONWARNINGS ask for
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def _is_first_process() -> bool:
    """Of those that torchrun or Lightning started: each of them runs the whole command."""
    names = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "NODE_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)
