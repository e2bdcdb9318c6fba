"""Whom `submit` talks to: addresses, servers that ask for a token and servers that do not, and where tokens come from."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sweep.errors import ClusterError
from sweep.job_server import JobServer, find_job_server, read_token


@pytest.fixture
def answering():
    """Start a server on loopback that gives these answers by path."""
    servers = []

    def start(answers: dict[str, str]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = answers.get(self.path)
                self.send_response(200 if text is not None else 404)
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, *arguments: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "answers, asks",
    [
        ({"/api/authentication_mode": json.dumps({"authentication_mode": "token"})}, True),
        ({"/api/authentication_mode": json.dumps({"authentication_mode": "k8s"})}, True),
        ({"/api/authentication_mode": json.dumps({"authentication_mode": "disabled"})}, False),
        ({"/api/version": json.dumps({"ray_version": "2.40.0"})}, False),
    ],
)
def test_a_server_without_authentication_is_told_of_and_one_with_it_is_not(answering, answers, asks):
    server = find_job_server(answering(answers) + "/")
    assert server.asks_for_token is asks
    assert bool(server.warnings) is not asks
    assert asks or "RAY_AUTH_MODE=token" in server.warnings[0] and server.address in server.warnings[0]


def test_what_is_not_a_job_server_is_refused(answering):
    for answers in ({"/api/authentication_mode": "<html>"}, {"/api/authentication_mode": "[]"}, {}):
        address = answering(answers)
        with pytest.raises(ClusterError, match=rf"must answer at {address}.*ray up"):
            find_job_server(address)


def test_a_server_that_is_not_there_is_one_line_with_the_way_out():
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:9, but it does not \(ConnectionError\).*ray dashboard"):
        find_job_server("http://127.0.0.1:9")


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "127.0.0.1:8265", "http://", "http://head:port", "file:///etc/passwd"])
def test_what_is_no_url_of_a_job_server_is_refused(address):
    with pytest.raises(ClusterError, match="--address.*URL.*http://127.0.0.1:8265"):
        find_job_server(address)


def test_an_address_with_a_password_is_refused_and_not_repeated():
    with pytest.raises(ClusterError, match="no password") as caught:
        find_job_server("https://me:secret@head:8265")
    assert "secret" not in str(caught.value)


def test_a_token_in_clear_text_is_warned_of_beyond_loopback():
    assert "clear text" in JobServer("http://head.example:8265", asks_for_token=True).warnings[0]
    for address in ("https://head.example:8265", "http://localhost:8265", "http://127.0.0.1:8265", "http://[::1]:8265"):
        assert not JobServer(address, asks_for_token=True).warnings


def test_a_token_comes_from_where_ray_looks_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_token({}) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of the home\n")
    (tmp_path / "named").write_text("of the named file\n")
    named = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "named")}
    assert read_token({}) == "of the home"
    assert read_token(named) == "of the named file"
    assert read_token({**named, "RAY_AUTH_TOKEN": "of the environment"}) == "of the environment"
    with pytest.raises(ClusterError, match="RAY_AUTH_TOKEN_PATH.*missing"):
        read_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "missing")})
