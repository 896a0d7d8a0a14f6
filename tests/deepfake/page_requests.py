"""The server of the browser page in this process, with a stand-in for the detector, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlencode

from deepfake.common.cli import UserError
from deepfake.serving.server import HOST, UPLOAD, listen, server


class Echo:
    """In place of a detector: replies with the file's name and size, and notes how many replies ran at a time."""

    def __init__(self):
        self.running = self.most = 0
        self.seen = []

    def reply(self, path, crop):
        self.running += 1
        self.most = max(self.most, self.running)
        self.seen.append(path)
        time.sleep(0.02)
        self.running -= 1
        if path.suffix == ".bug":
            raise RuntimeError("a mistake of the code")
        if path.suffix == ".txt":
            raise UserError(f"{path}: not a readable image\n(of {path.parent}/others)")
        return {"name": path.name, "bytes": path.stat().st_size, "crop": crop, "beside": len([*path.parent.iterdir()])}


@contextlib.contextmanager
def serving(replies) -> Iterator[int]:
    """The port of a running server, which is stopped at the end."""
    running, listener = server("<p>the page</p>", replies), listen(0)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(timeout=20)
    assert not thread.is_alive()


def ask(port, method="POST", path="/answer", body=None, name="a.png", headers=(), seconds=20, **query):
    """Status, headers and content of the server's answer, which comes within some seconds."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=seconds)) as connection:
        target = f"{path}?{urlencode({'name': name, **query})}" if method == "POST" else path
        connection.request(method, target, body, {"Content-Type": UPLOAD, **dict(headers)})
        response = connection.getresponse()
        content = response.read()
    is_json = response.headers.get_content_type() == "application/json"
    return response.status, response.headers, json.loads(content) if is_json else content.decode()
