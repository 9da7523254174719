"""What training in one viewer gave: the new model, its report, and its held-out cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from psygnal import Signal

from ...training.runs.reports import write_report
from ...training.runs.requests import Trained
from ...training.runs.runs import Version, versions
from ..annotate.session import Annotating
from ..core.lanes import Lanes
from ..core.models import prepare_model
from ..core.sources import file_of
from ..core.status import explain
from ..opening import open_files
from ..session import Session

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...training.data.annotations import Annotation, ImageRecord
    from ...training.tune.fine_tune import FineTuneReport
    from ...training.tune.report import HeldOutCell
    from ..core.models import Model

__all__ = ["AnnotationFinder", "Outcome"]

#: So many diameters of a cell are shown around it, or so many pixels where that is unknown.
_AROUND = 12.0
_PIXELS_AROUND = 400.0


class Outcome:
    """The last training's model and report, and which model to use.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly, by the session.
    session : Session
        Whose model may be replaced.
    annotating : Annotating
        Knows where held-out cells are.

    Attributes
    ----------
    trained : Trained or None
        The new model and its report.
    to_decide : bool
        Whether nobody has said yet which model to use.
    """

    changed = Signal(object)

    def __init__(self, viewer: ViewerModel, session: Session, annotating: Annotating) -> None:
        self.session = session
        self.trained: Trained | None = None
        self.to_decide = False
        self._finder = AnnotationFinder(session, annotating)
        self._loading = Lanes.of(viewer).add(
            self._load, given=self._put_to_use, failed=self._show_failure
        )

    @property
    def report(self) -> FineTuneReport | None:
        """The report of the last training."""
        return None if self.trained is None else self.trained.report

    def show(self, trained: Trained | None) -> None:
        """Show a new model and its report, or none."""
        self.trained, self.to_decide = trained, trained is not None
        self.changed.emit(self.report)

    def close(self) -> None:
        """Let no model arrive that is still being loaded."""
        self._loading.close()

    def use(self) -> None:
        """Put the new model in place of the one in use."""
        if self.trained is not None:
            self.to_decide = False
            self._loading.ask(self.trained.path)
            self.changed.emit(self.report)

    def keep_old(self) -> None:
        """Go on with the model in use; the new one stays in the list of models."""
        if self.trained is not None:
            self.to_decide = False
            name = self.trained.path.stem
            self.session.status.notify(
                f"The old model stays in use. '{name}' is in the list of models."
            )
            self.changed.emit(self.report)

    def versions(self) -> list[Version]:
        """Return the fine-tuned models, the newest first."""
        return versions()

    def save_report(self, path: Path) -> None:
        """Write the report as HTML and as JSON."""
        if self.report is None:
            return
        try:
            page, plain = write_report(self.report, path)
        except OSError as error:
            self.session.status.notify(f"The report could not be written: {error}", "error")
        else:
            self.session.status.notify(f"The report was saved as {page} and {plain.name}.")

    def held_out_cells(self, label: str, predicted: str) -> list[HeldOutCell]:
        """Return those of one field of the confusion matrix, the most confident first."""
        if self.report is None:
            return []
        found = [c for c in self.report.cells if (c.label, c.after) == (label, predicted)]
        return sorted(found, key=lambda cell: -cell.probability)

    def go_to(self, cell: HeldOutCell) -> None:
        """Bring a held-out cell to the middle of the view, and open its image if need be."""
        self._finder.go_to(cell.id)

    # -- within

    def _load(self, path: Path) -> Model:
        model = self.session.selection.model
        return prepare_model(str(path), "auto" if model is None else model.device)

    def _put_to_use(self, path: Path, model: Model) -> None:
        self.session.selection.model_is_chosen = True
        self.session.selection.set_model(model)
        self.session.status.notify(f"'{model.bundle.card.name}' is in use now.")

    def _show_failure(self, path: Path, error: BaseException) -> None:
        self.to_decide = self.trained is not None
        self.changed.emit(self.report)
        self.session.status.notify(explain(error), "error")


class AnnotationFinder:
    """Goes to annotated cells, and opens their images where they are not open.

    Parameters
    ----------
    session : Session
        Of the viewer.
    annotating : Annotating
        Knows which layer shows which image.
    """

    def __init__(self, session: Session, annotating: Annotating) -> None:
        self._session, self._annotating = session, annotating
        self._awaited: tuple[ImageRecord, Annotation | None] | None = None

    def go_to(self, name: str) -> bool:
        """Bring an annotation to the middle of the view; return whether its image is open.

        Parameters
        ----------
        name : str
            Its id, with a colon and the number of the crop where it gave several.
        """
        found = self._find(name)
        if found is None:
            self._session.status.notify("This annotation has been removed since.", "warning")
            return False
        image, annotation = found
        layer = self._layer_of(image)
        if layer is not None:
            self._show(layer, annotation)
            return True
        self._open(image, annotation)
        return False

    def _find(self, name: str) -> tuple[ImageRecord, Annotation | None] | None:
        wanted = name.partition(":")[0]
        for image, items in self._annotating.classes.project.annotations():
            for item in items:
                if item.id == wanted:
                    return image, item
            # Of slides, and of their patches, the name tells which.
            if name == image.name or name.rsplit(":", 2)[0] == image.name:
                return image, None
        return None

    def _layer_of(self, image: ImageRecord) -> Image | None:
        for layer in self._session.selection.images():
            found = self._annotating.files.annotations(layer)
            if found is not None and found.image.hash == image.hash:
                return layer
            # It may be open without having been looked at yet.
            if found is None and image.path and file_of(layer) == image.path:
                return layer
        return None

    def _open(self, image: ImageRecord, annotation: Annotation | None) -> None:
        viewer = self._session.viewer
        if viewer is None or not image.path or not Path(image.path).exists():
            self._session.status.notify(
                f"'{image.name or image.hash[:8]}' is not open, and not where it was. Open it, "
                "then click again.",
                "warning",
            )
            return
        if self._awaited is None:
            self._annotating.changed.connect(self._go_on)
        self._awaited = (image, annotation)
        open_files(viewer, [image.path], self._session.status.notify)

    def _go_on(self, _: object = None) -> None:
        """Go on when the annotations of the image that is being opened are there."""
        if self._awaited is None:
            return
        image, annotation = self._awaited
        layer = self._layer_of(image)
        if layer is not None:
            self._awaited = None
            self._annotating.changed.disconnect(self._go_on)
            self._show(layer, annotation)

    def _show(self, layer: Image, annotation: Annotation | None) -> None:
        session, viewer = self._session, self._session.viewer
        if viewer is None:
            return
        session.selection.set_image(layer)
        layer.visible = True
        if annotation is None or annotation.centre is None:
            viewer.fit_to_view()
            return
        ahead = layer.ndim - 2
        index = (annotation.t, annotation.z)[:ahead]
        world = layer.data_to_world((*index, *annotation.centre))
        for axis, value in enumerate(world[:-2]):
            viewer.dims.set_point(viewer.dims.ndim - len(world) + axis, value)
        camera = viewer.scene.camera
        camera.center = (0.0, *world[-2:])
        across = _AROUND * annotation.diameter_px if annotation.diameter_px else _PIXELS_AROUND
        across *= abs(float(layer.scale[-1]))
        # Closer only: who looks closely at cells goes on doing so.
        camera.zoom = max(camera.zoom, min(viewer.canvas.size) / max(across, 1e-9))
