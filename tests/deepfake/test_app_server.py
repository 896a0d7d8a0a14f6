"""The server of the browser page: it answers one upload after the other, keeps none, and refuses other sites."""

import contextlib
import http.client
import json
import socket
import tempfile
import threading
import time
from urllib.parse import urlencode

import pytest

from deepfake.common.cli import UserError
from deepfake.serving import uploads
from tests.deepfake.scripts import call
from tests.deepfake.tiny_runs import build, save_run

pytest.importorskip("starlette", reason="the page's server needs starlette and uvicorn, of the extra app")
pytest.importorskip("uvicorn", reason="the page's server needs starlette and uvicorn, of the extra app")

import app
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


@pytest.fixture(scope="module")
def echo():
    return Echo()


@pytest.fixture(scope="module")
def port(echo):
    """The port of a running server."""
    running, listener = server("<p>the page</p>", echo), listen(0)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    running.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def ask(port, method="POST", path="/answer", body=None, name="a.png", headers=(), **query):
    """Status, headers and content of the server's answer."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=20)) as connection:
        target = f"{path}?{urlencode({'name': name, **query})}" if method == "POST" else path
        connection.request(method, target, body, {"Content-Type": UPLOAD, **dict(headers)})
        response = connection.getresponse()
        content = response.read()
    is_json = response.headers.get_content_type() == "application/json"
    return response.status, response.headers, json.loads(content) if is_json else content.decode()


def test_an_upload_is_answered_and_deleted(port, temporary):
    status, headers, answer = ask(port, body=b"12345", crop="none")
    assert (status, answer) == (200, {"name": "a.png", "bytes": 5, "crop": "none", "beside": 1})
    assert headers["Cache-Control"] == "no-store"
    assert list(temporary.iterdir()) == []


def test_a_failure_is_one_line_without_the_temporary_path(port, temporary):
    status, _, answer = ask(port, body=b"", name="../a.txt")
    assert (status, answer) == (422, {"error": "a.txt: not a readable image (of others)"})
    assert list(temporary.iterdir()) == []


def test_after_a_mistake_of_the_code_it_goes_on(port, temporary):
    status, headers, answer = ask(port, body=b"1", name="a.bug")
    assert (status, headers.get_content_type()) == (500, "text/plain") and "Traceback" not in answer
    assert list(temporary.iterdir()) == []
    assert ask(port, body=b"1")[0] == 200


@pytest.mark.parametrize("announced", [True, False])
def test_a_too_large_upload_is_refused(announced, port, echo, temporary, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BYTES", 10)
    before = len(echo.seen)
    status, _, answer = ask(port, body=b"x" * 11 if announced else iter([b"x" * 6, b"x" * 6]))
    assert status == 413 and answer["error"].startswith("a.png: larger than")
    assert list(temporary.iterdir()) == [] and len(echo.seen) == before


def test_uploads_at_the_same_time_are_answered_one_after_the_other(port, echo, temporary):
    answers = []
    threads = [threading.Thread(target=lambda i=i: answers.append(ask(port, body=b"x" * i)[2])) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["bytes"] for answer in answers) == list(range(6))
    assert {answer["beside"] for answer in answers} == {1}  # each in a folder of its own
    assert echo.most == 1
    assert list(temporary.iterdir()) == []


def test_a_browser_that_leaves_during_an_upload_leaves_nothing(port, echo, temporary):
    before = len(echo.seen)
    with socket.create_connection((HOST, port)) as connection:
        head = (
            f"POST /answer?name=a.png HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {UPLOAD}\r\nContent-Length: 999\r\n\r\n"
        )
        connection.sendall(head.encode() + b"part")
        assert until(lambda: list(temporary.glob("*/a.png")))
    assert until(lambda: not list(temporary.iterdir()))
    assert len(echo.seen) == before


def until(condition):
    """Whether a condition comes true within some seconds."""
    for _ in range(400):
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"Content-Type": "text/plain"}, {}, 415),  # what another site's page can send
        ({"Host": "elsewhere.example"}, {}, 400),  # another site's name for this machine
        ({}, {"crop": "eyes"}, 400),
    ],
)
def test_what_the_page_does_not_send_is_refused(headers, query, status, port, echo):
    before = len(echo.seen)
    assert ask(port, body=b"1", headers=headers, **query)[0] == status
    assert len(echo.seen) == before


def test_other_sites_may_not_ask(port):
    question = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = ask(port, "OPTIONS", headers=question)
    assert status == 405 and "Access-Control-Allow-Origin" not in headers


def test_the_page_may_load_nothing_from_elsewhere(port):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, content = ask(port, "GET", path)
        assert (status, headers.get_content_type()) == (200, kind) and content
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';") and "http" not in policy and "unsafe" not in policy


def test_nothing_but_the_page_is_served(port):
    for path in ("/page.html", "/../app.py", "/answer", "/docs", "/tmp"):
        assert ask(port, "GET", path)[0] in (404, 405)


def test_a_port_in_use_is_one_line(port, tmp_path, capsys):
    code, printed, errors = call(app.main, capsys, save_run(tmp_path / "run", build("panet")), "--port", port)
    assert (code, printed, len(errors)) == (1, "", 1)
    assert f"--port {port}" in errors[0]


def test_it_listens_on_the_loopback_address_only():
    with listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
