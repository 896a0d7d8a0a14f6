"""The page's server, on this machine only: it receives one file a request, and keeps nothing of it after the answer."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import suppress
from functools import partial
from types import FrameType

import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..common.cli import UserError
from .limits import TooLarge
from .page import SCRIPT, STYLE
from .replies import Replies
from .uploads import NotStored, receive, temporary_file

HOST = "127.0.0.1"
UPLOAD = "application/octet-stream"  # no page of another site may send this type without asking, which is refused
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def application(page: str, replies: Replies) -> Starlette:
    """The page and its one action, `POST /answer?name=NAME&crop=face|none` with the file as the body."""
    one_at_a_time = anyio.CapacityLimiter(1)

    async def answer(request: Request) -> Response:
        if request.headers.get("content-type") != UPLOAD:
            return _error(f"the file must be sent as {UPLOAD}", 415)
        crop = request.query_params.get("crop", "face")
        if crop not in ("face", "none"):
            return _error(f"crop={crop!r} (wanted face or none)", 400)
        try:
            with temporary_file(request.query_params.get("name", "")) as path:
                await receive(request.stream(), path, _announced(request))
                try:
                    work = partial(replies.reply, path, crop)
                    return JSONResponse(await anyio.to_thread.run_sync(work, limiter=one_at_a_time), headers=HEADERS)
                except UserError as error:
                    raise UserError(str(error).replace(f"{path.parent}/", "")) from error
        except UserError as error:
            return _error(" ".join(str(error).split()), _status(error))
        except (ClientDisconnect, asyncio.CancelledError):  # the browser has left, or the server stops
            return Response(status_code=400)

    routes = [
        Route("/", partial(_file, page, "text/html")),
        Route("/page.css", partial(_file, STYLE.read_text(encoding="utf-8"), "text/css")),
        Route("/page.js", partial(_file, SCRIPT.read_text(encoding="utf-8"), "text/javascript")),
        Route("/answer", answer, methods=["POST"]),
    ]
    # A page of another site that has its own name resolve to this machine sends that name.
    ours = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[ours])


async def _file(content: str, kind: str, request: Request) -> Response:
    return Response(content, media_type=kind, headers=HEADERS)


def _error(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status, headers=HEADERS)


def _status(error: UserError) -> int:
    return 413 if isinstance(error, TooLarge) else 507 if isinstance(error, NotStored) else 422


def _announced(request: Request) -> int:
    """The size that the request says it has; 0 if it says none."""
    with suppress(ValueError):
        return int(request.headers.get("content-length", "0"))
    return 0


def listen(port: int) -> socket.socket:
    """A socket that listens on the loopback address. UserError if the port is not free."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise UserError(f"--port {port}: {error.strerror}; choose another one, or 0 for any that is free") from error
    listener.listen()
    return listener


class Server(uvicorn.Server):
    """A server that a signal stops at once: the upload in progress is deleted, and its answer is not waited for."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note any signal as Ctrl-C, which uvicorn raises again (KeyboardInterrupt) when everything is closed."""
        super().handle_exit(signal.SIGINT, frame)
        self.force_exit = True


def server(page: str, replies: Replies) -> Server:
    """The server of `application`, which is not started yet."""
    app = application(page, replies)
    return Server(
        uvicorn.Config(app, lifespan="off", ws="none", log_level="warning", access_log=False, server_header=False)
    )
