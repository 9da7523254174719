# Both the types and, through lazy_loader, the list of what is imported lazily.
from .batch.plan import plan_batch
from .batch.run import run_batch
from .bundle import Bundle, load_bundle, save_bundle
from .images.fields.cells import Cells, find_cells
from .images.fields.field import Field
from .images.holograms.files import open_hologram
from .images.holograms.holography import estimate_settings, iter_phase, reconstruct
from .images.holograms.measure import measure_opd
from .images.holograms.recording import Recording
from .images.holograms.settings import HologramSettings
from .images.opening import open_image
from .images.slides.opening import open_slide
from .images.slides.pyramid import Pyramid
from .inference.cells import classify_cells
from .inference.compare import Comparison, compare_cells, compare_fields
from .inference.faithfulness import (
    faithfulness_of_cell,
    faithfulness_of_field,
    faithfulness_of_set,
    faithfulness_of_slide,
)
from .inference.fields import FieldPrediction, classify_field
from .inference.holograms import iter_recording
from .inference.prediction import Prediction, Predictions
from .inference.slides import SlidePrediction, classify_slide
from .process.options import ProcessOptions
from .process.process import process_file, process_image
from .process.result import Result
from .training.tune.fine_tune import fine_tune

__all__ = [
    "Bundle",
    "Cells",
    "Comparison",
    "Field",
    "FieldPrediction",
    "HologramSettings",
    "Prediction",
    "Predictions",
    "ProcessOptions",
    "Pyramid",
    "Recording",
    "Result",
    "SlidePrediction",
    "__version__",
    "classify_cells",
    "classify_field",
    "classify_slide",
    "compare_cells",
    "compare_fields",
    "estimate_settings",
    "faithfulness_of_cell",
    "faithfulness_of_field",
    "faithfulness_of_set",
    "faithfulness_of_slide",
    "find_cells",
    "fine_tune",
    "iter_phase",
    "iter_recording",
    "load_bundle",
    "measure_opd",
    "open_hologram",
    "open_image",
    "open_slide",
    "plan_batch",
    "process_file",
    "process_image",
    "reconstruct",
    "run_batch",
    "save_bundle",
]

__version__: str
