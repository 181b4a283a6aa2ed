"""Google credentials, project and client, from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

import google.auth
import google.auth.credentials
from google.cloud import storage

from errors import BucketError
from storage.bucket import reason
from storage.line import Line, LineAdapter

SCOPES = ("https://www.googleapis.com/auth/devstorage.full_control",)
CONNECTIONS = 64  # of google-cloud-storage, for all that does not go through obstore


def emulator() -> str | None:
    """The host of an emulator; None for Google itself."""
    return os.environ.get("STORAGE_EMULATOR_HOST") or None


def account() -> str:
    """The account that writes, and the origin of its credentials; raises BucketError if there are none."""
    credentials, origin = credentials_and_origin()
    name = getattr(credentials, "service_account_email", "") or getattr(credentials, "account", "")
    return f"{name or 'an unnamed account'}, {origin}"


def credentials_and_origin(billing_project: str = "") -> tuple[google.auth.credentials.Credentials, str]:
    """Google's default credentials, and their origin; raises BucketError if there are none.

    A billing project replaces the quota project of the credentials.
    """
    from google.auth import compute_engine  # reads the environment when it is imported

    if emulator():
        return google.auth.credentials.AnonymousCredentials(), f"for the emulator at {emulator()}"
    try:
        credentials, _ = google.auth.default(scopes=SCOPES, quota_project_id=billing_project or None)
    except google.auth.exceptions.GoogleAuthError as error:
        mount = "; in this container, mount the login: --volume ~/.config/gcloud:/root/.config/gcloud:ro"
        raise BucketError(
            "no Google credentials: run gcloud auth application-default login, or set"
            f" GOOGLE_APPLICATION_CREDENTIALS to a service account's key file"
            f" ({reason(error).partition(' To set up')[0]}){mount if 'SPOTTED_USER' in os.environ else ''}"
        ) from error
    if isinstance(credentials, compute_engine.Credentials):
        return credentials, "from the metadata server"
    file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return credentials, f"from {file}" if file else "from gcloud auth application-default login"


def project() -> str | None:
    """The project of a new bucket; None if none is set. An emulator needs none.

    GCP_PROJECT, then what google.auth finds: GOOGLE_CLOUD_PROJECT, the key file, gcloud's configuration, the metadata
    server (https://googleapis.dev/python/google-auth/latest/reference/google.auth.html).
    """
    named = os.environ.get("GCP_PROJECT")
    if named or emulator():
        return named or None
    _, found = google.auth.default(scopes=SCOPES)
    return found or None


def charged_to(billing_project: str, credentials: google.auth.credentials.Credentials) -> dict[str, str]:
    """The header with the project that pays, for all requests of all libraries; {} if none is known.

    Without `billing_project` it is the quota project of the login, which google.auth sends by itself, and obstore does
    not (https://cloud.google.com/storage/docs/requester-pays).
    """
    project = billing_project or getattr(credentials, "quota_project_id", None)
    return {"x-goog-user-project": project} if project else {}


def client(credentials: google.auth.credentials.Credentials, headers: Mapping[str, str], line: Line) -> storage.Client:
    """Create a client whose requests have `headers`; it has no project, which only the creation of a bucket needs."""
    made = storage.Client(project=None, credentials=credentials)
    # The session has no public name; requests' default of ten connections is too few for the threads.
    adapter = LineAdapter(line, CONNECTIONS)
    for scheme in ("http://", "https://"):
        made._http.mount(scheme, adapter)
    made._http.headers.update(headers)
    return made
