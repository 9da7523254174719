"""See what a network looked at: sparse attention for cells and slides.

The public names are listed in the stub beside this file and imported when
first used, so that ``import napari_sparseattn`` pays for neither torch nor
napari.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("napari-sparseattn")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
