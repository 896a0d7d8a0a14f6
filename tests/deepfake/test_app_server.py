"""The server of the browser page: it answers one upload after the other, keeps none, and refuses other sites."""

import socket
import tempfile
import threading
import time

import pytest

from deepfake.serving import uploads
from tests.deepfake.scripts import call
from tests.deepfake.tiny_runs import build, save_run

pytest.importorskip("starlette", reason="the page's server needs starlette and uvicorn, of the extra app")
pytest.importorskip("uvicorn", reason="the page's server needs starlette and uvicorn, of the extra app")

import app
from deepfake.serving.server import HOST, UPLOAD, listen
from tests.deepfake.page_requests import Echo, ask, serving


@pytest.fixture(scope="module")
def echo():
    return Echo()


@pytest.fixture(scope="module")
def port(echo):
    with serving(echo) as number:
        yield number


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


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
