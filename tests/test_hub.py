"""Models from a repository: by a commit only, checked, kept; a server on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fake_hub import FakeHub, serving
from napari_sparseattn.bundle import BundleError, load_bundle, save_bundle
from napari_sparseattn.cache import Cache
from napari_sparseattn.cli import app as cli
from napari_sparseattn.export.hub_push import push_bundle
from napari_sparseattn.hub import HubAddress, HubError, fetch_model
from small_model import small_bundle

TOKEN = "hf_notreal0123456789"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield found


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_bundle(small_bundle(), path)
    return path.read_bytes()


def test_a_model_is_fetched_once_by_its_commit(hub: FakeHub, content: bytes) -> None:
    readme = b"# small"
    commit = hub.add("owner/name", {"README.md": readme, "small.safetensors": content})
    bundle = load_bundle(f"hf://owner/name@{commit}")
    assert bundle.card.name == "small"
    assert bundle.path is not None
    assert bundle.path.is_relative_to(Cache.default().section("hub"))
    fetched = {path for verb, path in hub.asked if verb == "GET" and "/resolve/" in path}
    assert fetched == {f"/owner/name/resolve/{commit}/small.safetensors"}
    hub.asked.clear()
    assert load_bundle(f"hf://owner/name@{commit}").hash == bundle.hash
    assert hub.asked == [], "it was fetched again"
    # What is kept is checked: a damaged one is fetched again.
    damaged = bytearray(content)
    damaged[-1] ^= 1
    bundle.path.write_bytes(damaged)
    assert load_bundle(f"hf://owner/name@{commit}").hash == bundle.hash
    assert hub.asked
    (entry,) = Cache.default().entries()
    assert entry.kind == "hub"


def test_small_files_are_checked_by_their_git_hash(hub: FakeHub, content: bytes) -> None:
    hub.lfs = False
    commit = hub.add("owner/name", {"small.safetensors": content})
    assert fetch_model(f"hf://owner/name@{commit}").read_bytes() == content
    other = hub.add("owner/other", {"small.safetensors": content})
    hub.lies["small.safetensors"] = {"blobId": "0" * 40}
    with pytest.raises(HubError, match="size or checksum differs"):
        fetch_model(f"hf://owner/other@{other}")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("hf://owner/name@main", "'main' is a branch.*whole commit, 40 digits.*model_info"),
        ("hf://owner/name@v1.0", "a tag"),
        ("hf://owner/name@0123abc", "a part of a commit"),
        ("hf://owner/name", "No commit is named"),
        ("hf://owner@" + "0" * 40, "no address"),
        ("hf://../../etc/passwd@" + "0" * 40, "no address"),
        ("hf://owner/name/../x.safetensors@" + "0" * 40, "only .safetensors"),
        ("hf://owner/name/model.bin@" + "0" * 40, "only .safetensors"),
    ],
)
def test_only_whole_commits_and_safetensors_are_taken(
    hub: FakeHub, address: str, says: str
) -> None:
    with pytest.raises(HubError, match=says):
        load_bundle(address)
    assert hub.asked == [], "it was asked for all the same"


def test_the_list_of_files_is_checked_before_anything_is_fetched(
    hub: FakeHub, content: bytes
) -> None:
    pickled = hub.add("owner/pickled", {"pytorch_model.bin": b"\x80\x04", "run.py": b"1"})
    with pytest.raises(HubError, match=r"no file ending in \.safetensors.*can run code"):
        fetch_model(f"hf://owner/pickled@{pickled}")
    several = hub.add("owner/several", {"a.safetensors": content, "b.safetensors": content})
    with pytest.raises(HubError, match=r"several models.*hf://owner/several/a\.safetensors@"):
        fetch_model(f"hf://owner/several@{several}")
    path = fetch_model(f"hf://owner/several/b.safetensors@{several}")
    assert path.name == "b.safetensors"
    hub.asked.clear()
    hub.lies["huge.safetensors"] = {"size": 5 * 2**30}
    huge = hub.add("owner/huge", {"huge.safetensors": content})
    with pytest.raises(HubError, match="at most 4 GiB"):
        fetch_model(f"hf://owner/huge@{huge}")
    assert not [path for _, path in hub.asked if "/resolve/" in path]


def test_what_is_not_what_was_listed_is_not_kept(hub: FakeHub, content: bytes) -> None:
    lfs = {"sha256": "0" * 64, "size": len(content), "pointerSize": 130}
    hub.lies["small.safetensors"] = {"lfs": lfs}
    commit = hub.add("owner/name", {"small.safetensors": content})
    with pytest.raises(HubError, match="checksum differs"):
        fetch_model(f"hf://owner/name@{commit}")
    assert not list(Cache.default().folder.rglob("*.safetensors"))
    # A file that is what was listed and no model is refused by `load_bundle`.
    other = hub.add("owner/other", {"else.safetensors": b"\x80\x04" + bytes(100)})
    with pytest.raises(BundleError, match="pickle"):
        load_bundle(f"hf://owner/other@{other}")


def test_what_is_not_there_is_said(hub: FakeHub, content: bytes) -> None:
    with pytest.raises(HubError, match="no repository 'owner/absent'"):
        fetch_model("hf://owner/absent@" + "0" * 40)
    hub.add("owner/name", {"small.safetensors": content})
    with pytest.raises(HubError, match="no such commit"):
        fetch_model("hf://owner/name@" + "0" * 40)


def test_without_a_network_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE", str(tmp_path))
    with serving() as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    with pytest.raises(ConnectionError, match="could not be reached"):
        fetch_model("hf://owner/name@" + "0" * 40)


def test_a_pushed_model_loads_from_the_address_it_gives(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    bundle = small_bundle(description="Of nothing.", weights_licence="CC-BY-4.0")
    address = push_bundle(bundle, "owner/name", private=True)
    assert HubAddress.parse(str(address)) == address
    files = hub.repos["owner/name"][address.revision]
    assert set(files) == {"small.safetensors", "README.md"}, "something else was given away"
    page = files["README.md"].decode()
    assert page.startswith("---\nlibrary_name: napari-sparseattn\nlicense: cc-by-4.0\n")
    assert "pipeline_tag: image-classification" in page.split("---")[1]
    assert "round, lobed, small" in page
    loaded = load_bundle(str(address))
    assert loaded.card.description == "Of nothing."
    assert f"Bearer {TOKEN}" in hub.tokens
    assert TOKEN not in caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_without_a_login_nothing_is_pushed(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", "/nonexistent")
    with pytest.raises((HubError, ConnectionError), match="hf auth login"):
        push_bundle(small_bundle(), "owner/name")
    with pytest.raises(HubError, match="owner/name"):
        push_bundle(small_bundle(), "just-a-name")
    assert not hub.repos


def test_the_command_line_takes_addresses(
    hub: FakeHub, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    model = tmp_path / "small.safetensors"
    model.write_bytes(content)
    pushed = CliRunner().invoke(cli.app, ["push", str(model), "owner/name", "--json"])
    assert pushed.exit_code == 0, pushed.output
    address = json.loads(pushed.stdout.splitlines()[-1])["address"]
    shown = CliRunner().invoke(cli.app, ["models", address, "--json"])
    assert shown.exit_code == 0, shown.output
    assert list(json.loads(shown.stdout.splitlines()[-1])["models"]) == [address]
    copy = tmp_path / "copy.safetensors"
    done = CliRunner().invoke(
        cli.app, ["export-model", address, "--to", "safetensors", "--out", str(copy)]
    )
    assert done.exit_code == 0, done.output
    assert load_bundle(copy).hash == load_bundle(model).hash
