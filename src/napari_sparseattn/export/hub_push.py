"""Models given to a Hugging Face repository: the safetensors file and a page about it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from ..bundle import Bundle, save_bundle
from ..hub import HubAddress, HubError, hub_api, hub_errors
from .hub_metadata import hub_metadata
from .model_page import model_page

__all__ = ["push_bundle"]

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def push_bundle(
    bundle: Bundle, repo: str, *, private: bool = False, message: str = ""
) -> HubAddress:
    """Put a model into a repository, which is made if need be.

    Two files are written in one commit: the model as safetensors, with its
    card inside, and ``README.md``. huggingface_hub's own login is used; this
    package neither asks for a token nor keeps one.

    Parameters
    ----------
    bundle : Bundle
        The model.
    repo : str
        ``owner/name``.
    private : bool
        Whether a repository that is made is seen by its owner alone.
    message : str
        Of the commit.

    Returns
    -------
    HubAddress
        With the commit, for others to load exactly this model.

    Raises
    ------
    HubError
        If the name is no repository's, or you may not write there.
    ConnectionError
        If it cannot be reached.
    """
    if not _REPO.fullmatch(repo):
        raise HubError(f"'{repo}' is no name of a repository. They look like owner/name.")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", bundle.card.name) + ".safetensors"
    with tempfile.TemporaryDirectory(prefix="napari-sparseattn-") as folder:
        # Written anew, so that what is shared has passed its own test.
        saved = save_bundle(bundle, Path(folder) / name)
        with hub_errors(repo):
            commit = _commit(saved, Path(folder) / name, repo, private, message)
    return HubAddress(repo, commit, name)


def _commit(bundle: Bundle, path: Path, repo: str, private: bool, message: str) -> str:
    from huggingface_hub import CommitOperationAdd

    api = hub_api()
    api.create_repo(repo, private=private, exist_ok=True)
    info = api.create_commit(
        repo,
        [
            CommitOperationAdd(path.name, str(path)),
            CommitOperationAdd("README.md", _page(bundle, repo, path.name).encode()),
        ],
        commit_message=message or f"{bundle.card.name}, tensors {bundle.hash[:12]}",
    )
    return str(info.oid)


def _page(bundle: Bundle, repo: str, file: str) -> str:
    """The repository's page, with the heading that the site reads."""
    heading = ["---", hub_metadata(bundle.card).to_yaml().rstrip(), "---", ""]
    use = [
        "## Use",
        "",
        "Copy the commit from this repository's history, and load exactly this model:",
        "",
        "```python",
        "from napari_sparseattn import load_bundle",
        "",
        f'bundle = load_bundle("hf://{repo}/{file}@COMMIT")',
        "```",
        "",
    ]
    return "\n".join([*heading, model_page(bundle), *use])
