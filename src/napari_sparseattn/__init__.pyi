# Both the types and, through lazy_loader, the list of what is imported lazily.
from .bundle import Bundle, load_bundle
from .images.cells import Cells, find_cells
from .images.field import Field, open_image
from .inference.cells import classify_cells
from .inference.prediction import Prediction, Predictions

__all__ = [
    "Bundle",
    "Cells",
    "Field",
    "Prediction",
    "Predictions",
    "__version__",
    "classify_cells",
    "find_cells",
    "load_bundle",
    "open_image",
]

__version__: str
