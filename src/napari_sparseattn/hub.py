"""Models in Hugging Face repositories: fetched by a pinned commit, checked, and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cache import Cache
from .files import replacing

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["HubAddress", "HubError", "fetch_model", "hub_api", "hub_errors", "is_hub_address"]

_SCHEME = "hf://"
_SUFFIX = ".safetensors"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPO = re.compile(rf"{_NAME}/{_NAME}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(rf"(?:{_NAME}/){{0,8}}{_NAME}\.safetensors")
_MOST_BYTES = 4 * 2**30
_MOST_FILES = 1000
_SECONDS = 30
_SOURCE = "source.json"


class HubError(ValueError):
    """A repository, address or file that cannot be used; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class HubAddress:
    """A model in a repository at one commit: ``hf://owner/name[/file.safetensors]@commit``.

    Parameters
    ----------
    repo : str
        ``owner/name``.
    revision : str
        The commit, 40 hexadecimal digits.
    file : str
        The model in it; empty where there is only one.
    """

    repo: str
    revision: str
    file: str = ""

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{_SCHEME}{self.repo}{file}@{self.revision}"

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read an address.

        Raises
        ------
        HubError
            If it is none, or does not name a commit.
        """
        body, _, revision = text.strip().removeprefix(_SCHEME).partition("@")
        parts = body.split("/", 2)
        repo, file = "/".join(parts[:2]), "/".join(parts[2:])
        if not is_hub_address(text) or not _REPO.fullmatch(repo):
            raise HubError(
                f"'{text}' is no address of a model. They look like hf://owner/name@COMMIT, or "
                "hf://owner/name/file.safetensors@COMMIT."
            )
        if file and (not _FILE.fullmatch(file) or ".." in file):
            raise HubError(
                f"'{file}' is no model file of this plugin; only .safetensors files are loaded."
            )
        if not _COMMIT.fullmatch(revision):
            what = (
                f"'{revision}' is a branch, a tag or a part of a commit"
                if revision
                else "No commit is named"
            )
            raise HubError(
                f"{what}; what that means can change. Add the whole commit, 40 digits, after an @: "
                "on the repository's page under Files, History, or by "
                f"huggingface_hub.model_info('{repo}').sha."
            )
        return cls(repo, revision, file)


def is_hub_address(text: object) -> bool:
    """Tell whether a model's name is an address in a repository."""
    return isinstance(text, str) and text.strip().startswith(_SCHEME)


def fetch_model(address: HubAddress | str, cache: Cache | None = None) -> Path:
    """Return a model's file from a repository; fetched once, then kept.

    Of the repository only this one file is fetched. Its name, size and
    checksum are read from the list of files at that commit before, and checked
    after. A login is used where huggingface_hub has one; this package neither
    asks for a token nor keeps one.

    Parameters
    ----------
    address : HubAddress or str
        Which model.
    cache : Cache, optional
        Where it is kept, by default `Cache.default`.

    Returns
    -------
    pathlib.Path
        To be opened by `load_bundle`, which checks the model itself.

    Raises
    ------
    HubError
        If the address does not fit, or the repository has no such model, or
        what came is not what was listed.
    ConnectionError
        If the repository cannot be reached.
    """
    wanted = HubAddress.parse(address) if isinstance(address, str) else address
    cache = cache or Cache.default()
    folder = cache.section("hub") / wanted.repo.replace("/", "--") / wanted.revision
    with cache.using(folder):
        kept = _find_kept(folder, wanted)
        if kept is None:
            with hub_errors(wanted.repo):
                kept = _fetch(wanted, folder)
        cache.trim()
    return kept


def hub_api() -> HfApi:
    """Return the library's interface, for the address that ``HF_ENDPOINT`` names, if any.

    Raises
    ------
    HubError
        If huggingface_hub is not installed.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise HubError(
            'Models in repositories need more packages: pip install "napari-sparseattn[models]"'
        )
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="napari-sparseattn")


@contextlib.contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Say in words what goes wrong with a repository.

    Raises
    ------
    HubError, ConnectionError
    """
    hub_api()
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"'{repo}' is open only to those who were let in. Ask on its page, and log in with "
            "`hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"'{repo}' has no such commit. Copy it from its history.") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"There is no repository '{repo}', or you may not see it. Check the name; if it is "
            "private, log in with `hf auth login`."
        ) from error
    except _failures() as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"You may not do that with '{repo}'. Log in with `hf auth login`, using a token "
                "that may write to it."
            ) from error
        said = f"answered with error {status}" if status else "could not be reached"
        raise ConnectionError(
            f"The repository '{repo}' {said}. Check the network, and try again."
        ) from error


def _failures() -> tuple[type[Exception], ...]:
    """Errors of huggingface_hub's, and of whichever library it speaks through."""
    from huggingface_hub import errors

    found: list[type[Exception]] = [errors.HfHubHTTPError, errors.LocalEntryNotFoundError]
    libraries = {
        "httpx2": "HTTPError",
        "httpx": "HTTPError",
        "requests.exceptions": "RequestException",
    }
    for module, name in libraries.items():
        with contextlib.suppress(ImportError):
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


def _find_kept(folder: Path, wanted: HubAddress) -> Path | None:
    """Return the file that was fetched before, if it is whole."""
    try:
        source = json.loads((folder / _SOURCE).read_text(encoding="utf-8"))
        path = folder / Path(str(source["file"])).name
        # What was asked for without a name was the only one.
        same = wanted.file in (source["asked"], source["file"])
        if same and _sha256(path) == source["sha256"]:
            return path
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def _fetch(wanted: HubAddress, folder: Path) -> Path:
    api = hub_api()
    info = api.model_info(
        wanted.repo, revision=wanted.revision, files_metadata=True, timeout=_SECONDS
    )
    if info.sha != wanted.revision:
        raise HubError(
            f"'{wanted.repo}' answered with commit {info.sha} for {wanted.revision}. Do not use it."
        )
    listed = _choose_file(wanted, list(info.siblings or ()))
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder))
    try:
        got = Path(
            api.hf_hub_download(
                wanted.repo,
                listed.rfilename,
                revision=wanted.revision,
                local_dir=place,
                etag_timeout=_SECONDS,
            )
        )
        digest = _check_file(got, listed)
        target = folder / got.name
        got.replace(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    source = {"address": str(wanted), "asked": wanted.file, "file": listed.rfilename}
    with replacing(folder / _SOURCE) as temporary:
        temporary.write_text(json.dumps(source | {"sha256": digest}), encoding="utf-8")
    return target


def _choose_file(wanted: HubAddress, files: list[Any]) -> Any:
    """Choose the model among a repository's files, before anything of it is fetched."""
    if len(files) > _MOST_FILES:
        raise HubError(f"'{wanted.repo}' holds {len(files)} files, which is no model's repository.")
    models = [file for file in files if _FILE.fullmatch(file.rfilename)]
    if wanted.file:
        models = [file for file in models if file.rfilename == wanted.file]
    names = ", ".join(file.rfilename for file in models[:5])
    if not models:
        raise HubError(
            f"'{wanted.repo}' has no {wanted.file or 'file ending in ' + _SUFFIX} at this commit. "
            "Nothing else is loaded: other formats can run code when opened."
        )
    if len(models) > 1:
        raise HubError(
            f"'{wanted.repo}' has several models ({names}). Name one: "
            f"hf://{wanted.repo}/{models[0].rfilename}@{wanted.revision}"
        )
    size = models[0].size
    if not isinstance(size, int) or not 0 < size <= _MOST_BYTES:
        raise HubError(
            f"{names} is {size} bytes by its list of files; models are at most 4 GiB, and state "
            "their size."
        )
    return models[0]


def _check_file(path: Path, listed: Any) -> str:
    """Return the file's sha256 if it is what was listed."""
    digest, lfs = _sha256(path), listed.lfs
    if path.stat().st_size != listed.size:
        same = False
    elif lfs is not None:
        same = digest == lfs.sha256
    else:
        same = _blob_id(path) == listed.blob_id
    if not same:
        raise HubError(
            f"{path.name} is not what the repository lists: its size or checksum differs. It was "
            "not kept; try again, and do not use it if that happens again."
        )
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blob_id(path: Path) -> str:
    """What git calls a small file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()
