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
from ..core.status import explain
from ..session import Session

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ...training.data.annotations import Annotation, ImageRecord
    from ...training.tune.fine_tune import FineTuneReport
    from ...training.tune.report import HeldOutCell
    from ..core.models import Model

__all__ = ["AnnotationFinder", "Outcome"]


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
        return self._annotating.places.go(*found)

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
