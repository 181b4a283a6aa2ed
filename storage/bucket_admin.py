"""Describe a bucket, or create it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import google.api_core.exceptions
import google.api_core.retry
import google.auth.credentials
import requests
from google.cloud import storage

from errors import BucketError
from sources.retry import innermost, tls_failure
from storage.api_errors import judge
from storage.bucket import NO_TERMS, BucketState, Terms, reason, wanted_region
from storage.credentials import project
from storage.rate_limit import HIERARCHICAL_FACTOR

log = logging.getLogger("spotted")

NO_ANSWER = (
    google.api_core.exceptions.GoogleAPIError,
    google.auth.exceptions.GoogleAuthError,
    requests.RequestException,
)


def _is_passing(error: Exception) -> bool:
    inner = error.args[0] if isinstance(error, google.auth.exceptions.TransportError) else error
    return isinstance(inner, Exception) and judge(inner).is_passing


# The library's default of two minutes looks like a hang, and it retries failures of TLS too.
STARTUP_RETRY = google.api_core.retry.Retry(_is_passing, timeout=20)


class Place:
    """One bucket; if it is created, it gets the properties of `terms`.

    For an existing bucket, rights on the names below `prefix` are enough: every listing has the prefix.
    """

    def __init__(
        self,
        client: storage.Client,
        credentials: google.auth.credentials.Credentials,
        name: str,
        prefix: str = "",
        terms: Terms = NO_TERMS,
    ) -> None:
        self._client, self._credentials, self.name, self.url = client, credentials, name, f"gs://{name}"
        self._bucket, self._prefix = client.bucket(name), {"prefix": prefix} if prefix else {}
        self._where, self._terms = f"{self.url}/{prefix}".rstrip("/"), terms
        self._is_hierarchical, self._is_known = terms.is_hierarchical, False
        self.keeps = ""  # why objects can be neither replaced nor removed; set by probe()

    @property
    def has_folders(self) -> bool:
        """Whether the bucket has folders as resources, which need no placeholder objects."""
        if not (self._is_known or self._is_hierarchical):
            self.probe()
        return self._is_hierarchical

    def ready(self) -> None:
        wanted, found = self._is_hierarchical, self.probe()
        if not found.exists:
            self._create(wanted)
        elif wanted and not found.is_hierarchical:
            log.warning("%s: exists without a hierarchical namespace, which only a new bucket can get", self.url)
        if found.exists:
            self._warn_of_other_terms(found)
        if found.is_hierarchical:
            log.info("%s: has a hierarchical namespace: %d times the initial write rate", self.url, HIERARCHICAL_FACTOR)
        if found.keeps:
            log.warning(
                "%s: %s: what is stored can be neither replaced nor removed; journal entries stay behind",
                self.url, found.keeps,
            )  # fmt: skip
        if found.is_versioned:
            log.info("%s: keeps old versions of what is replaced or removed, the journal's too", self.url)

    def _warn_of_other_terms(self, found: BucketState) -> None:
        for what, wanted, has, flag in (
            ("storage class", self._terms.storage_class, found.storage_class, "default-storage-class"),
            ("encryption key", self._terms.kms_key, found.kms_key, "default-encryption-key"),
        ):
            if wanted and wanted != has:
                log.warning(
                    "%s: exists, and new objects get its own %s (%s); to change it: gcloud storage buckets update %s"
                    " --%s=%s", self.url, what, has or "not known", self.url, flag, wanted,
                )  # fmt: skip

    def probe(self) -> BucketState:
        """Describe the bucket; raises BucketError if it may not be used."""
        found = self._probe_description()
        if found.exists:
            self._is_hierarchical, self._is_known, self.keeps = found.is_hierarchical, True, found.keeps
        return found

    def _probe_description(self) -> BucketState:
        with understood(self.url, "its description"):
            try:
                found = self._client.get_bucket(self.name, timeout=10, retry=STARTUP_RETRY)
            except google.api_core.exceptions.Forbidden:
                return self._probe_by_listing()
            except google.api_core.exceptions.NotFound:
                return BucketState(False)
            except NO_ANSWER as error:
                if "requester pays" in str(error):  # 400: https://cloud.google.com/storage/docs/requester-pays
                    raise BucketError(
                        f"{self.url}: its requester pays: give a project of yours that is billed, --billing-project ID"
                    ) from error
                why = tls_failure(error) or innermost(error)
                raise BucketError(f"{self.url}: no answer from Google Cloud Storage: {why}") from error
            is_hierarchical = bool(found.hierarchical_namespace_enabled)
            return BucketState(
                True, str(found.location).lower(), is_hierarchical, _keeps(found), bool(found.versioning_enabled),
                found.storage_class or "", found.default_kms_key_name or "",
            )  # fmt: skip

    def _probe_by_listing(self) -> BucketState:
        # roles/storage.objectAdmin has no storage.buckets.get, so after a 403 the bucket may still exist.
        try:
            found = self._client.list_blobs(
                self._bucket, **self._prefix, max_results=1, timeout=10, retry=STARTUP_RETRY
            )
            list(found)
        except google.api_core.exceptions.NotFound:
            return BucketState(False)
        except google.api_core.exceptions.Forbidden as error:
            if "serviceusage" in str(error):
                raise BucketError(
                    f"{self.url}: {self._who()} may not have a project billed: grant it roles/serviceusage."
                    f"serviceUsageConsumer there, or name another with --billing-project ({reason(error)})"
                ) from error
            raise BucketError(
                f"{self._where}: {self._who()} may not list its objects ({reason(error)}); if it lacks a role, run:"
                f" gcloud storage buckets add-iam-policy-binding {self.url} --member=serviceAccount:ACCOUNT"
                " --role=roles/storage.objectAdmin (for a prefix alone: docs/prefix.md)"
            ) from error
        layout = self._layout()
        is_hierarchical = bool(layout.get("hierarchicalNamespace", {}).get("enabled"))
        return BucketState(True, str(layout.get("location", "")).lower(), is_hierarchical)

    def _layout(self) -> Mapping[str, Any]:
        """The storage layout, which needs only the right to list objects; empty if it is not available.

        https://cloud.google.com/storage/docs/json_api/v1/buckets/getStorageLayout. google-cloud-storage has no method
        for it, and google-cloud-storage-control needs gRPC, so this uses the client's private connection.
        """
        try:
            found = self._client._connection.api_request(
                method="GET", path=f"/b/{self.name}/storageLayout", query_params=self._prefix,
                timeout=10, retry=STARTUP_RETRY,
            )  # fmt: skip
        except NO_ANSWER as error:
            log.debug("%s: its storage layout is not known: %s", self.url, reason(error))
            return {}
        return found if isinstance(found, Mapping) else {}

    def _create(self, is_hierarchical: bool) -> None:
        region = wanted_region()
        self._bucket.iam_configuration.uniform_bucket_level_access_enabled = True  # hierarchical ones must have it
        self._bucket.iam_configuration.public_access_prevention = "enforced"
        if is_hierarchical:
            self._bucket.hierarchical_namespace_enabled = True
        if self._terms.storage_class:
            self._bucket.storage_class = self._terms.storage_class
        if self._terms.kms_key:
            self._bucket.default_kms_key_name = self._terms.kms_key
        try:
            self._client.create_bucket(
                self._bucket, project=project(), location=region, timeout=30, retry=STARTUP_RETRY
            )
        except google.api_core.exceptions.Conflict as error:
            if self._is_there():  # created by another run
                return
            raise BucketError(f"{self.url}: the name belongs to another project; choose another with --to") from error
        except (google.api_core.exceptions.ClientError, ValueError, OSError) as error:
            raise BucketError(
                f"{self.url}: does not exist, and {self._who()} may not create it ({reason(error)}); grant"
                " roles/storage.admin on the project (GCP_PROJECT), or run: gcloud storage buckets create"
                f" {self.url} --location={region} --uniform-bucket-level-access --public-access-prevention"
            ) from error
        except NO_ANSWER as error:
            raise BucketError(
                f"{self.url}: no answer from Google Cloud Storage: {tls_failure(error) or innermost(error)}"
            ) from error
        self._is_hierarchical, self._is_known = is_hierarchical, True
        log.info("%s: created in %s%s", self.url, region, ", with a hierarchical namespace" * is_hierarchical)

    def _is_there(self) -> bool:
        try:
            return self.probe().exists
        except BucketError:
            return False

    def _who(self) -> str:
        return str(getattr(self._credentials, "service_account_email", "this account"))


@contextlib.contextmanager
def understood(url: str, what: str) -> Iterator[None]:
    """Raise BucketError in place of the library's errors about an answer that is not Google Cloud Storage's."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BucketError(
            f"{url}: {what} is not what Google Cloud Storage answers ({reason(error)}); is a proxy between?"
        ) from error


def _keeps(found: storage.Bucket) -> str:
    """Why a bucket does not allow objects to be removed or replaced; "" if it does."""
    if found.retention_period:
        return f"it has a retention policy of {found.retention_period:,} s"
    return "it puts a hold on each new object" if found.default_event_based_hold else ""
