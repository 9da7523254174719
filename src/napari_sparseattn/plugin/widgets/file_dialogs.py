"""Dialogs in which the user chooses images and slides."""

from __future__ import annotations

from qtpy.QtWidgets import QFileDialog, QInputDialog, QWidget

__all__ = ["choose_address", "choose_images", "choose_slide_folder", "choose_slides"]


def choose_images(parent: QWidget | None = None) -> list[str]:
    """Let the user choose images, holograms or slides; none where that is cancelled."""
    paths, _ = QFileDialog.getOpenFileNames(parent, "Open images, holograms or slides")
    return list(paths)


def choose_slides(parent: QWidget | None = None) -> list[str]:
    """Let the user choose slides; none where that is cancelled."""
    from ...images.slides.opening import SLIDE_SUFFIXES

    endings = " ".join(f"*{ending}" for ending in (*SLIDE_SUFFIXES, ".tif", ".tiff"))
    paths, _ = QFileDialog.getOpenFileNames(
        parent, "Open slides", "", f"Slides ({endings});;All files (*)"
    )
    return list(paths)


def choose_slide_folder(parent: QWidget | None = None) -> list[str]:
    """Let the user choose the folder of a slide; none where that is cancelled."""
    path = QFileDialog.getExistingDirectory(parent, "Open the folder of an OME-Zarr or DICOM slide")
    return [path] if path else []


def choose_address(parent: QWidget | None = None) -> list[str]:
    """Let the user write the address of a slide; none where that is cancelled."""
    text, given = QInputDialog.getText(
        parent,
        "Open a slide at an address",
        "https://, http:// or s3://, of a slide in TIFF (SVS, NDPI, OME-TIFF) or OME-Zarr.\n"
        "Only what is looked at is loaded.",
    )
    return [text.strip()] if given and text.strip() else []
