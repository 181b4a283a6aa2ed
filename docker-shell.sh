#!/bin/sh
# Builds the image and runs it: a shell without arguments, the tool with them (sh docker-shell.sh --sample).
# Set in the environment, or in a file .env beside this one; the environment wins:
#   GCS_BUCKET                      bucket to write to (default: spot-raw-data), or bucket/prefix, unless --to is given
#   GCP_PROJECT or GOOGLE_CLOUD_PROJECT, GCS_REGION   where the bucket is created if there is none
#   GOOGLE_APPLICATION_CREDENTIALS  a service account's key file; without one, the login of
#                                   `gcloud auth application-default login`; on Google's machines neither is needed
#   REQUESTS_CA_BUNDLE, SSL_CERT_FILE or CURL_CA_BUNDLE   certificates of a company network; one of them is enough
#   HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY          and the same in small letters
#   GOOGLE_CLOUD_QUOTA_PROJECT      the project that pays for the requests, where a bucket's requester pays
#   STORAGE_EMULATOR_HOST           an emulator in place of Google's
#   IMAGE, DOCKER, DOCKER_RUN_ARGS, DOCKER_BUILD_ARGS, PRIVILEGED=1, NO_FUSE=1, SPOTTED_…
set -eu
cd "$(dirname "$0")"

if [ -f .env ]; then
  while IFS='=' read -r name value || [ -n "$name" ]; do
    name=${name#export }
    case "$name" in '' | \#* | [0-9]* | *[!A-Za-z0-9_]*) continue ;; esac
    case "$value" in \"*\" | \'*\') value=${value#?} value=${value%?} ;; esac
    eval "[ -n \"\${$name+set}\" ]" || export "$name=$value"
  done < .env
fi

docker=${DOCKER:-docker}
image=${IMAGE:-spotted-data-extraction}
bucket=${GCS_BUCKET:-spot-raw-data}
: "${SPOTTED_TO:=gs://${bucket#gs://}}"
export SPOTTED_TO
key=${GOOGLE_APPLICATION_CREDENTIALS:-}
if [ -n "$key" ] && ! [ -f "$key" ]; then # Docker would make a folder of that name
  echo "GOOGLE_APPLICATION_CREDENTIALS: $key: no such file; give a service account's key file, or unset it" >&2
  exit 2
fi
login=${CLOUDSDK_CONFIG:-${HOME:-}/.config/gcloud}/application_default_credentials.json
if [ -z "$key" ] && [ -f "$login" ]; then key=$login; fi
ca=${REQUESTS_CA_BUNDLE:-${SSL_CERT_FILE:-${CURL_CA_BUNDLE:-}}}
if [ -n "$ca" ] && ! [ -f "$ca" ]; then
  echo "REQUESTS_CA_BUNDLE, SSL_CERT_FILE or CURL_CA_BUNDLE: $ca: no such file; give a file of certificates, or unset it" >&2
  exit 2
fi

# shellcheck disable=SC2086  # several arguments in one variable
"$docker" build ${DOCKER_BUILD_ARGS:-} --tag "$image" .

# From here on "$@" is docker run's whole command line; the caller's arguments stay at its end.
set -- "$image" "$@"
for name in $(env | sed -n 's/^\(SPOTTED_[A-Z_]*\)=.*/\1/p') \
  GCP_PROJECT GOOGLE_CLOUD_PROJECT GOOGLE_CLOUD_QUOTA_PROJECT GCS_REGION GCS_HIERARCHICAL GCS_BUCKET_ROOT STORAGE_EMULATOR_HOST \
  HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy; do
  eval "[ -z \"\${$name:-}\" ]" || set -- --env "$name" "$@"
done
absolute() { echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"; }
if [ -n "$key" ]; then
  set -- --volume "$(absolute "$key"):/run/secrets/key.json:ro" \
    --env GOOGLE_APPLICATION_CREDENTIALS=/run/secrets/key.json "$@"
fi
if [ -n "$ca" ]; then # the tool hands it on to all of its libraries, and to GCSFuse
  set -- --volume "$(absolute "$ca"):/run/secrets/ca.crt:ro" --env SSL_CERT_FILE=/run/secrets/ca.crt "$@"
fi
if [ -n "${PRIVILEGED:-}" ]; then
  set -- --privileged "$@"
elif [ -e /dev/fuse ] && [ -z "${NO_FUSE:-}" ]; then
  # All that a mount needs. AppArmor's profile for containers, where there is one, forbids mounting.
  set -- --cap-add SYS_ADMIN --device /dev/fuse --security-opt apparmor=unconfined "$@"
fi
if [ -t 0 ] && [ -t 1 ]; then set -- --tty --interactive "$@"; fi

# shellcheck disable=SC2086
exec "$docker" run --rm ${DOCKER_RUN_ARGS:-} "$@"
