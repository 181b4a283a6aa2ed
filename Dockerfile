# The tool as a container, with GCSFuse inside. What changes least comes first, the code last.
# The base images are pinned by digest, in lines that Dependabot can renew; an argument puts others in their place, and
# then these are not fetched. Behind a proxy that signs with its own certificate, put that into docker/ca.crt: it stays in
# the stages that download, and none of the image's layers has it. No instruction needs BuildKit: pipelines build without it.
ARG PYTHON_IMAGE=pinned-python
ARG GO_IMAGE=pinned-go
FROM python:3.13.14-slim-trixie@sha256:6771159cd4fa5d9bba1258caf0b82e6b73458c694d178ad97c5e925c2d0e1a91 AS pinned-python
FROM --platform=${BUILDPLATFORM:-linux} golang:1.27.0-trixie@sha256:6212da3924947f4b6a939df02ea627c13f338f1a41d6c3fcb0dd9d076eef46c4 AS pinned-go

# From the Go module proxy, in the version of docker/gcsfuse/go.mod, with the hashes of its go.sum and the Go that it asks for
# (Go's own images take no other without GOTOOLCHAIN). Cross-compiled: emulation takes ten times as long.
FROM --platform=${BUILDPLATFORM:-linux} ${GO_IMAGE} AS gcsfuse-from-source
ARG TARGETOS
ARG TARGETARCH
WORKDIR /build
COPY docker/gcsfuse docker/ca.cr[t] ./
RUN if [ -s ca.crt ]; then export SSL_CERT_FILE=$PWD/ca.crt; fi \
 && export GOTOOLCHAIN=auto CGO_ENABLED=0 GOOS="$TARGETOS" GOARCH="$TARGETARCH" \
 && module=github.com/googlecloudplatform/gcsfuse/v3 \
 && version=$(go list -m -f '{{.Version}}' "$module") \
 && go build -trimpath -ldflags "-s -w -X $module/common.gcsfuseVersion=$version" -o /gcsfuse "$module"

FROM scratch AS gcsfuse
COPY --from=gcsfuse-from-source /gcsfuse /

# The packages of the lock file, each with its hash; no wheel, no compiler and no pip cache goes further than this stage.
# All is compiled here, once: imports take a second less at every start, and in every worker. The hash in a compiled file
# is not looked at, for nothing changes in an image.
FROM ${PYTHON_IMAGE} AS packages
WORKDIR /build
COPY Pipfile.lock docker/requirements.py docker/ca.cr[t] ./
RUN if [ -s ca.crt ]; then export PIP_CERT=$PWD/ca.crt; fi \
 && python requirements.py Pipfile.lock default > requirements.txt \
 && python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-compile \
      --only-binary=:all: --require-hashes -r requirements.txt \
 && /opt/venv/bin/pip uninstall --yes --quiet pip \
 && find /opt/venv -name '*.pyc' -delete \
 && /opt/venv/bin/python -m compileall -q -j 0 -x /tests/ --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${PYTHON_IMAGE} AS code
COPY . /app
RUN rm -f /app/docker/ca.crt

# What is shipped.
FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="spotted-data-extraction" \
      org.opencontainers.image.description="Moves public dog image datasets into a Google Cloud Storage bucket" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-trixie"
# Debian's packages are not pinned: an image built anew should have their security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates curl fuse3 git jq tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && useradd --uid 1000 --create-home --shell /bin/bash spotted \
 && install --directory --mode 1777 /gcs
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY --from=gcsfuse /gcsfuse /usr/local/bin/
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY docker-entrypoint.sh /usr/local/bin/
COPY docker/component.py /usr/local/lib/spotted/
COPY --from=code /app ./
# What Python's own library lacks in compiled files (the official image has none) is written as it is imported.
RUN python -m compileall -q --invalidation-mode unchecked-hash . \
 && PYTHONDONTWRITEBYTECODE='' python -c 'import commands.check, commands.extract, commands.plan, commands.repair, commands.shards, commands.verify, storage.api, distributed.nanny'
# The entrypoint makes /dev/fuse usable and goes on as the plain user; with docker run --user it begins as that.
# tini is PID 1: it hands on the signals of docker stop, and reaps what GCSFuse leaves.
ENTRYPOINT ["tini", "--", "docker-entrypoint.sh"]
ARG VERSION=dev
ARG REVISION=unknown
ARG SOURCE=https://github.com/ACCOUNT/spotted-data-extraction
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
