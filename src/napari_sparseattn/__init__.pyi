# Both the types and, through lazy_loader, the list of what is imported lazily.
from . import simulate, training
from .batch.plan import plan_batch
from .batch.run import run_batch
from .bundle import Bundle, load_bundle, save_bundle
from .card import CropSpec, EncoderSpec, TargetSpec
from .export.bioimage import export_bioimage
from .export.formats import write_results
from .export.hub_push import push_bundle
from .export.onnx_model import export_onnx
from .features.files import read_features
from .images.fields.cells import Cells, find_cells
from .images.fields.crops import cut_crops
from .images.fields.field import Field
from .images.holograms.files import open_hologram
from .images.holograms.holography import reconstruct
from .images.holograms.measure import measure_opd
from .images.holograms.recording import Recording
from .images.holograms.settings import HologramSettings
from .images.normalise import Normalisation
from .images.opening import open_image
from .images.slides.opening import open_slide
from .images.slides.overview import make_overview
from .images.slides.pyramid import Pyramid
from .inference.cell_map import CellMap, map_cells
from .inference.cells import classify_cells, classify_crops
from .inference.compare import Comparison, compare_answers, compare_cells
from .inference.explanations import explain_slide
from .inference.faithfulness import (
    FaithfulnessSettings,
    faithfulness_of_crops,
    measure_faithfulness,
    prepare_crop,
)
from .inference.fields import FieldPrediction, classify_field
from .inference.holograms import iter_recording
from .inference.prediction import Estimate, Prediction, Predictions
from .inference.slides import SlidePrediction, classify_slide
from .inference.what_if import what_if_cell, what_if_crop, what_if_field, what_if_slide
from .process.options import ProcessOptions
from .process.process import process_file, process_image
from .process.result import Result
from .training.data.project import Project
from .training.tune.evaluate_table import evaluate_table
from .training.tune.fine_tune import fine_tune

__all__ = [
    "Bundle",
    "CellMap",
    "Cells",
    "Comparison",
    "CropSpec",
    "EncoderSpec",
    "Estimate",
    "FaithfulnessSettings",
    "Field",
    "FieldPrediction",
    "HologramSettings",
    "Normalisation",
    "Prediction",
    "Predictions",
    "ProcessOptions",
    "Project",
    "Pyramid",
    "Recording",
    "Result",
    "SlidePrediction",
    "TargetSpec",
    "__version__",
    "classify_cells",
    "classify_crops",
    "classify_field",
    "classify_slide",
    "compare_answers",
    "compare_cells",
    "cut_crops",
    "evaluate_table",
    "explain_slide",
    "export_bioimage",
    "export_onnx",
    "faithfulness_of_crops",
    "find_cells",
    "fine_tune",
    "iter_recording",
    "load_bundle",
    "make_overview",
    "map_cells",
    "measure_faithfulness",
    "measure_opd",
    "open_hologram",
    "open_image",
    "open_slide",
    "plan_batch",
    "prepare_crop",
    "process_file",
    "process_image",
    "push_bundle",
    "read_features",
    "reconstruct",
    "run_batch",
    "save_bundle",
    "simulate",
    "training",
    "what_if_cell",
    "what_if_crop",
    "what_if_field",
    "what_if_slide",
    "write_results",
]

__version__: str
