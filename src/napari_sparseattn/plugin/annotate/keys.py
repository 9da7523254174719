"""Keys on layers: bound while a dock is open, and taken away with it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["LayerKeys"]


class LayerKeys:
    """Binds keys on single layers; keys that the user has bound there are left alone.

    Parameters
    ----------
    actions : mapping of str to callable
        What each key does, e.g. of ``"Control-Z"``; called without arguments.
    """

    def __init__(self, actions: Mapping[str, Callable[[], object]]) -> None:
        self._actions = {key: _of_layer(act) for key, act in actions.items()}
        self._bound: weakref.WeakKeyDictionary[Layer, list[str]] = weakref.WeakKeyDictionary()

    def bind(self, layer: Layer) -> None:
        """Bind all keys on a layer."""
        if layer in self._bound:
            return
        mine = []
        for key, act in self._actions.items():
            try:
                layer.bind_key(key, act)
            except ValueError:  # the user has bound it
                continue
            mine.append(key)
        self._bound[layer] = mine

    def release(self, layer: Layer) -> None:
        """Take the keys of a layer away."""
        for key in self._bound.pop(layer, []):
            layer.bind_key(key, None)

    def release_all(self) -> None:
        """Take all keys away."""
        for layer in list(self._bound):
            self.release(layer)

    @property
    def layers(self) -> list[Layer]:
        """The layers that have the keys."""
        return list(self._bound)


def _of_layer(act: Callable[[], object]) -> Callable[[Any], None]:
    def pressed(layer: Any) -> None:
        act()

    return pressed
