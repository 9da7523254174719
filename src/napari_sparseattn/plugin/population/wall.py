"""A wall of pictures of cells by class: scrolled, picked, looked into, dragged to another class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QMimeData, QPoint, QRect, QSize, Qt, QTimer, Signal
from qtpy.QtGui import (
    QColor,
    QContextMenuEvent,
    QDrag,
    QDragMoveEvent,
    QDropEvent,
    QFont,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QResizeEvent,
)
from qtpy.QtWidgets import QAbstractScrollArea, QApplication, QWidget

from ...card import readable_name
from ...metrics import whole_percent
from .filter_bar import NOT_CLASSIFIED, UNCLASSIFIED_COLOUR
from .layout import Spot, WallLayout
from .session import PICTURE_SIZE, Population

if TYPE_CHECKING:
    from qtpy.QtCore import QEvent

__all__ = ["MIME", "Wall", "rows_of"]

#: Kind of what is dragged: cells of this window, by their rows.
MIME = "application/x-napari-sparseattn-cells"
_GAP, _CAPTION, _HEADING = 6, 16, 26
_CELL = (PICTURE_SIZE + _GAP, PICTURE_SIZE + _CAPTION + _GAP)
_PICKED, _CURRENT = QColor("#00a5e0"), QColor("#00d5ff")
_NO_PICTURE = QColor(128, 128, 128, 70)
_GIVEN = QColor("#ffffff")
_HOVER_MS = 350


class Wall(QAbstractScrollArea):
    """All cells that are shown, by the class that they go by.

    Signals
    -------
    gone_to : int
        A row was clicked or reached by a key.
    dropped : (list of int, str)
        Rows were dragged to a class.
    menu_wanted : QPoint
        Where, in the screen's pixels.
    """

    gone_to = Signal(int)
    dropped = Signal(list, str)
    menu_wanted = Signal(QPoint)

    def __init__(self, population: Population, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.population, self.shown = population, population.shown
        self.groups: dict[str, npt.NDArray[np.intp]] = {}
        self.folded: set[str] = set()
        self.layout_ = WallLayout((), 1, _CELL, _HEADING)
        self._picked: npt.NDArray[np.bool_] = np.zeros(0, bool)
        self._pressed: tuple[QPoint, int] | None = None
        self._anchor: int | None = None
        self._target = -1
        self.popup = _Popup(self)
        self._hovered: int | None = None
        self._hovering = QTimer(self)
        self._hovering.setSingleShot(True)
        self._hovering.setInterval(_HOVER_MS)
        self._hovering.timeout.connect(self._show_hovered)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumSize(_CELL[0] + 40, 70)
        self.setAccessibleName("Gallery of cells")
        self.viewport().setMouseTracking(True)
        self.viewport().setAcceptDrops(True)
        self.setAcceptDrops(True)
        self.verticalScrollBar().setSingleStep(_CELL[1] // 2)

    # -- what is shown

    def set_groups(self, groups: Mapping[str, npt.NDArray[np.intp]]) -> None:
        """Show other cells, or the same in another order."""
        self.groups = {name: rows for name, rows in groups.items() if len(rows)}
        self._hide_popup()
        self._lay_out()
        self.show_picked()

    def show_picked(self) -> None:
        """Mark the cells that are picked, and bring the last of them into view."""
        self._picked = np.zeros(self.shown.total, bool)
        self._picked[self.shown.picked] = True
        self._describe()
        self.viewport().update()

    def rows_seen(self) -> list[int]:
        """Return the rows in view, then those a screen below and above."""
        top, height = self.verticalScrollBar().value(), self.viewport().height()
        found: dict[int, None] = {}
        for begin, end in ((top, top + height), (top - height, top + 2 * height)):
            for section, first, last in self.layout_.visible(begin, end):
                found |= dict.fromkeys(self._rows(section)[first:last].tolist())
        return list(found)

    def spot_of(self, row: int) -> Spot | None:
        """Return where a row is; None where it is not shown, or folded away."""
        for section, (name, rows) in enumerate(self.groups.items()):
            if name not in self.folded and len(at := np.flatnonzero(rows == row)):
                return Spot(section, int(at[0]))
        return None

    def show_row(self, row: int) -> None:
        """Scroll until a row is in view."""
        spot = self.spot_of(row)
        if spot is None:
            return
        bar = self.verticalScrollBar()
        top, height = self.layout_.corner(spot)[1], self.viewport().height()
        if top < bar.value() + _HEADING:
            bar.setValue(top - _HEADING)
        elif top + _CELL[1] > bar.value() + height:
            bar.setValue(top + _CELL[1] - height)

    def show_group(self, name: str) -> None:
        """Scroll to a class."""
        if name in self.groups:
            self.folded.discard(name)
            self._lay_out()
            self.verticalScrollBar().setValue(self.layout_.tops[list(self.groups).index(name)])

    def fold(self, name: str) -> None:
        """Fold a class away, or open it."""
        self.folded ^= {name}
        self._lay_out()
        self.viewport().update()

    def _rows(self, section: int) -> npt.NDArray[np.intp]:
        return list(self.groups.values())[section]

    def _lay_out(self) -> None:
        counts = [0 if name in self.folded else len(rows) for name, rows in self.groups.items()]
        self.layout_ = WallLayout(counts, self.viewport().width() - _GAP, _CELL, _HEADING)
        bar, height = self.verticalScrollBar(), self.viewport().height()
        bar.setRange(0, max(0, self.layout_.height - height))
        bar.setPageStep(max(height - _HEADING, _CELL[1]))
        self._ask()

    def _ask(self) -> None:
        if self.isVisible():
            self.population.ask_pictures(self.rows_seen())

    def _describe(self) -> None:
        row = self.shown.current
        if row is not None and self.shown.results is not None and row < self.shown.total:
            n = len(self.shown.picked)
            more = f"; {n} cells are picked" if n > 1 else ""
            self.setAccessibleDescription(self._facts(row).replace("\n", ", ") + more)

    def _facts(self, row: int) -> str:
        results, shown = self.shown.results, self.shown
        assert results is not None
        ranked = results[row].rank_classes()[:2]
        lines = [f"Cell {results.cells.ids[row]}"]
        if np.isfinite(results.confidence[row]):
            lines += [f"{readable_name(name)} {whole_percent(share)}" for name, share in ranked]
        if row in shown.annotated:
            lines.append(f"annotated: {readable_name(shown.annotated[row])}")
        for key, words in (("novelty", "unlike"), ("evidence_gain", "evidence")):
            column = shown.column(key)
            if column is not None:
                lines.append(f"{words} {column.text(row)}")
        return "\n".join(lines)

    # -- Qt: size and drawing

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """Lay out anew, with what is seen first still in view."""
        super().resizeEvent(event)
        first = self.layout_.at(0, self.verticalScrollBar().value())
        self._lay_out()
        if first is not None and first.index >= 0:
            self.verticalScrollBar().setValue(self.layout_.corner(first)[1] - _HEADING)

    def showEvent(self, event: QEvent) -> None:  # noqa: N802 - Qt's name
        """Ask for the pictures."""
        super().showEvent(event)
        self._lay_out()

    def scrollContentsBy(self, dx: int, dy: int) -> None:  # noqa: N802 - Qt's name
        """Draw what has come into view, and ask for its pictures."""
        self._hide_popup()
        self.viewport().update()
        self._ask()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw what is in view."""
        painter = QPainter(self.viewport())
        top, height = self.verticalScrollBar().value(), self.viewport().height()
        small = QFont(painter.font())
        small.setPointSizeF(max(6.0, small.pointSizeF() - 1))
        confidence = None if self.shown.results is None else self.shown.results.confidence
        visible = self.layout_.visible(top, top + height)
        painter.setFont(small)
        for section, first, end in visible:
            for index, row in enumerate(self._rows(section)[first:end].tolist(), first):
                x, y = self.layout_.corner(Spot(section, index))
                self._draw_cell(painter, row, x + _GAP, y - top, confidence)
        painter.setFont(self.font())
        for section, _, _ in visible:
            # The heading of what is seen first stays at the top, until the next one comes.
            own, below = self.layout_.tops[section], self.layout_.tops[section + 1]
            at = min(max(own, top), below - _HEADING) - top
            self._draw_heading(painter, section, at)
        painter.end()

    def _draw_cell(
        self,
        painter: QPainter,
        row: int,
        x: int,
        y: int,
        confidence: npt.NDArray[np.float32] | None,
    ) -> None:
        frame = QRect(x, y, PICTURE_SIZE, PICTURE_SIZE)
        picture = self.population.picture(row)
        if picture is None:
            painter.fillRect(frame, _NO_PICTURE)
        else:
            painter.drawImage(frame, _image(picture))
        ink = self.palette().color(self.foregroundRole())
        if row in self.shown.annotated:
            painter.fillRect(QRect(x + PICTURE_SIZE - 16, y, 16, 15), QColor(0, 0, 0, 150))
            painter.setPen(_GIVEN)
            painter.drawText(
                QRect(x + PICTURE_SIZE - 16, y, 16, 15), Qt.AlignmentFlag.AlignCenter, "✎"
            )
        words = ""
        if confidence is not None and confidence[row] == confidence[row]:
            words = whole_percent(float(confidence[row]))
        painter.setPen(ink)
        painter.drawText(
            QRect(x, y + PICTURE_SIZE, PICTURE_SIZE, _CAPTION), Qt.AlignmentFlag.AlignCenter, words
        )
        if row < len(self._picked) and self._picked[row]:
            current = row == self.shown.current
            painter.setPen(QPen(_CURRENT if current else _PICKED, 3))
            painter.drawRect(frame.adjusted(1, 1, -2, -2))
            # Seen on any ground and without the colour; of the current one it is thick.
            painter.setPen(QPen(ink, 2 if current else 1))
            painter.drawRect(frame.adjusted(-1, -1, 0, 0))

    def _draw_heading(self, painter: QPainter, section: int, y: int) -> None:
        name = list(self.groups)[section]
        width = self.viewport().width()
        back = self.palette().color(self.backgroundRole())
        if section == self._target:
            back = _PICKED
        painter.fillRect(QRect(0, y, width, _HEADING), back)
        colour = QColor(self.population.colour_of(name) or UNCLASSIFIED_COLOUR)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.drawRoundedRect(QRect(_GAP + 16, y + 7, 12, 12), 3, 3)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(self.palette().color(self.foregroundRole()))
        arrow = "▸" if name in self.folded else "▾"
        line = QRect(_GAP, y, width - 2 * _GAP, _HEADING)
        painter.drawText(line, Qt.AlignmentFlag.AlignVCenter, arrow)
        font = QFont(self.font())
        font.setBold(True)
        painter.setFont(font)
        words = f"{readable_name(name) or NOT_CLASSIFIED}  {len(self._rows(section))}"
        painter.drawText(line.adjusted(34, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, words)
        painter.setFont(self.font())

    # -- mouse

    def _spot_at(self, at: QPoint) -> Spot | None:
        bar = self.verticalScrollBar().value()
        y = at.y() + bar
        section = self.layout_.section_at(y)
        if section is not None and at.y() < _HEADING:
            # Under the heading that stays at the top.
            return Spot(section, -1)
        return self.layout_.at(at.x() - _GAP, y)

    def row_at(self, at: QPoint) -> int | None:
        """Return the row at a place of the viewport, or None."""
        spot = self._spot_at(at)
        return None if spot is None or spot.index < 0 else int(self._rows(spot.section)[spot.index])

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Pick a cell, or fold a class."""
        at = event.position().toPoint()
        self._hide_popup()
        spot, row = self._spot_at(at), self.row_at(at)
        if row is None:
            if spot is not None and event.button() == Qt.MouseButton.LeftButton:
                name = list(self.groups)[spot.section]
                inside = at.y() + self.verticalScrollBar().value() - self.layout_.tops[spot.section]
                if inside < _HEADING or at.y() < _HEADING:
                    self.fold(name)
                else:
                    self.shown.pick(())
            return
        if event.button() == Qt.MouseButton.RightButton:
            if not self._picked[row]:
                self.shown.pick((row,), row)
            return
        if event.button() != Qt.MouseButton.LeftButton:
            return
        self._pressed = (at, row)
        modifiers = event.modifiers()
        if modifiers & Qt.KeyboardModifier.ShiftModifier and self._anchor is not None:
            self._pick_between(self._anchor, row)
        elif modifiers & Qt.KeyboardModifier.ControlModifier:
            self._anchor = row
            self._toggle(row)
        elif not self._picked[row]:
            self._anchor = row
            self.shown.pick((row,), row)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Drag what is picked, or look closer at what is under the mouse."""
        at = event.position().toPoint()
        if self._pressed is not None and event.buttons() & Qt.MouseButton.LeftButton:
            far = (at - self._pressed[0]).manhattanLength()
            if far >= QApplication.startDragDistance():
                row, self._pressed = self._pressed[1], None
                self._drag(row)
            return
        row_here = self.row_at(at)
        if row_here != self._hovered:
            self._hide_popup()
            self._hovered = row_here
            if row_here is not None:
                self._hovering.start()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Go to the cell that was clicked."""
        pressed, self._pressed = self._pressed, None
        plain = not event.modifiers() & (
            Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.ControlModifier
        )
        if pressed is None or event.button() != Qt.MouseButton.LeftButton or not plain:
            return
        self._anchor = pressed[1]
        self.shown.pick((pressed[1],), pressed[1])
        self.gone_to.emit(pressed[1])

    def leaveEvent(self, event: QEvent) -> None:  # noqa: N802 - Qt's name
        """Hide the closer look."""
        self._hide_popup()
        super().leaveEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:  # noqa: N802 - Qt's name
        """Offer the classes for what is picked."""
        self._hide_popup()
        if len(self.shown.picked):
            self.menu_wanted.emit(event.globalPos())

    def _toggle(self, row: int) -> None:
        picked = set(self.shown.picked.tolist()) ^ {row}
        self.shown.pick(picked, row if row in picked else None)

    def _pick_between(self, first: int, last: int) -> None:
        """Pick all from one cell to another, as they are laid out."""
        order = self._order()
        at = {row: i for i, row in enumerate(order.tolist())}
        if first not in at or last not in at:
            self.shown.pick((last,), last)
            return
        low, high = sorted((at[first], at[last]))
        self.shown.pick(order[low : high + 1], last)

    def _order(self) -> npt.NDArray[np.intp]:
        """Return all rows that are not folded away, as they are laid out."""
        shown = [rows for name, rows in self.groups.items() if name not in self.folded]
        return np.concatenate(shown) if shown else np.empty(0, np.intp)

    # -- dragging

    def _drag(self, row: int) -> None:
        if not self._picked[row]:
            self.shown.pick((row,), row)
        drag = QDrag(self)
        drag.setMimeData(mime_of(self.shown.picked.tolist()))
        drag.setPixmap(self._stack(row))
        drag.setHotSpot(QPoint(20, 20))
        drag.exec(Qt.DropAction.MoveAction)

    def _stack(self, row: int) -> QPixmap:
        """Return what is dragged: the picture, and how many."""
        made = QPixmap(QSize(PICTURE_SIZE, PICTURE_SIZE))
        made.fill(_NO_PICTURE)
        painter = QPainter(made)
        picture = self.population.picture(row)
        if picture is not None:
            painter.drawImage(made.rect(), _image(picture))
        if len(self.shown.picked) > 1:
            painter.fillRect(QRect(0, 0, 34, 18), _PICKED)
            painter.setPen(Qt.GlobalColor.white)
            painter.drawText(
                QRect(0, 0, 34, 18), Qt.AlignmentFlag.AlignCenter, str(len(self.shown.picked))
            )
        painter.end()
        return made

    def dragEnterEvent(self, event: QDropEvent) -> None:  # noqa: N802 - Qt's name
        """Take cells."""
        if event.mimeData().hasFormat(MIME):
            event.acceptProposedAction()

    def dragMoveEvent(self, event: QDragMoveEvent) -> None:  # noqa: N802 - Qt's name
        """Light up the class that they would be given; scroll at the edges."""
        at = event.position().toPoint()
        spot = self._spot_at(at)
        self._target = -1 if spot is None or not list(self.groups)[spot.section] else spot.section
        bar, height = self.verticalScrollBar(), self.viewport().height()
        if at.y() < _HEADING // 2:
            bar.setValue(bar.value() - bar.singleStep())
        elif at.y() > height - _HEADING // 2:
            bar.setValue(bar.value() + bar.singleStep())
        event.setAccepted(self._target >= 0)
        self.viewport().update()

    def dragLeaveEvent(self, event: QEvent) -> None:  # noqa: N802 - Qt's name
        """Light up nothing."""
        self._target = -1
        self.viewport().update()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802 - Qt's name
        """Give cells the class that they were dropped on."""
        spot, rows = self._spot_at(event.position().toPoint()), rows_of(event.mimeData())
        self._target = -1
        name = "" if spot is None else list(self.groups)[spot.section]
        if name and rows:
            event.acceptProposedAction()
            self.dropped.emit(rows, name)
        self.viewport().update()

    # -- keys

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Move, pick, go to a cell, look closer, or open the menu."""
        steps = {
            Qt.Key.Key_Left: (-1, 0),
            Qt.Key.Key_Right: (1, 0),
            Qt.Key.Key_Up: (0, -1),
            Qt.Key.Key_Down: (0, 1),
        }
        key, current = Qt.Key(event.key()), self.shown.current
        if key in steps:
            self._step(
                *steps[key], extend=bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
            )
        elif key in (Qt.Key.Key_PageDown, Qt.Key.Key_PageUp):
            bar = self.verticalScrollBar()
            way = 1 if key == Qt.Key.Key_PageDown else -1
            bar.setValue(bar.value() + way * bar.pageStep())
        elif key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            order = self._order()
            if len(order):
                self._reach(int(order[0 if key == Qt.Key.Key_Home else -1]))
        elif key == Qt.Key.Key_A and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self._pick_class()
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and current is not None:
            self.gone_to.emit(current)
        elif key == Qt.Key.Key_Space and current is not None:
            self._hovered = current
            self._show_hovered()
        elif key in (Qt.Key.Key_Minus, Qt.Key.Key_Plus, Qt.Key.Key_Equal):
            self._fold_by_key(away=key == Qt.Key.Key_Minus)
        elif key == Qt.Key.Key_Menu and len(self.shown.picked):
            self.menu_wanted.emit(self.viewport().mapToGlobal(QPoint(40, 40)))
        else:
            super().keyPressEvent(event)

    def _fold_by_key(self, *, away: bool) -> None:
        """Fold the class of the current cell away, and go to the next; or open all."""
        current = self.shown.current
        spot = None if current is None else self.spot_of(current)
        if not away:
            for name in list(self.folded):
                self.fold(name)
        elif spot is not None:
            self.fold(list(self.groups)[spot.section])
            order = self._order()
            if len(order):
                self._reach(int(order[0]))

    def _step(self, right: int, down: int, *, extend: bool) -> None:
        current = self.shown.current
        spot = None if current is None else self.spot_of(current)
        if spot is None:
            order = self._order()
            if len(order):
                self._reach(int(order[0]))
            return
        there = self.layout_.step(spot, right, down)
        if there is None:
            return
        row = int(self._rows(there.section)[there.index])
        if not extend:
            self._reach(row)
            return
        if self._anchor is None:
            self._anchor = current
        assert self._anchor is not None
        self._pick_between(self._anchor, row)
        self.show_row(row)

    def _reach(self, row: int) -> None:
        self._hide_popup()
        self._anchor = row
        self.shown.pick((row,), row)
        self.show_row(row)
        self.gone_to.emit(row)

    def _pick_class(self) -> None:
        """Pick all of the class of the current cell, or all."""
        current = self.shown.current
        spot = None if current is None else self.spot_of(current)
        self.shown.pick(self._order() if spot is None else self._rows(spot.section), current)

    # -- a closer look

    def _show_hovered(self) -> None:
        row = self._hovered
        if row is None or row >= self.shown.total:
            return
        self.population.ask_evidence(row)
        self.show_evidence(row)

    def show_evidence(self, row: int) -> None:
        """Show a cell larger, with what decided it once that has come."""
        spot = self.spot_of(row)
        if row != self._hovered or spot is None or not self.isVisible():
            return
        evidence = self.population.evidence(row)
        picture = self.population.picture(row) if evidence is None else evidence
        x, y = self.layout_.corner(spot)
        corner = QPoint(x + _CELL[0], y - self.verticalScrollBar().value())
        why = "bright: what the model looked at" if evidence is not None else ""
        if evidence is None and self.population.tells_evidence:
            why = "finding what the model looked at…"
        self.popup.show_cell(picture, self._facts(row), why, self.viewport().mapToGlobal(corner))

    def _hide_popup(self) -> None:
        self._hovering.stop()
        self._hovered = None
        self.popup.hide()


class _Popup(QWidget):
    """A cell seen closer, beside its picture."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.ToolTip)
        self.setAttribute(Qt.WidgetAttribute.WA_ShowWithoutActivating)
        self._picture: QImage | None = None
        self.words, self.why = "", ""

    def show_cell(
        self, picture: npt.NDArray[np.uint8] | None, words: str, why: str, at: QPoint
    ) -> None:
        """Show a picture and some lines at a place of the screen."""
        from .session import EVIDENCE_SIZE

        self._picture = None if picture is None else _image(picture).copy()
        self.words, self.why = words, why
        metrics = self.fontMetrics()
        lines = [*words.split("\n"), *([why] if why else [])]
        wide = max(EVIDENCE_SIZE, *(metrics.horizontalAdvance(line) for line in lines))
        self.resize(wide + 16, EVIDENCE_SIZE + 16 + metrics.lineSpacing() * len(lines) + 4)
        screen = self.parentWidget().screen().availableGeometry()
        x = at.x() if at.x() + self.width() < screen.right() else at.x() - self.width() - _CELL[0]
        y = min(at.y(), screen.bottom() - self.height())
        self.move(max(x, screen.left()), max(y, screen.top()))
        self.show()
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the picture and the lines below it."""
        from .session import EVIDENCE_SIZE

        painter = QPainter(self)
        parent = self.parentWidget().palette()
        painter.fillRect(self.rect(), parent.window())
        painter.setPen(QPen(_CURRENT, 1))
        painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        if self._picture is not None:
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
            painter.drawImage(QRect(8, 8, EVIDENCE_SIZE, EVIDENCE_SIZE), self._picture)
        painter.setPen(parent.windowText().color())
        below = QRect(8, EVIDENCE_SIZE + 10, self.width() - 16, self.height())
        text = "\n".join(filter(None, (self.words, self.why)))
        painter.drawText(below, int(Qt.AlignmentFlag.AlignLeft), text)
        painter.end()


def mime_of(rows: Sequence[int]) -> QMimeData:
    """Return rows as what is dragged."""
    data = QMimeData()
    data.setData(MIME, ",".join(map(str, rows)).encode())
    return data


def rows_of(data: QMimeData) -> list[int]:
    """Return the rows that are dragged; none where it is something else."""
    if not data.hasFormat(MIME):
        return []
    return [int(row) for row in bytes(data.data(MIME)).decode().split(",") if row]


def _image(picture: npt.NDArray[np.uint8]) -> QImage:
    """Return a picture for Qt, on the same memory: it must not outlive the picture."""
    height, width, _ = picture.shape
    return QImage(picture.data, width, height, 3 * width, QImage.Format.Format_RGB888)
