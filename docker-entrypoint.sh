#!/usr/bin/env bash
# What the container runs. Each way ends in exec, so that signals reach the program itself.
#   IMAGE                     a shell in the environment, where `python cli.py -a` works (with docker run -ti)
#   IMAGE -a …                the tool; so do IMAGE cli.py -a … and IMAGE python cli.py -a …
#   IMAGE "cli.py -a …"       the same: one argument with spaces is split, as some workflow engines pass it
#   IMAGE dask scheduler …    a part of a cluster; any other command runs as it is
set -euo pipefail

if [ "$(id -u)" = 0 ] && [ -z "${SPOTTED_USER:-}" ]; then
  # Root is needed for this alone: many hosts give the device to root only. fusermount3 is setuid and does the rest.
  if [ -c /dev/fuse ]; then chmod 0666 /dev/fuse || true; fi
  # The plain user cannot make a folder at the root, where buckets are mounted. With --read-only neither can root.
  mounts=${GCS_BUCKET_ROOT:-gcs}
  mounts=/${mounts#/}
  [ -d "$mounts" ] || install --directory --mode 1777 "$mounts" || true
  user=$(id -u spotted)
  # A key file, or the file of a login, that only root or another user may read is handed on as a copy in memory.
  key=${GOOGLE_APPLICATION_CREDENTIALS:-${CLOUDSDK_CONFIG:-/root/.config/gcloud}/application_default_credentials.json}
  if [ -f "$key" ] && ! setpriv --reuid "$user" --regid spotted --clear-groups test -r "$key"; then
    copy=$(mktemp /dev/shm/key-XXXXXXXX.json)
    cat "$key" >"$copy"
    chown "$user" "$copy" && chmod 0400 "$copy"
    export GOOGLE_APPLICATION_CREDENTIALS=$copy
  fi
  export HOME=/home/spotted SPOTTED_USER=$user
  exec setpriv --reuid "$user" --regid spotted --clear-groups -- "$0" "$@"
fi

# With a root file system that is read-only (docker run --read-only); dask needs a folder for a few bytes.
[ -w "${TMPDIR:-/tmp}" ] || export TMPDIR=/dev/shm

case "$#${1-}" in
  1-*' '* | 1'cli.py '* | 1'python cli.py '*) read -ra words <<<"$1" && set -- "${words[@]}" ;;
esac

case "${1-}" in
  "")
    [ -t 0 ] || exec python /app/cli.py --help
    exec bash
    ;;
  -*) exec python /app/cli.py "$@" ;;
  cli.py) shift; exec python /app/cli.py "$@" ;;
  dask | dask-scheduler | dask-worker)
    # dask's Helm chart still uses the commands' old names.
    if [ "$1" != dask ]; then set -- dask "${1#dask-}" "${@:2}"; fi
    # The workers import the modules that the tasks come from.
    export PYTHONPATH="/app${PYTHONPATH:+:$PYTHONPATH}"
    exec "$@"
    ;;
  *) exec "$@" ;;
esac
