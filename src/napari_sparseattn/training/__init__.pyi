# Both the types and, through lazy_loader, the list of what is imported lazily.
from .data.annotated import cut_cells, cut_unannotated_cells, too_few
from .data.annotated_slides import gather_slides
from .data.datasets import CropSet, read_class_folders
from .data.made_features import read_made_features
from .data.project import Project
from .data.slide_tables import read_slide_table
from .data.span_data import SlideExample
from .loop.augment import Augmentation
from .loop.classifier import TrainingSettings, train_classifier
from .loop.fit import FitOptions
from .loop.slides import SlideTraining, train_slides
from .loop.span import SpanOptions
from .runs.slide_orders import SlideOrder, prepare_slides, train_order
from .tune.cross_validation import cross_validate
from .tune.fine_tune import fine_tune
from .tune.learners import SlideLearner
from .tune.slides import too_few_slides, tune_slides

__all__ = [
    "Augmentation",
    "CropSet",
    "FitOptions",
    "Project",
    "SlideExample",
    "SlideLearner",
    "SlideOrder",
    "SlideTraining",
    "SpanOptions",
    "TrainingSettings",
    "cross_validate",
    "cut_cells",
    "cut_unannotated_cells",
    "fine_tune",
    "gather_slides",
    "prepare_slides",
    "read_class_folders",
    "read_made_features",
    "read_slide_table",
    "too_few",
    "too_few_slides",
    "train_classifier",
    "train_order",
    "train_slides",
    "tune_slides",
]
