"""Ray's job server as an address: whether it answers, whether it asks for a token, and the client that talks to it.

A server that asks for none runs the code of everybody who can reach it (CVE-2023-48022, ShadowRay): that is said, not passed over."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from sweep.errors import ClusterError

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Ray's own, which its command line reads, too."""
ANSWER_WITHIN_S = 10.0


@dataclass(frozen=True)
class JobServer:
    """A job server that has answered."""

    address: str
    asks_for_token: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the way to it is not safe."""
        url = urlsplit(self.address)
        if not self.asks_for_token:
            return (
                f"{self.address} runs the code of everybody who can reach it: it asks for no token. Start its Ray with RAY_AUTH_MODE=token, "
                "as cluster.yaml does.",
            )
        if url.scheme == "http" and not _is_loopback(url.hostname or ""):
            return (f"the token travels to {self.address} in clear text. Use a tunnel (`ray dashboard cluster.yaml`) or https.",)
        return ()

    def client(self) -> Any:
        """Ray's client for it.

        Raises:
            ClusterError: it asks for a token, and there is none here."""
        from ray.job_submission import JobSubmissionClient

        with _only_this_address(self.address):
            return JobSubmissionClient(self.address, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        if not self.asks_for_token:
            return {}
        token = read_token(os.environ)
        if token is None:
            raise ClusterError(
                f"{self.address} asks for a token, but there is none here. Copy the cluster's into ~/.ray/auth_token, or name its file in "
                "RAY_AUTH_TOKEN_PATH; `ray get-auth-token` on the head prints it."
            )
        return {"Authorization": f"Bearer {token}"}


def find_job_server(address: str) -> JobServer:
    """The job server at that URL.

    Raises:
        ClusterError: no such URL, or none that answers as Ray does."""
    url = _checked(address)
    try:
        answer = requests.get(f"{url}/api/authentication_mode", timeout=ANSWER_WITHIN_S, allow_redirects=False)
        if answer.status_code == 404:  # before Ray 2.52, which knew no tokens
            requests.get(f"{url}/api/version", timeout=ANSWER_WITHIN_S, allow_redirects=False).json()["ray_version"]
            return JobServer(url, asks_for_token=False)
        mode = answer.json()["authentication_mode"]
    except requests.JSONDecodeError as error:
        raise _silent(url, "what answers there is not Ray's") from error
    except (requests.RequestException, KeyError, TypeError) as error:
        raise _silent(url, type(error).__name__) from error
    return JobServer(url, asks_for_token=mode != "disabled")


def read_token(environment: Mapping[str, str]) -> str | None:
    """The cluster's token, from where Ray looks for it: RAY_AUTH_TOKEN, the file at RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Raises:
        ClusterError: RAY_AUTH_TOKEN_PATH names no file with a token."""
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    if named and not token:
        raise ClusterError(f"RAY_AUTH_TOKEN_PATH must name a file that holds the cluster's token, but {named} is none. Write it, or unset the variable.")
    return token or None


def _checked(address: str) -> str:
    """The address without what follows its port."""
    try:
        url = urlsplit(address)
        port = f":{url.port}" if url.port is not None else ""
    except ValueError as error:
        raise ClusterError(f"`--address` must be the URL of Ray's job server, but it is {address!r}. Use e.g. http://127.0.0.1:8265.") from error
    if url.password or url.username:
        raise ClusterError("`--address` must hold no password: everybody on this machine can read it. Put a token into ~/.ray/auth_token.")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ClusterError(f"`--address` must be the URL of Ray's job server, but it is {address!r}. Use e.g. http://127.0.0.1:8265.")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}{port}{url.path.rstrip('/')}"


def _silent(url: str, reason: str) -> ClusterError:
    return ClusterError(
        f"Ray's job server must answer at {url}, but it does not ({reason}). Start the cluster (`ray up cluster.yaml`) and a tunnel to it "
        "(`ray dashboard cluster.yaml`), or give another --address."
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _only_this_address(address: str) -> Iterator[None]:
    """Ray's client lets the environment overrule the address that it is given."""
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before
