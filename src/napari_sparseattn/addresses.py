"""Addresses of files on other machines, which are told by their name and a hash.

An address may hold a password, a token or a signature. So it prints as the
name of the file and a hash; whoever wants all of it asks for `Address.url`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

__all__ = ["SCHEMES", "Address", "as_source", "as_sources", "is_address"]

#: What an address can begin with.
SCHEMES = ("https", "http", "s3")
#: Parts of a query that give access and change from time to time: of Amazon, Google and Azure.
_SIGNATURES = re.compile(
    r"(?i)x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|expires|key-pair-id|policy"
    r"|sig|se|st|sp|spr|sv|sr|sks|ske|skt|skoid|sktid|skv|(access_?)?token|api_?key"
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,7}")
_MOST_NAME = 120
_ZARR = re.compile(r"(?i)\.zarr/?$|\.zarr/")


@dataclasses.dataclass(frozen=True, repr=False)
class Address:
    """Where a file is on another machine.

    Parameters
    ----------
    url : str
        It begins with ``https://``, ``http://`` or ``s3://``.

    Raises
    ------
    ValueError
        If it is no such address; the message does not repeat it.
    """

    url: str

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host = parts.hostname
            _ = parts.port
        except ValueError:
            host = None
        if not is_address(self.url) or not host or re.search(r"[\x00-\x20\x7f]", self.url):
            raise ValueError(
                "This is no address of a file: it must be written as https://HOST/PATH, "
                "http://HOST/PATH or s3://BUCKET/PATH, without blanks."
            )

    def __repr__(self) -> str:
        return f"<Address of {self.label}>"

    def __str__(self) -> str:
        return self.label

    @property
    def scheme(self) -> str:
        """What it begins with: ``"https"``, ``"http"`` or ``"s3"``."""
        return urlsplit(self.url).scheme.lower()

    @property
    def is_zarr(self) -> bool:
        """Whether it is that of a folder of OME-Zarr, by its name."""
        return _ZARR.search(urlsplit(self.url).path) is not None

    @functools.cached_property
    def name(self) -> str:
        """The file's name, as the last part of the address has it; ``"slide"`` where it has none.

        What has no ending of a file may be a token as well, and is not taken for a name.
        """
        parts = [unquote(part) for part in urlsplit(self.url).path.split("/") if part]
        name = re.sub(r"[\x00-\x1f\x7f/\\:*?\"<>|]", "_", parts[-1] if parts else "").strip(" .")
        if not _ENDING.fullmatch(Path(name).suffix) and len(parts) > 1 and self.is_zarr:
            name = next(part for part in reversed(parts) if part.lower().endswith(".zarr"))
        if not _ENDING.fullmatch(Path(name).suffix):
            return "slide"
        return name[-_MOST_NAME:]

    @functools.cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that tell addresses apart.

        The same for an address that was signed anew, or given with another password.
        """
        parts = urlsplit(self.url)
        query = [
            (key, value)
            for key, value in parse_qsl(parts.query, keep_blank_values=True)
            if not _SIGNATURES.fullmatch(key)
        ]
        told = (self.scheme, parts.hostname, parts.port, parts.path, sorted(query))
        return hashlib.sha256(repr(told).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """What stands for it in results and reports: its name and a hash."""
        return f"{self.name} (address {self.digest})"

    def below(self, *names: str) -> Address:
        """Return the address of a file in this folder."""
        parts = urlsplit(self.url)
        path = "/".join([parts.path.rstrip("/"), *(quote(name) for name in names)])
        if self.scheme == "s3":
            path = "/".join([parts.path.rstrip("/"), *names])
        return Address(parts._replace(path=path, fragment="").geturl())


def is_address(given: object) -> bool:
    """Tell whether something is an address, and not a path."""
    if isinstance(given, Address):
        return True
    found = _SCHEME.match(given) if isinstance(given, str) else None
    return found is not None and found[1].lower() in SCHEMES


def as_source(given: str | os.PathLike[str] | Address) -> Path | Address:
    """Return a path or an address, whichever was given.

    Raises
    ------
    ValueError
        If it is an address that is not one of those that are read.
    """
    if isinstance(given, Address):
        return given
    text = os.fspath(given)
    if is_address(text):
        return Address(text)
    if isinstance(given, str) and (found := _SCHEME.match(text)):
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(
            f"Addresses that begin with {found[1]}:// are not read; those that begin with {known} "
            "are. Copy the file to this computer, and give its path."
        )
    return Path(given)


def as_sources(given: Sequence[str]) -> list[Path | Address]:
    """Return paths and addresses; see `as_source`."""
    return [as_source(each) for each in given]
