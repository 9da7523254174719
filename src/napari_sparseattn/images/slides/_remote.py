"""A file on another machine, of which only those bytes are loaded that are asked for.

Requests for ranges of bytes go out side by side, from the thread in which
fsspec does all of its work; whoever reads waits here, and is heard by
`progress.tick` meanwhile. What was loaded is kept, up to a number of bytes.
No message tells the address, nor do the errors that led to it: they are not
chained, as libraries put addresses into theirs.
"""

from __future__ import annotations

import abc
import asyncio
import collections
import concurrent.futures
import dataclasses
import io
import re
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ...addresses import Address
from ...progress import tick
from ..errors import ImageError

__all__ = [
    "ByteCache",
    "Loader",
    "NetworkSettings",
    "RemoteError",
    "RemoteFile",
    "Stream",
    "Traffic",
]

#: Start and number of bytes.
Span = tuple[int, int]

_BLOCK = 2**15
_MOST_AHEAD = 7
# Ranges that are closer than this are one request: asking twice takes longer than loading it.
_GAP = 2**13
# Longer ranges are loaded in several requests side by side.
_MOST_RUN = 2**20
# A file that a server sends only whole may be so large.
_MOST_WHOLE = 2**24
# No file of a folder of OME-Zarr is larger: metadata, and one chunk.
_MOST_FILE = 2**26
_TICK_SECONDS = 0.1
# Of S3, whose answers to requests for parts do not tell the version.
_CHECK_SECONDS = 5.0
_FIRST_PAUSE, _MOST_PAUSE = 0.25, 8.0
_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """How files on other machines are read.

    Parameters
    ----------
    timeout : float
        Seconds to wait for a connection, and for each next piece of an answer.
    tries : int
        How often a request is made that the network or the server let fail.
    parallel : int
        Requests at the same time, for one file.
    cache_bytes : int
        Bytes of one file that are kept in memory, as they are stored.
    """

    timeout: float = 30.0
    tries: int = 3
    parallel: int = 12
    cache_bytes: int = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What was loaded of a file so far.

    Parameters
    ----------
    requests : int
        Answers, those of failed tries left out.
    n_bytes : int
        Bytes in them.
    size : int
        Bytes of the file; 0 where that is not known.
    seconds : float
        Time that readers waited, summed over threads.
    """

    requests: int
    n_bytes: int
    size: int
    seconds: float

    def summary(self) -> str:
        """Return one line for people."""
        many = "1 request" if self.requests == 1 else f"{self.requests} requests"
        of = f" of {self.size / 1e6:.4g} MB" if self.size else ""
        share = f" ({100 * self.n_bytes / self.size:.2g} %)" if self.size else ""
        return f"{self.n_bytes / 1e6:.3g} MB{of}{share} loaded in {many}"


@dataclasses.dataclass(frozen=True)
class Part:
    """An answer: bytes, those of the whole file where it says so, and which version they are of."""

    data: bytes
    size: int | None
    version: tuple[str, str] = ("", "")
    whole: bool = False


class RemoteError(ImageError):
    """A file on another machine that cannot be loaded any more, or not now."""


class _LoadError(Exception):
    """A request that failed: why, in words that follow the file's name."""

    def __init__(self, why: str, *, again: bool = False, missing: bool = False) -> None:
        super().__init__(why)
        self.why, self.again, self.missing = why, again, missing


class ByteCache:
    """The parts of a file that were loaded last, up to a number of bytes; for several threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = most_bytes, 0
        self._parts: collections.OrderedDict[Any, bytes] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> bytes | None:
        """Return a part, or None where it is not held."""
        with self._lock:
            part = self._parts.get(key)
            if part is not None:
                self._parts.move_to_end(key)
            return part

    def put(self, key: Any, part: bytes) -> None:
        """Keep a part, and drop those used longest ago."""
        with self._lock:
            self._held += len(part) - len(self._parts.pop(key, b""))
            self._parts[key] = part
            while self._held > self._most and len(self._parts) > 1:
                self._held -= len(self._parts.popitem(last=False)[1])

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._parts.clear()
            self._held = 0

    @property
    def n_bytes(self) -> int:
        """Bytes held now."""
        return self._held


class Transport(abc.ABC):
    """Loads ranges of bytes by one protocol, in fsspec's own thread.

    Parameters
    ----------
    filesystem : fsspec.asyn.AsyncFileSystem
        As the user's configuration of fsspec makes it.
    settings : NetworkSettings
        How long to wait, how often to try, and how many requests to make at once.
    """

    def __init__(self, filesystem: Any, settings: NetworkSettings) -> None:
        self.filesystem, self.settings = filesystem, settings
        self._room = asyncio.Semaphore(settings.parallel)

    def start(
        self, address: Address, start: int, stop: int | None
    ) -> concurrent.futures.Future[Part]:
        """Begin to load bytes; without a `stop`, all of them.

        Raises
        ------
        _LoadError
            From the future: why there is no answer.
        """
        work: Coroutine[Any, Any, Part] = self._load(address, start, stop)
        return asyncio.run_coroutine_threadsafe(work, self.filesystem.loop)

    async def _load(self, address: Address, start: int, stop: int | None) -> Part:
        pause, left = _FIRST_PAUSE, self.settings.tries
        while True:
            left -= 1
            async with self._room:
                failure = await self._attempt(address, start, stop)
            if isinstance(failure, Part):
                return failure
            if not failure.again or left <= 0:
                raise failure
            await asyncio.sleep(min(pause, _MOST_PAUSE))
            pause *= 4

    async def _attempt(self, address: Address, start: int, stop: int | None) -> Part | _LoadError:
        """Try once; what failed is returned, so that no chain of errors tells the address."""
        theirs: tuple[type[Exception], ...] = (OSError, ValueError, *self.errors)
        try:
            return await self.fetch(address, start, stop)
        except _LoadError as failure:
            return failure
        except TimeoutError:
            return _LoadError(
                f"cannot be loaded: its server gave no answer within {self.settings.timeout:g} s. "
                "Try again later, or copy the file to this computer",
                again=True,
            )
        except FileNotFoundError:
            return _LoadError("", missing=True)
        except theirs as error:
            return _LoadError(self.explain(error), again=self.may_pass(error))

    @abc.abstractmethod
    async def fetch(self, address: Address, start: int, stop: int | None) -> Part:
        """Load bytes, once."""

    @property
    @abc.abstractmethod
    def errors(self) -> tuple[type[Exception], ...]:
        """Errors of the library that loads."""

    @abc.abstractmethod
    def may_pass(self, error: BaseException) -> bool:
        """Tell whether trying again may help."""

    @abc.abstractmethod
    def explain(self, error: BaseException) -> str:
        """Return what an error means, in words that follow the file's name."""


_UNREACHABLE = (
    "cannot be loaded: its server cannot be reached. Check the address and the network, or copy "
    "the file to this computer"
)
_BROKEN = "cannot be loaded: the connection broke off. Try again"


class _Http(Transport):
    """HTTP and HTTPS, by the session of fsspec's own file system.

    Not by its ``cat_file``, which loads all of a file where a server ignores ranges.
    """

    async def fetch(self, address: Address, start: int, stop: int | None) -> Part:
        """Load bytes, once."""
        import aiohttp

        given = {**self.filesystem.kwargs}
        seconds = self.settings.timeout
        given.setdefault(
            "timeout", aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        )
        given["headers"] = {**given.get("headers", {}), "Accept-Encoding": "identity"}
        if stop is not None:
            given["headers"]["Range"] = f"bytes={start}-{stop - 1}"
        session = await self.filesystem.set_session()
        url = self.filesystem.encode_url(address.url)
        async with session.get(url, max_redirects=_REDIRECTS, **given) as answer:
            if address.scheme == "https" and answer.url.scheme != "https":
                raise _LoadError("is not loaded: its server leads to an address without encryption")
            _check_status(answer.status)
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise _LoadError("cannot be read in parts: its server sends it compressed")
            version = _version_of(answer.headers)
            if answer.status == 416:
                size = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
                return Part(b"", int(size[3]) if size and size[3] != "*" else None, version)
            if answer.status == 200:
                return await self._whole(answer, start, stop, version)
            return await self._part(answer, start, stop, version)

    async def _part(
        self, answer: Any, start: int, stop: int | None, version: tuple[str, str]
    ) -> Part:
        found = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
        if found is None or found[1] is None or int(found[1]) != start:
            raise _LoadError("cannot be loaded: its server answers with what was not asked for")
        n_bytes = int(found[2]) + 1 - start
        if stop is not None and n_bytes > stop - start:
            raise _LoadError("cannot be loaded: its server answers with what was not asked for")
        data = await _read_body(answer, n_bytes)
        return Part(data, None if found[3] == "*" else int(found[3]), version)

    async def _whole(
        self, answer: Any, start: int, stop: int | None, version: tuple[str, str]
    ) -> Part:
        size = answer.content_length
        if stop is None and (size is None or size <= _MOST_FILE):
            return Part(await _read_body(answer, size), size, version)
        if stop is None:
            raise _LoadError(f"is too large ({size / 1e6:.0f} MB) to be loaded whole")
        if size is None or size > _MOST_WHOLE:
            much = "" if size is None else f" of {size / 1e6:.0f} MB"
            raise _LoadError(
                "cannot be read in parts: its server sends only whole files (it ignores Range "
                f"requests). Copy the file{much} to this computer, and open the copy"
            )
        return Part(await _read_body(answer, size), size, version, whole=True)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """Errors of the library that loads."""
        import aiohttp

        return (aiohttp.ClientError,)

    def may_pass(self, error: BaseException) -> bool:
        """Tell whether trying again may help."""
        import aiohttp

        lost = aiohttp.ClientConnectionError | aiohttp.ClientPayloadError
        return isinstance(error, lost) and not isinstance(error, aiohttp.ClientSSLError)

    def explain(self, error: BaseException) -> str:
        """Return what an error means, in words that follow the file's name."""
        import aiohttp

        if isinstance(error, aiohttp.ClientSSLError):
            return (
                "is not loaded: the certificate of its server is not valid, or not known to this "
                "computer"
            )
        if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
            return _BROKEN
        if isinstance(error, aiohttp.TooManyRedirects):
            return "cannot be loaded: its server leads from one address to the next without end"
        if isinstance(error, aiohttp.ClientConnectionError | OSError):
            return _UNREACHABLE
        return "cannot be loaded: its server answers with what is no HTTP, or the address is wrong"


def _check_status(status: int) -> None:
    if status in (200, 206, 416):
        return
    if status in (404, 410):
        raise _LoadError("", missing=True)
    if status in (401, 403, 407):
        raise _LoadError(
            f"may not be loaded: its server refuses it ({status}). The address may have expired, "
            "or needs credentials, which are taken from the configuration of fsspec"
        )
    if status == 429 or status >= 500:
        raise _LoadError(
            f"cannot be loaded: its server is busy or broken ({status}). Try again later",
            again=True,
        )
    raise _LoadError(f"cannot be loaded: its server answers with {status}; check the address")


def _version_of(headers: Any) -> tuple[str, str]:
    return headers.get("ETag", "").removeprefix("W/"), headers.get("Last-Modified", "")


async def _read_body(answer: Any, n_bytes: int | None) -> bytes:
    """Return so many bytes of an answer, and refuse one of more or fewer."""
    parts, held = list[bytes](), 0
    async for part in answer.content.iter_any():
        parts.append(part)
        held += len(part)
        if held > (_MOST_FILE if n_bytes is None else n_bytes):
            raise _LoadError("cannot be loaded: its server answers with what was not asked for")
    if n_bytes is not None and held != n_bytes:
        raise _LoadError(_BROKEN, again=True)
    return b"".join(parts)


class _S3(Transport):
    """Amazon's S3 and what speaks like it, by s3fs."""

    async def fetch(self, address: Address, start: int, stop: int | None) -> Part:
        """Load bytes, once."""
        place = self.filesystem._strip_protocol(address.url)
        seconds = self.settings.timeout
        if start == 0 or stop is None:
            self.filesystem.invalidate_cache(self.filesystem._parent(place))
            about = await asyncio.wait_for(self.filesystem._info(place), seconds)
            if about.get("type") != "file":
                raise _LoadError("", missing=True)
            version = str(about.get("ETag", "")), str(about.get("LastModified", ""))
            size = int(about["size"])
            if stop is None and size > _MOST_FILE:
                raise _LoadError(f"is too large ({size / 1e6:.0f} MB) to be loaded whole")
            end = size if stop is None else min(stop, size)
        else:
            version, size, end = ("", ""), None, stop
        if end <= start:
            return Part(b"", size, version)
        work = self.filesystem._cat_file(place, start=start, end=end)
        # As a whole, so longer ranges have longer.
        data = await asyncio.wait_for(work, seconds * (1 + (end - start) / 2**22))
        if len(data) > end - start:
            raise _LoadError("cannot be loaded: its server answers with what was not asked for")
        return Part(data, size, version)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """Errors of the library that loads."""
        import botocore.exceptions

        return botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError

    def may_pass(self, error: BaseException) -> bool:
        """Tell whether trying again may help; s3fs has done so itself."""
        return False

    def explain(self, error: BaseException) -> str:
        """Return what an error means, in words that follow the file's name."""
        import botocore.exceptions

        if isinstance(error, botocore.exceptions.NoCredentialsError):
            return (
                "may not be loaded: there are no credentials for S3 on this computer. For a public "
                "bucket set FSSPEC_S3='{\"anon\": true}'"
            )
        if isinstance(error, PermissionError):
            return (
                "may not be loaded: S3 refuses it. Check the credentials, which are taken from the "
                "configuration of fsspec and AWS"
            )
        return _UNREACHABLE


def transport_of(address: Address, settings: NetworkSettings) -> Transport:
    """Return what loads from an address.

    Raises
    ------
    ImageError
        If a package for it is not installed.
    """
    try:
        import aiohttp  # noqa: F401
        import fsspec

        if address.scheme == "s3":
            import s3fs  # noqa: F401
    except ImportError as error:
        raise ImageError(
            f"{address.name} is on another machine; to read it there, more packages are needed "
            f"({error.name} is missing): pip install 'napari-sparseattn[remote]'"
        ) from error
    filesystem = fsspec.filesystem(address.scheme, use_listings_cache=False)
    return (_S3 if address.scheme == "s3" else _Http)(filesystem, settings)


class Loader:
    """Loads from one address, and from those below it, for several threads; counts what it does.

    Parameters
    ----------
    address : Address
        Of a file or a folder; whose name is told when something fails.
    settings : NetworkSettings
        How.
    """

    def __init__(self, address: Address, settings: NetworkSettings) -> None:
        self._address = address
        self._transport = transport_of(address, settings)
        self._lock = threading.Lock()
        self._flying: set[concurrent.futures.Future[Part]] = set()
        self._closed = False
        self._requests = self._n_bytes = 0
        self._seconds = 0.0

    def load(self, wanted: Sequence[tuple[Address, int, int | None]]) -> list[Part]:
        """Load ranges side by side; wait for them, and let whoever waits be heard.

        Raises
        ------
        FileNotFoundError, ImageError
            If one failed; see `taken`.
        """
        return taken(self._done(wanted), self._address)

    def load_there(self, wanted: Sequence[Address], stop: int | None = None) -> list[Part | None]:
        """Load files side by side, whole or their first bytes; None of those that are not there.

        Raises
        ------
        ImageError
            If one failed otherwise.
        """
        futures = self._done([(address, 0, stop) for address in wanted])
        gone = [f.done() and not f.cancelled() and _is_missing(f.exception()) for f in futures]
        there = [future for future, no in zip(futures, gone, strict=True) if not no]
        found = iter(taken(there, self._address))
        return [None if no else next(found) for no in gone]

    def _done(
        self, wanted: Sequence[tuple[Address, int, int | None]]
    ) -> list[concurrent.futures.Future[Part]]:
        begin = time.perf_counter()
        self.check_open()
        futures = [self._transport.start(*each) for each in wanted]
        with self._lock:
            self._flying.update(futures)
        try:
            _wait_for(futures, lambda: self._closed)
        finally:
            for future in futures:
                future.cancel()
            with self._lock:
                self._flying.difference_update(futures)
                self._seconds += time.perf_counter() - begin
        self.check_open()
        with self._lock:
            for future in futures:
                if not future.cancelled() and future.exception() is None:
                    self._requests += 1
                    self._n_bytes += len(future.result().data)
        return futures

    def check_open(self) -> None:
        """Refuse to go on after `close`.

        Raises
        ------
        ImageError
            If it is closed.
        """
        if self._closed:
            raise RemoteError(f"{self._address.name} has been closed; open it again")

    def traffic(self, size: int = 0) -> Traffic:
        """Return what was loaded so far, of so many bytes."""
        with self._lock:
            return Traffic(self._requests, self._n_bytes, size, self._seconds)

    def close(self) -> None:
        """Let whoever waits stop."""
        self._closed = True
        with self._lock:
            flying = list(self._flying)
        for future in flying:
            future.cancel()


class RemoteFile:
    """A file on another machine; may be read by several threads.

    Parameters
    ----------
    address : Address
        Where it is.
    settings : NetworkSettings, optional
        How it is read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it cannot be loaded; the message says why and what to do.
    """

    def __init__(self, address: Address, settings: NetworkSettings | None = None) -> None:
        self.address = address
        self.settings = settings or NetworkSettings()
        self._loader = Loader(address, self.settings)
        self._cache = ByteCache(self.settings.cache_bytes)
        self._whole: bytes | None = None
        self._version: tuple[str, str] | None = None
        self._checked = time.monotonic()
        # The block that follows what `read` has loaded, and how many it loads ahead.
        self._next, self._ahead = 1, 0
        self._opening = True
        self._failure: BaseException | None = None
        self.size = 0
        (first,) = self._load([(0, _BLOCK)])
        if first.size is None:
            raise RemoteError(
                f"{address.name} cannot be read in parts: its server does not say how large it is. "
                "Copy the file to this computer, and open the copy"
            )
        self.size, self._version = first.size, first.version
        if first.whole:
            self._whole = first.data
        elif len(first.data) < min(_BLOCK, first.size):
            raise RemoteError(f"{address.name} {_BROKEN}.")
        else:
            self._cache.put((0, len(first.data)), first.data)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.address.name

    @property
    def traffic(self) -> Traffic:
        """What was loaded so far."""
        return self._loader.traffic(self.size)

    @property
    def n_cached(self) -> int:
        """Bytes kept in memory now."""
        return self._cache.n_bytes + len(self._whole or b"")

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return bytes at a position, fewer where the file ends, from blocks that are loaded.

        Who reads on from one block into the next is likely to go on, so more is loaded ahead.
        """
        end = min(offset + n_bytes, self.size)
        if end <= offset:
            return b""
        first, last = offset // _BLOCK, (end - 1) // _BLOCK
        spans = [self._clipped((n * _BLOCK, _BLOCK)) for n in range(first, last + 1)]
        if any(self._cache.get(span) is None for span in spans):
            self._ahead = min(2 * self._ahead + 1, _MOST_AHEAD) if first == self._next else 0
            more = range(last + 1, last + 1 + self._ahead)
            self.bring([*spans, *((n * _BLOCK, _BLOCK) for n in more)])
            self._next = last + self._ahead + 1
        begin = offset - first * _BLOCK
        return b"".join(self.read_spans(spans))[begin : begin + end - offset]

    def read_spans(self, spans: Sequence[Span]) -> list[bytes]:
        """Return several ranges of bytes, fewer where the file ends; loaded side by side."""
        found = self._held(spans)
        missing = sorted({span for span in spans if span not in found and span[1] > 0})
        for span, part in self._bring(missing):
            found[span] = part
        return [found.get(span, b"") for span in spans]

    def bring(self, spans: Sequence[Span]) -> None:
        """Load ranges of bytes that will be asked for, as many as are kept."""
        room, wanted = self.settings.cache_bytes // 2, []
        for span in spans:
            room -= span[1]
            if room < 0:
                break
            wanted.append(span)
        found = self._held(wanted)
        for _ in self._bring(sorted({span for span in wanted if span not in found})):
            pass

    def _held(self, spans: Sequence[Span]) -> dict[Span, bytes]:
        self._loader.check_open()
        if self._whole is not None:
            return {span: self._whole[span[0] : span[0] + span[1]] for span in spans}
        held = {span: self._cache.get(self._clipped(span)) for span in spans}
        return {span: part for span, part in held.items() if part is not None}

    def _clipped(self, span: Span) -> Span:
        """Return what there is of a range."""
        return span[0], max(0, min(span[1], self.size - span[0]))

    def _bring(self, spans: Sequence[Span]) -> list[tuple[Span, bytes]]:
        """Load ranges, sorted by their start, and keep them."""
        clipped = [(span, self._clipped(span)) for span in spans]
        runs = _join([span for _, span in clipped if span[1] > 0])
        pieces = [piece for run in runs for piece in _split(run)]
        loaded: dict[int, bytes] = {}
        for (start, n_bytes), part in zip(pieces, self._load(pieces), strict=True):
            if len(part.data) != n_bytes:
                raise RemoteError(f"{self.name} {_BROKEN}.")
            loaded[start] = part.data
        joined = {run: b"".join(loaded[start] for start, _ in _split(run)) for run in runs}
        starts = sorted(joined)
        found = []
        for span, (start, n_bytes) in clipped:
            data = b""
            if n_bytes > 0:
                run = next(run for run in reversed(starts) if run[0] <= start)
                data = joined[run][start - run[0] : start - run[0] + n_bytes]
                self._cache.put((start, n_bytes), data)
            found.append((span, data))
        return found

    def _load(self, spans: Sequence[Span]) -> list[Part]:
        if self._failure is not None:
            raise self._failure
        try:
            parts = self._loader.load([(self.address, a, a + n) for a, n in spans])
            for part in parts:
                self._check(part)
        except BaseException as error:
            if self._opening:
                self._failure = error
            raise
        return parts

    def settle(self) -> None:
        """End the opening, in which what failed once fails on, as tifffile passes over errors.

        Raises
        ------
        BaseException
            What failed.
        """
        self._opening, failure = False, self._failure
        self._failure = None
        if failure is not None:
            raise failure

    def _check(self, part: Part) -> None:
        """Refuse bytes of another version of the file than those before."""
        if self._version is None:
            return
        pairs = zip(self._version, part.version, strict=True)
        other = any(known and told and known != told for known, told in pairs)
        if other or (part.size is not None and part.size != self.size):
            raise RemoteError(
                f"{self.name} was changed or replaced since it was opened; open it again"
            )

    def check(self) -> None:
        """Ask for the version again, where answers do not tell it; not more often than needed.

        Raises
        ------
        ImageError
            If the file is gone, or is another.
        """
        if self.address.scheme != "s3" or time.monotonic() - self._checked < _CHECK_SECONDS:
            return
        self._checked = time.monotonic()
        self._load([(0, 1)])

    def close(self) -> None:
        """Let whoever waits for bytes stop, and forget what was loaded."""
        self._loader.close()
        self._cache.clear()
        self._whole = None


def _wait_for(
    futures: Sequence[concurrent.futures.Future[Part]], stopped: Callable[[], bool]
) -> None:
    """Wait until all are done or one failed, or until that is not wanted any more."""
    pending = set(futures)
    while pending and not stopped():
        done, pending = concurrent.futures.wait(
            pending, _TICK_SECONDS, concurrent.futures.FIRST_EXCEPTION
        )
        for future in done:
            failure = None if future.cancelled() else future.exception()
            if future.cancelled() or (failure is not None and not _is_missing(failure)):
                return
        tick()


def _is_missing(failure: BaseException | None) -> bool:
    return isinstance(failure, _LoadError) and failure.missing


def taken(futures: Sequence[concurrent.futures.Future[Part]], address: Address) -> list[Part]:
    """Return answers, or raise what is to be said of the one that failed, and nothing else.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it failed otherwise.
    """
    failed = [f.exception() for f in futures if f.done() and not f.cancelled() and f.exception()]
    for failure in failed:
        if not isinstance(failure, _LoadError):
            assert failure is not None
            raise failure
        if failure.missing:
            raise FileNotFoundError(
                f"There is no {address.name} at that address. Check the address: it may have moved."
            )
        raise RemoteError(f"{address.name} {failure.why}.")
    if any(future.cancelled() or not future.done() for future in futures):
        raise RemoteError(f"{address.name} {_BROKEN}.")
    return [future.result() for future in futures]


def _join(spans: Sequence[Span]) -> list[Span]:
    """Join sorted ranges that overlap or are close to each other."""
    runs: list[Span] = []
    for start, n_bytes in spans:
        if runs and start <= sum(runs[-1]) + _GAP:
            runs[-1] = runs[-1][0], max(sum(runs[-1]), start + n_bytes) - runs[-1][0]
        else:
            runs.append((start, n_bytes))
    return runs


def _split(run: Span) -> list[Span]:
    start, n_bytes = run
    return [(start + done, min(_MOST_RUN, n_bytes - done)) for done in range(0, n_bytes, _MOST_RUN)]


class Stream(io.RawIOBase):
    """A remote file as tifffile reads it: with a position."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._file, self._at, self.name = file, 0, file.name

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; nothing is loaded."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, fewer where the file ends."""
        n_bytes = self._file.size - self._at if size is None or size < 0 else size
        data = self._file.read(self._at, n_bytes)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes; return how many there were."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)
