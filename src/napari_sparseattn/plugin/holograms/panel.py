"""What previews and longer work take from the panel of holograms that they are parts of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ...images.holograms.recording import Recording
    from ...images.holograms.settings import HologramSettings
    from ..core.status import Status
    from ..session import Session
    from .layers import OpdLayers
    from .source import Source

__all__ = ["Panel"]


class Panel(Protocol):
    """The panel, see `session.Holograms`."""

    main: Session
    settings: HologramSettings
    status: Status
    results: OpdLayers
    source: Source

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, or None after it is gone."""
        ...

    @property
    def working(self) -> bool:
        """Whether something longer than a preview is under way."""
        ...

    def advice(self) -> str:
        """Return what to do next."""
        ...

    def recording(self) -> Recording | None:
        """Return the source as a recording."""
        ...

    def change_settings(self, **changes: Any) -> None:
        """Change some settings."""
        ...

    def full_settings(self) -> HologramSettings:
        """Return the settings with what the last preview found."""
        ...

    def given_settings(self) -> HologramSettings:
        """Return what the user has set."""
        ...
