"""Decide after a failed request: wait and try again, or give up."""

from __future__ import annotations

import http.client
import logging
import random
import re
import time
from collections.abc import Callable

import requests
import urllib3

from errors import SourceError, escaped, printable
from sources.hosts import Host
from sources.http_answers import PassingError

log = logging.getLogger("spotted")

MAX_ATTEMPTS = 8  # tries without progress before a source is given up: about a minute of back-off
MAX_FIRST_ATTEMPTS = 4  # the same for the first contact, where a person waits
MAX_WAIT_SECONDS = 300  # seconds; a server that asks for more (Retry-After) is not waited for
MAX_FREE_REFUSALS = 16  # refusals of one request that are no tries, while the server answers others of this process
MAX_FREE_WAIT_SECONDS = 8  # seconds after such a refusal
# What a later try does not mend: OpenSSL's names, and rustls' as obstore shows them.
TLS = re.compile("CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|UNSUPPORTED_PROTOCOL|Invalid(Certificate|ContentType)")
RETRIED = (PassingError, requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)


class ThrottledError(PassingError):
    """The server refuses parallel requests; this process has `others` in flight, and `served` were answered."""

    def __init__(self, reason: str, host: Host, wait: float = 0) -> None:
        super().__init__(reason, wait)
        self.others, self.served = host.throttled(), host.served


class Tries:
    """The failed tries of one request, and the wait before the next."""

    def __init__(self, attempts: int, count: Callable[[], None]) -> None:
        """`count` is called for each retry."""
        self.attempts, self._count, self._served = attempts, count, 0
        self.renew()

    def renew(self) -> None:
        """Count from zero again, after progress."""
        self.failures = self.refusals = 0

    def wait(self, what: str, error: Exception) -> None:
        """Wait after a failed try; raises SourceError when it was the last one."""
        if isinstance(error, ThrottledError) and self._is_free(error):
            self.refusals += 1
            self._pause(what, error, self.refusals, min(error.wait, MAX_WAIT_SECONDS), MAX_FREE_WAIT_SECONDS)
            return
        self.failures += 1
        tls = tls_failure(error)
        asked = error.wait if isinstance(error, PassingError) else 0
        if self.failures >= self.attempts or asked > MAX_WAIT_SECONDS or tls:
            later = f"; it asks to wait {asked:,.0f} s" if asked else ""
            attempts = "1 attempt" if self.failures == 1 else f"{self.failures} attempts"
            raise SourceError(f"{what}: gave up after {attempts}: {tls or innermost(error)}{later}") from error
        self._pause(what, error, self.failures, asked)

    def _is_free(self, error: ThrottledError) -> bool:
        """Return whether the server refused this request because it serves others of this process."""
        before, self._served = self._served or error.served, error.served
        return self.refusals < MAX_FREE_REFUSALS and (error.others > 0 or error.served > before)

    def _pause(
        self, what: str, error: Exception, failures: int, asked: float, longest: float = MAX_WAIT_SECONDS
    ) -> None:
        log.debug("%s: try %d: %s", what, failures, innermost(error))
        self._count()
        # Jitter, so that not all return together.
        time.sleep(max(asked, min(2 ** (failures - 2), longest) * random.uniform(0.75, 1.25)))


def tls_failure(error: BaseException) -> str:
    """Describe a TLS failure, with its cure; "" for any other error."""
    if not (found := TLS.search(str(error))):
        return ""
    why = innermost(error) if "[SSL" in str(error) else found[0]
    return f"TLS failed ({why}): a network's own certificates must be named in REQUESTS_CA_BUNDLE (docs/network.md)"


def innermost(error: BaseException) -> str:
    """Return the reason in one line: Google's library wraps requests' error, which wraps urllib3's and the socket's."""
    by = ""
    while inner := next(
        (arg for name in ("cause", "reason") if isinstance(arg := getattr(error, name, None), Exception)),
        next((arg for arg in error.args if isinstance(arg, Exception)), None),
    ):
        error, by = inner, "the proxy: " if isinstance(inner, urllib3.exceptions.ProxyError) else by
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        why = f"expected an answer as HTTP has it, got {escaped(str(error))}"
        return by + why
    return by + printable(re.sub(r"<?\w+(\.\w+)*( object at |\().*?[>)]: ", "", str(error))) or type(error).__name__
