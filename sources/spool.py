"""Copy a file from a server without range requests into a temporary file, which never stays behind."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
import weakref
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import requests

from errors import SourceChangedError, SourceError, escaped
from sources import http_answers as answers
from sources.http import HttpClient
from sources.http_answers import Version
from sources.local_files import CHUNK_BYTES, FileSource
from sources.retry import MAX_FIRST_ATTEMPTS

log = logging.getLogger("spotted")


class TemporaryCopy:
    """An unnamed file in TMPDIR, whose space is freed with this object or the process.

    Other processes of this machine read it at `path` while that leads to `target` (proc_pid_fd(5)).
    """

    def __init__(self, url: str, needed: int = 0) -> None:
        """Raises SourceError if no temporary file of `needed` bytes can be made."""
        self.url, self.size = url, 0
        try:
            self._check_space(needed, tempfile.gettempdir())
            self.descriptor, path = tempfile.mkstemp(prefix="spotted-spool-")
            os.unlink(path)
        except OSError as error:
            raise SourceError(
                f"{url}: no temporary file can be made: {error}; set TMPDIR to a folder for it"
            ) from error
        weakref.finalize(self, os.close, self.descriptor)
        self.path, self.target = f"/proc/{os.getpid()}/fd/{self.descriptor}", f"{path} (deleted)"

    def _check_space(self, needed: int, folder: str) -> None:
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise SourceError(
                f"{self.url}: the server gives it only as a whole: expected {needed:,} bytes of free space in {folder}"
                f" for a temporary copy, got {free:,}; set TMPDIR to a folder with more space"
            )

    def write(self, chunk: bytes) -> None:
        """Append these bytes; raises SourceError if the disk is full or fails."""
        view = memoryview(chunk)
        while view:
            try:
                written = os.pwrite(self.descriptor, view, self.size)
            except OSError as error:
                raise SourceError(
                    f"{self.url}: its temporary copy in {tempfile.gettempdir()} cannot be written after {self.size:,}"
                    f" bytes: {error.strerror}; set TMPDIR to a folder with more space"
                ) from error
            self.size, view = self.size + written, view[written:]


def leads_to(path: str, target: str) -> bool:
    """Return whether a process of this machine still has that copy open."""
    try:
        return os.readlink(path) == target
    except OSError:
        return False


@dataclass(frozen=True)
class SpooledSource(FileSource):
    """A temporary copy as a source; another machine makes its own."""

    validators: Version
    target: str  # what `path` leads to on the machine that has the copy
    client: HttpClient = field(compare=False, repr=False)
    copy: TemporaryCopy | None = field(compare=False, repr=False)  # in the process that made it

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "copy": None}

    def _open(self) -> AbstractContextManager[int]:
        if self.copy:
            return nullcontext(self.copy.descriptor)
        if leads_to(self.path, self.target):
            return super()._open()
        return spooled(self.name, self.size, self.validators, self.client)._open()


def spooled(url: str, size: int, version: Version, client: HttpClient) -> SpooledSource:
    """Return the client's own copy of that version."""
    with client.copying:
        copy = client.copies.get((url, size))
        if copy is None:
            copy = client.persist(url, lambda: whole(url, size, client), MAX_FIRST_ATTEMPTS)
            client.copies[url, size] = copy
    if not version.is_same(copy.validators):
        raise SourceChangedError(f"{url}: changed while it was read; run again")
    return copy


def whole(url: str, size: int | None, client: HttpClient) -> SpooledSource:
    """Copy the answer to a request without Range; raises SourceError."""
    with client.get(url, {}) as response:
        answers.check_status(url, response)
        if response.status_code != 200:
            given = escaped(response.headers.get("Content-Range", "none"))
            got = f"{answers.status_of(response)}, Content-Range {given}"
            raise SourceError(f"{url}: expected status 200 and the whole file, got {got}; use another mirror")
        return spooled_from(response, url, size, client)


def spooled_from(response: requests.Response, url: str, size: int | None, client: HttpClient) -> SpooledSource:
    """Copy the body of an answer; raises SourceError, also if the disk is full."""
    answers.check_encoding(url, response)
    body, length = client.body(response), answers.content_length(response)
    head = body.read(512)
    if not head:
        raise SourceError(f"{url}: expected a file, got an empty one")
    answers.check_not_html(url, head)
    if length is not None:
        answers.check_size(url, length, size)
    copy = TemporaryCopy(url, length or size or 0)
    log.info("%s: the server does not support range requests; downloading it into a temporary file", url)
    for chunk in itertools.chain([head], iter(lambda: body.read(CHUNK_BYTES), b"")):
        copy.write(chunk)
        if size is not None and copy.size > size:
            answers.check_size(url, copy.size, size)
    answers.check_length(length, copy.size)
    version = Version.of(response)
    return SpooledSource(copy.path, copy.size, str(version), url, version, copy.target, client, copy)
