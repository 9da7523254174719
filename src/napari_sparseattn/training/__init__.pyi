# Both the types and, through lazy_loader, the list of what is imported lazily.
from .data.annotated import cut_cells, cut_unannotated_cells, too_few
from .data.annotated_slides import gather_slides
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
    "cut_cells",
    "cut_unannotated_cells",
    "fine_tune",
    "gather_slides",
    "read_class_folders",
    "too_few",
    "too_few_slides",
    "train_classifier",
    "tune_slides",
]
