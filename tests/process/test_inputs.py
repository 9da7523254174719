"""Which files a batch takes, and how their results are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_sparseattn.process.inputs import NOTES_FOLDER, find_inputs, name_inputs


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def keys(*inputs: Path | str, **options: object) -> list[str]:
    return [item.key for item in find_inputs(inputs, **options)]


def test_folders_are_searched_below(tmp_path: Path) -> None:
    for name in ("b.tif", "a.PNG", "deep/er/c.svs", "deep/er/c.npy", "notes.txt", ".hidden.tif"):
        touch(tmp_path / name)
    touch(tmp_path / ".trash" / "old.tif")
    assert keys(tmp_path) == ["a.PNG", "b.tif", "deep/er/c.npy", "deep/er/c.svs"]


def test_inputs_of_one_name_have_results_of_their_own(tmp_path: Path) -> None:
    for name in ("one/a.tif", "one/a.png", "two/a.tif"):
        touch(tmp_path / name)
    found = keys(tmp_path / "two", tmp_path / "one")
    assert found == ["one/a.png", "one/a.tif", "two/a.tif"]
    assert keys(tmp_path / "one" / "a.tif", tmp_path / "two" / "a.tif") == found[1:]


def test_names_that_differ_in_case_only_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path / "a.tif")
    touch(tmp_path / "A.TIF")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system does not tell them apart itself")
    assert len({key.casefold() for key in keys(tmp_path)}) == 2


def test_the_folder_of_results_is_not_read(tmp_path: Path) -> None:
    touch(tmp_path / "a.tif")
    touch(tmp_path / "results" / "a.tif_overlay.png")
    touch(tmp_path / "earlier" / "a.tif_overlay.png")
    (tmp_path / "earlier" / NOTES_FOLDER).mkdir()
    assert keys(tmp_path, out=tmp_path / "results") == ["a.tif"]
    assert keys(str(tmp_path / "**" / "*.*"), out=tmp_path / "results") == ["a.tif"]
    with pytest.raises(ValueError, match="cannot go into the folder of the images"):
        keys(tmp_path, out=tmp_path)


def test_results_may_go_above_the_images(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.tif")
    (tmp_path / NOTES_FOLDER).mkdir()
    assert keys(tmp_path / "images", out=tmp_path) == ["a.tif"]
    assert keys(str(tmp_path / "images" / "*.tif"), out=tmp_path) == ["a.tif"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "real" / "z.tif")
    touch(tmp_path / "elsewhere" / "e.tif")
    folder = tmp_path / "real"
    try:
        (folder / "again.tif").symlink_to(folder / "z.tif")
        (folder / "other").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (folder / "up").symlink_to(folder, target_is_directory=True)
        (folder / "gone.tif").symlink_to(folder / "nothing.tif")
    except OSError:
        pytest.skip("links need a privilege here")
    # The file's own name counts; a link to nothing is an item, which will fail and say so.
    assert keys(folder) == ["gone.tif", "other/e.tif", "z.tif"]


def test_patterns(tmp_path: Path) -> None:
    for name in ("p1/w_rgb.png", "p1/w_mask.png", "p2/w_rgb.png", "p2/w.dat"):
        touch(tmp_path / name)
    assert keys(tmp_path, pattern="*_rgb.png") == ["p1/w_rgb.png", "p2/w_rgb.png"]
    assert keys(tmp_path, pattern="p2/*.dat") == ["p2/w.dat"]
    assert keys(str(tmp_path / "*" / "*_rgb.png")) == ["p1/w_rgb.png", "p2/w_rgb.png"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        keys(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"matches '\*\.xyz'"):
        keys(tmp_path, pattern="*.xyz")
    with pytest.raises(FileNotFoundError, match="Nothing to work on"):
        keys(str(tmp_path / "*.tif"))


def test_a_slide_that_is_a_folder_is_one_item(tmp_path: Path) -> None:
    slide = tmp_path / "s.zarr"
    touch(slide / "0" / "0.png")
    (slide / ".zattrs").write_text('{"multiscales": [{"version": "0.4", "datasets": []}]}')
    touch(tmp_path / "a.tif")
    assert keys(tmp_path) == ["a.tif", "s.zarr"]
    assert keys(slide) == ["s.zarr"]


def test_files_that_are_given_are_named_as_those_that_are_found(tmp_path: Path) -> None:
    one, two = touch(tmp_path / "a" / "x.tif"), touch(tmp_path / "b" / "x.tif")
    found = find_inputs([one, two])
    assert [item.key for item in found] == ["a/x.tif", "b/x.tif"]
    assert name_inputs([two, one, two]) == (found[1], found[0], found[1])
    assert name_inputs([one])[0].key == "x.tif"
    # Whether a file is there is not asked, and links keep their own names.
    (tmp_path / "c.tif").symlink_to(one)
    assert [item.key for item in name_inputs([tmp_path / "c.tif", one])] == ["c.tif", "a/x.tif"]
    assert name_inputs([tmp_path / "none.tif"])[0].key == "none.tif"
