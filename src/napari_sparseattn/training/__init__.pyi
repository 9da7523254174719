# Both the types and, through lazy_loader, the list of what is imported lazily.
from .data.annotated import annotated_cells, too_few, unannotated_cells
from .data.annotated_slides import annotated_slides
from .data.datasets import CropSet, read_class_folders
from .data.project import Project
from .loop.augment import Augmentation
from .loop.classifier import TrainingSettings, train_classifier
from .loop.fit import FitOptions
from .tune.fine_tune import fine_tune
from .tune.slides import too_few_slides, tune_slides

__all__ = [
    "Augmentation",
    "CropSet",
    "FitOptions",
    "Project",
    "TrainingSettings",
    "annotated_cells",
    "annotated_slides",
    "fine_tune",
    "read_class_folders",
    "too_few",
    "too_few_slides",
    "train_classifier",
    "tune_slides",
    "unannotated_cells",
]
