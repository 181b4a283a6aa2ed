"""Set the environment variables that requests, google-auth, obstore and GCSFuse read."""

from __future__ import annotations

import os
import ssl

from errors import UsageError

CERTIFICATES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")  # the first one that is set counts
# Loopback, as in Go's http.ProxyFromEnvironment, and the metadata server of Google VMs, which no proxy reaches.
DIRECT = ("localhost", "127.0.0.1", "::1", "metadata.google.internal", "169.254.169.254")

USUAL = {
    # Read when google.auth.compute_engine is imported: two attempts of two seconds instead of three of three.
    "GCE_METADATA_TIMEOUT": "2",
    "GCE_METADATA_DETECT_RETRIES": "2",
    # Read when obstore is first used: one thread is fast enough, and several wake each other, which takes 5 % of CPU.
    "TOKIO_WORKER_THREADS": "1",
}


def share() -> None:
    """Set all variables from those that are set; raises UsageError for an unusable value.

    Empty variables, which compose.yaml passes on, are removed, because obstore would take them for a file.
    """
    for name in filter(os.environ.__contains__, (*CERTIFICATES, "SSL_CERT_DIR")):
        if not os.environ[name]:
            del os.environ[name]
    os.environ |= USUAL | os.environ
    _share_certificates()
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):  # Go, and so GCSFuse, does not read ALL_PROXY
        proxy = next(filter(None, map(os.environ.get, (name.lower(), name, "all_proxy", "ALL_PROXY"))), "")
        if proxy.lower().startswith("socks"):
            raise UsageError(f"{name} or ALL_PROXY: SOCKS is not supported: expected http://host:port")
        if proxy:
            os.environ[name] = os.environ[name.lower()] = proxy
    direct = ",".join([os.environ.get("no_proxy", ""), os.environ.get("NO_PROXY", ""), *DIRECT])
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(dict.fromkeys(filter(None, direct.split(","))))


def _share_certificates() -> None:
    name = next(filter(os.environ.get, CERTIFICATES), "")
    if not name:
        return
    file = os.environ[name]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except OSError as error:  # SSLError is one
        raise UsageError(f"{name}: expected a file of certificates (PEM), got {file}: {error.strerror}") from error
    os.environ |= dict.fromkeys(CERTIFICATES, file)
