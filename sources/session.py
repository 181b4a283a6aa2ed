"""A requests session that sends credentials only to their host, and follows no redirect into a private network."""

from __future__ import annotations

import ipaddress
import netrc
import os
import socket
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_auth_from_url

from errors import SourceError


class _OwnCredentials(AuthBase):
    """User and password of the URL, or of .netrc's entry for exactly its host; `default` is not used."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        user, password = _credentials(request.url or "")
        return HTTPBasicAuth(user, password)(request) if user or password else request


def _credentials(url: str) -> tuple[str, str]:
    user, password = get_auth_from_url(url)
    if user or password:
        return user, password
    found = _netrc().get(urlsplit(url).hostname or "")
    return (found[0] or found[1] or "", found[2] or "") if found else ("", "")


def _netrc() -> dict[str, tuple[str, str | None, str | None]]:
    """The entries of .netrc by host; none if it is missing or damaged, as in requests."""
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            return {host: entry for host, entry in netrc.netrc(str(path)).hosts.items() if host != "default"}
        except (OSError, netrc.NetrcParseError):
            continue
    return {}


class Border:
    """Prevents public sources from leading to addresses of this machine or its network."""

    def __init__(self, is_open: bool = False) -> None:
        """`is_open` allows everything."""
        self.is_open, self._is_inside = is_open, lru_cache(maxsize=1024)(_is_inside)
        self._outside = set[str]()  # public hosts, and hosts that a public source has led to

    def check(self, here: str, there: str) -> None:
        """Raise SourceError if the URL or table `here` must not lead to `there`."""
        before, after = urlsplit(here).hostname, urlsplit(there).hostname
        if self.is_open or not before or not after or before == after:
            return
        if before in self._outside or not self._is_inside(before):
            if self._is_inside(after):
                raise _refused(here, after)
            self._outside.add(after)

    def check_peer(self, host: str, address: str) -> None:
        """Raise SourceError if a public host was connected at a private address: its name has changed meanwhile."""
        if _is_global(address):
            self._outside.add(host)
        elif host in self._outside and not self.is_open:
            raise _refused(host, address)


def _is_inside(host: str) -> bool:
    """Whether a name has a private address; False if it cannot be resolved here."""
    try:
        return not all(_is_global(str(each[4][0])) for each in socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def _refused(here: str, there: str) -> SourceError:
    why = (
        f"{here}: leads to {there}, an address inside this network or machine, which a source outside must not name; if"
        " that is meant, use --allow-private-addresses"
    )
    return SourceError(why)


def _is_global(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_global


class OwnSession(requests.Session):
    """A session with these two rules."""

    def __init__(self, border: Border) -> None:
        super().__init__()
        self.auth, self._border = _OwnCredentials(), border

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        headers, before, after = prepared_request.headers, response.request.url or "", prepared_request.url or ""
        if "Authorization" in headers and self.should_strip_auth(before, after):  # type: ignore[no-untyped-call]
            del headers["Authorization"]
        if any(_credentials(after)):
            prepared_request.prepare_auth(_OwnCredentials())

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if resp.status_code == 300:  # with the server's choice (RFC 9110, 15.4.1), which requests leaves to the user
            target = resp.headers.get("Location")
        self._border.check(resp.request.url or "", target or "")
        return target
