"""Files from the web, into a temporary file: bounded in size and time, and not led into the private network."""

# pyright: strict

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from importlib.metadata import version
from ipaddress import ip_address
from typing import IO, Any, cast
from urllib.error import HTTPError, URLError
from urllib.request import FTPHandler, HTTPHandler, HTTPSHandler, Request, build_opener

from ..bounds import LONGEST_TRANSFER
from ..errors import DataError

_PATIENCE = 30  # seconds without a byte from a server
_CHUNK = 2**20


class _Watch:
    """One request with what it is redirected to: its connections, and until when they may last."""

    def __init__(self, name: str):
        self._name, self._private, self._ended = name, None, False
        self._sockets: list[socket.socket] = []

    def connected(self, connected: socket.socket) -> None:
        """Raises DataError where a server of the internet has led to an address that is none of it."""
        self._sockets.append(connected)
        private = not ip_address(connected.getpeername()[0].partition("%")[0]).is_global
        if self._private is None:
            self._private = private  # what was named may be a camera in the same room
        elif private and not self._private and os.environ.get("HSVDET_PRIVATE_REDIRECTS") != "1":
            raise DataError(
                f"{self._name} is redirected to an address in the private network, which is not followed. If it is"
                " meant so, name that address, or set the environment variable HSVDET_PRIVATE_REDIRECTS=1."
            )

    def end(self) -> None:
        """However slowly a server sends: what waits for it gets no more bytes."""
        self._ended = True
        for connected in self._sockets:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Raises DataError after `end`."""
        if self._ended:
            raise DataError(
                f"{self._name} was not there after {LONGEST_TRANSFER} s. Download it and give the file."
            )


class _Http(HTTPHandler):
    def __init__(self, watch: _Watch):
        super().__init__()
        self._watch = watch

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(cast("Any", partial(_connection, HTTPConnection, self._watch)), req)


class _Https(HTTPSHandler):
    def __init__(self, watch: _Watch):
        super().__init__()
        self._watch = watch

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(cast("Any", partial(_connection, HTTPSConnection, self._watch)), req)


class _NoFtp(FTPHandler):
    def ftp_open(self, req: Request) -> Any:
        raise URLError("redirected to ftp, which is not followed")


def _connection(
    kind: Callable[..., HTTPConnection], watch: _Watch, *arguments: Any, **options: Any
) -> HTTPConnection:
    connection = kind(*arguments, **options)
    connect = connection.connect

    def watched() -> None:
        connect()
        watch.connected(connection.sock)

    connection.connect = watched
    return connection


@contextmanager
def opened(url: str, name: str) -> Generator[HTTPResponse, None, None]:
    """The answer of a server, its content still to come. name: the URL in messages.

    Raises DataError where it cannot be fetched, within too, and where it is not whole after LONGEST_TRANSFER seconds.
    """
    watch = _Watch(name)
    timer = threading.Timer(LONGEST_TRANSFER, watch.end)
    timer.daemon = True
    timer.start()
    try:
        request = Request(url, headers={"User-Agent": f"hsvdet/{version('hsvdet')}"})
        with build_opener(_Http(watch), _Https(watch), _NoFtp).open(request, timeout=_PATIENCE) as response:
            yield response
    except HTTPError as error:
        raise DataError(f"{name} cannot be fetched: the server says {error.code} {error.reason}.") from error
    except (URLError, HTTPException, OSError, ValueError) as error:
        watch.check()
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise DataError(f"{name} cannot be fetched: {str(reason).rstrip('.')}.") from error
    except DataError:
        watch.check()
        raise
    finally:
        timer.cancel()


def download(response: HTTPResponse, file: IO[bytes], name: str, limit: int) -> None:
    """The content into a file, up to `limit` bytes. Raises DataError for more, for less than promised, and for none."""
    promised = response.headers.get("Content-Length") or "0"
    if not promised.isdecimal() or len(promised) > 18:
        raise DataError(f"{name} cannot be fetched: the server says that it has {promised[:20]} bytes.")
    expected, size = int(promised), 0
    while expected <= limit and size <= limit and (chunk := response.read1(_CHUNK)):
        size += len(chunk)
        file.write(chunk)
    if max(expected, size) > limit:
        raise DataError(f"{name} has more than {limit // 2**20} MiB. Download it and give the file.")
    if size < expected:
        raise DataError(f"{name} broke off after {size:,} of {expected:,} bytes.")
    if not size:
        raise DataError(f"{name} is empty (0 bytes).")
    file.flush()
