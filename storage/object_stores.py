"""The obstore clients of one bucket, with the same credentials as google-cloud-storage."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import google.auth.credentials
import obstore
from obstore.auth.google import GoogleCredentialProvider
from obstore.store import GCSStore

from storage.credentials import emulator

if TYPE_CHECKING:
    from obstore.store import ClientConfig, GCSConfig, RetryConfig

T = TypeVar("T")

# obstore's retries of reads. Its default of ten tries ends after three seconds; an overloaded bucket needs minutes.
RETRIES: RetryConfig = {
    "max_retries": 15,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(milliseconds=500), "max_backoff": timedelta(seconds=20), "base": 2},
}
# Puts are repeated by the limiter; obstore's own retries would bypass it.
NO_RETRIES: RetryConfig = {"max_retries": 0}
CLIENT: ClientConfig = {"timeout": timedelta(minutes=2)}  # for a whole put: obstore has no other


class Stores(NamedTuple):
    """One client for reads and one for puts; each gets its own token when it is first used."""

    gets: GCSStore
    puts: GCSStore


class ObjectStores:
    """The clients of a bucket or of a prefix of it; `headers` are sent with each request."""

    def __init__(
        self, bucket: str, prefix: str, credentials: google.auth.credentials.Credentials, headers: Mapping[str, str]
    ) -> None:
        self._bucket, self._prefix, self._credentials, self._headers = bucket, prefix, credentials, headers
        self._stores, self._renewing = self._open(), threading.Lock()

    def run(self, work: Callable[[Stores], T]) -> T:
        """Call `work`; call it once more with a new token if the token is refused.

        obstore renews tokens in time, but by a clock that stops while the machine sleeps.
        """
        stores = self._stores
        try:
            return work(stores)
        except obstore.exceptions.UnauthenticatedError:
            with self._renewing:
                if stores is self._stores:  # only one of the refused threads renews it
                    self._stores = self._open()
            return work(self._stores)

    def _open(self) -> Stores:
        return Stores(*map(self._store, (RETRIES, NO_RETRIES)))

    def _store(self, retries: RetryConfig) -> GCSStore:
        config: GCSConfig = {}
        options: ClientConfig = CLIENT | {"default_headers": dict(self._headers)}
        host, provider = emulator(), None
        if host:
            url = host if "://" in host else f"http://{host}"
            key = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
            config["service_account_key"] = json.dumps({"gcs_base_url": url, **key})
            options = options | {"allow_http": True}
        else:
            provider = GoogleCredentialProvider(self._credentials)
        return GCSStore(
            self._bucket, prefix=self._prefix, config=config, client_options=options, retry_config=retries,
            credential_provider=provider,
        )  # fmt: skip
