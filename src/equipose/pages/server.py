"""A page on this machine's own address, for the eyes of its user: read only, and with no path that leads to a file.

Werkzeug (of the makers of Jinja2) checks the Host header, so that no page from elsewhere can read ours under a name of
its own (DNS rebinding); it answers HEAD, conditional and wrong requests, and serves tabs side by side.
"""

import logging
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Request, Response

from equipose.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

ADDRESS, NAMES = "127.0.0.1", ["127.0.0.1", "localhost"]
"""Where the page is, and the names under which a browser may ask for it."""

LAST_PORT = 65535

PORTS = 20
"""Ports that are tried, from the asked one on."""

PAGE_MAY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a page of ours may load: nothing, since all its parts lie in it."""


class OwnRequest(Request):
    """A request under one of our names; any other is refused with 400."""

    trusted_hosts = NAMES


def application(
    page: Callable[[str], str], state: Callable[[], str], report: Callable[[], Path | None]
) -> "WSGIApplication":
    """The WSGI application of three addresses: `/`, the page for a script's nonce; `/state`, its part that changes;
    `/report`, the finished report.
    """
    nonce = secrets.token_urlsafe(16)
    may = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'"
    )

    def answer(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(["GET", "HEAD"])
        request.host  # noqa: B018 (refuses a foreign name)
        if request.path == "/":
            return _html(page(nonce), may)
        if request.path == "/state":
            answered = _html(state(), may)
            answered.add_etag()
            return answered.make_conditional(request)
        if request.path == "/report" and (path := report()):
            return _html(path.read_text(), f"{PAGE_MAY}; script-src 'unsafe-inline'")
        raise NotFound

    def guarded(request: Request) -> Response:
        try:
            return answer(request)
        except HTTPException as refused:
            return _guarded(Response(refused.get_body(), refused.code, refused.get_headers()), "default-src 'none'")

    return OwnRequest.application(guarded)


def listen(app: "WSGIApplication", port: int) -> BaseWSGIServer:
    """A server at the first free port of `PORTS` from `port` on; 0 lets the system choose. It has yet to serve.

    Raises ConfigError if none is free.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
    last = min(port + PORTS - 1, LAST_PORT) if port else 0
    for tried in range(port, last + 1):
        with socket.socket() as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                ours.bind((ADDRESS, tried))
                ours.listen()
            except OSError:
                continue
            return make_server(ADDRESS, tried, app, threaded=True, fd=ours.fileno())
    raise ConfigError(f"ports {port} to {last} are all in use: name another one")


def _html(text: str, may: str) -> Response:
    return _guarded(Response(text, content_type="text/html; charset=utf-8"), may)


def _guarded(response: Response, may: str) -> Response:
    response.headers["Content-Security-Policy"] = f"{may}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    return response
