# The tool as a container, with GCSFuse inside. What changes least comes first, the code last.
# The base images and GCSFuse's version can be replaced by arguments. The secret `ca` is for builds behind a proxy that
# signs with its own certificate; without one it is an empty mount.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG GO_IMAGE=golang:1.27-bookworm

# From the Go module proxy, whose checksum database vouches for it. Cross-compiled: emulation takes ten times as long.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS gcsfuse-from-source
ARG GCSFUSE_VERSION=v3.13.0
ARG TARGETOS
ARG TARGETARCH
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.crt \
    --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    if [ -s /run/secrets/ca.crt ]; then export SSL_CERT_FILE=/run/secrets/ca.crt; fi \
 && module=github.com/googlecloudplatform/gcsfuse/v3 \
 && CGO_ENABLED=0 GOOS="$TARGETOS" GOARCH="$TARGETARCH" go install -trimpath \
      -ldflags "-s -w -X $module/common.gcsfuseVersion=$GCSFUSE_VERSION" "$module@$GCSFUSE_VERSION" \
 && find /go/bin -name gcsfuse -exec mv {} /gcsfuse ';'

FROM scratch AS gcsfuse
COPY --from=gcsfuse-from-source /gcsfuse /

# The packages of the lock file, each with its hash; no wheel, no compiler and no pip cache goes further than this stage.
FROM ${PYTHON_IMAGE} AS packages
WORKDIR /build
COPY Pipfile.lock docker/requirements.py ./
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.crt \
    if [ -s /run/secrets/ca.crt ]; then export PIP_CERT=/run/secrets/ca.crt; fi \
 && python requirements.py Pipfile.lock > requirements.txt \
 && python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-compile \
      --only-binary=:all: --require-hashes -r requirements.txt \
 && /opt/venv/bin/pip uninstall --yes --quiet setuptools pip

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="spotted-data-extraction" \
      org.opencontainers.image.description="Moves public dog image datasets into a Google Cloud Storage bucket" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates fuse3 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home --shell /bin/bash spotted \
 && install --directory --mode 1777 /gcs
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY --from=gcsfuse /gcsfuse /usr/local/bin/
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY docker-entrypoint.sh /usr/local/bin/
COPY *.py card.html ./
# The entrypoint makes /dev/fuse usable and goes on as the plain user; with docker run --user it begins as that.
# tini is PID 1: it hands on the signals of docker stop, and reaps what GCSFuse leaves.
ENTRYPOINT ["tini", "--", "docker-entrypoint.sh"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"
