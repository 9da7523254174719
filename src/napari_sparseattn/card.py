"""The card of a trained model: what it is, was trained on, and can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .images.normalise import Normalisation
from .kinds import KINDS, ModelKind
from .targets import TARGETS, TargetKind, survival_curve

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CLASS_COLOURS",
    "EXPLANATIONS",
    "MADE_ELSEWHERE",
    "Card",
    "CropSpec",
    "EncoderSpec",
    "Explanation",
    "ExplanationSpec",
    "HaltingSpec",
    "NoveltySpec",
    "TargetSpec",
    "TestVector",
    "Training",
    "default_colours",
    "plain_name",
    "readable_name",
]

#: The newest `Card.format_version` that is understood; 2 has known states beside the weights,
#: 3 may say when a TNet stops by itself, which explanation was measured best, what alone the
#: model knows, or how fast its confidence falls with novelty, 4 has known patches of slides, or a
#: risk or a number as its target in place of classes, 5 a confidence that falls from another
#: novelty than 1.
FORMAT_VERSION = 5

#: Distinguishable with the common kinds of colour blindness: Okabe & Ito's
#: eight with black lightened and yellow darkened to show on any image,
#: then Tol's muted set.
CLASS_COLOURS = (
    "#0072B2", "#E69F00", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#B3A100", "#7F7F7F",
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255",
)  # fmt: skip

#: How the patches of a slide may be said to speak for its class; see `inference.explanations`.
Explanation = Literal["attention", "perturbation", "gradient", "integrated"]
EXPLANATIONS: tuple[Explanation, ...] = ("integrated", "gradient", "perturbation", "attention")

#: What the hash of an encoder begins with whose features other programs made.
MADE_ELSEWHERE = "elsewhere-"
#: From where on it is said that pixels were enlarged; training changes the scale by up to 1.5.
_ENLARGED = 1.6

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def default_colours(n: int) -> tuple[str, ...]:
    """Return n colours, repeating after `CLASS_COLOURS` runs out."""
    return tuple(CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(n))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CropSpec(_Strict):
    """How a cell is cut.

    Parameters
    ----------
    size : int
        Side of the model's input in pixels.
    field_of_view_um : float
        Side of the crop in µm.
    cell_diameters : float
        Side of the crop in cell diameters, for images of unknown scale.
    """

    size: Annotated[int, Field(ge=4, le=4096)]
    field_of_view_um: Positive
    cell_diameters: Positive = 2.5

    @property
    def pixel_size(self) -> float:
        """Side of one model pixel in µm."""
        return self.field_of_view_um / self.size

    def about_detail(self, enlarged: float, what: str) -> tuple[str, ...]:
        """Return a note where an image has fewer pixels than the model was trained with.

        Parameters
        ----------
        enlarged : float
            Model pixels per pixel of the image, along a side.
        what : str
            What was enlarged: ``"crops"`` or ``"patches"``.
        """
        if enlarged <= _ENLARGED:
            return ()
        note = (
            f"{what} were enlarged {enlarged:.2g} times, as the image has fewer pixels than those "
            f"trained on ({self.pixel_size:.2g} µm each): detail may be missing that classes are "
            "told by"
        )
        return (note,)


class EncoderSpec(_Strict):
    """What turned patches into the features a SPAN was trained on.

    Parameters
    ----------
    name : str
        As `inference.encoders.load_encoder` takes it.
    hash : str
        sha256 of its code's version and weights; features of another encoder
        mean nothing to the model.
    width : int
        Features per patch.
    licence : str
        Of the encoder's weights.
    """

    name: Annotated[str, Field(min_length=1, max_length=1000)]
    hash: Annotated[str, Field(min_length=8, max_length=128)]
    width: Annotated[int, Field(ge=1, le=2**16)]
    licence: str = ""

    @property
    def elsewhere(self) -> bool:
        """Whether other programs made the features, so that none can be made here."""
        return self.hash.startswith(MADE_ELSEWHERE)


#: What the class names of models begin with that were trained on simulated images.
_SIMULATED = "simulated_"


def plain_name(name: str) -> str:
    """Return a class name as models and annotations have it: without that it is simulated."""
    return name.removeprefix(_SIMULATED)


def readable_name(name: str) -> str:
    """Return a class name as it is shown to people: with spaces; files keep it as it is."""
    return name.replace("_", " ")


class Training(_Strict):
    """Where the weights come from.

    Parameters
    ----------
    data, citation, licence : str
        The data set, its reference, and the licence it is under.
    split : str
        How training, validation and test images were told apart.
    recipe : str
        The script that trained the model.
    n_train, n_validation, n_test : int
        Images in each part.
    epochs : int
        Passes over the training images.
    simulated : bool
        Whether the training images are simulated.
    history : list of dict
        One entry per epoch: losses, accuracies, k.
    """

    data: str
    citation: str = ""
    licence: str = ""
    split: str = ""
    recipe: str = ""
    n_train: int = 0
    n_validation: int = 0
    n_test: int = 0
    epochs: int = 0
    simulated: bool = False
    history: list[dict[str, float | int | None]] = []


#: Things that are said without one.
_ARTICLES = {name: name for name in ("background", "debris")}


class NoveltySpec(_Strict):
    """What is flagged as unlike anything the model was trained on; see `known.KnownStates`.

    Parameters
    ----------
    statistic : str
        How it is measured.
    false_alarms : float
        Share of held-out images for which the threshold was set.
    n, n_validation : int
        Training images whose states are usual, and held-out ones that set the threshold.
    kept, checked : int
        States that are kept for fine-tuning, and how many of them were held
        out: they tell what a fine-tuned model forgot.
    flagged_test : float or None
        Share that is flagged of test images, which took no part; None where there were none.
    others : tuple of str
        What is common beside the classes, in the singular, whose states were measured too.
    sides : tuple of int or None
        Smallest and largest longer side, in pixels, of the fields or slides
        that were measured; None where all were of the size the card says.
    softening : float
        Power of the novelty that the temperature grows with: how much less a
        class of unlike images is to be trusted.
    softening_from : float
        The novelty beyond which it grows.
    """

    statistic: str = "distance to the nearest class mean (Mahalanobis, shared covariance)"
    false_alarms: Annotated[float, Field(gt=0, lt=1)]
    n: int
    n_validation: int
    kept: int
    checked: int = 0
    flagged_test: float | None = None
    others: tuple[str, ...] = ()
    sides: tuple[int, int] | None = None
    softening: Annotated[float, Field(ge=0, le=10)] = 0.0
    softening_from: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def others_text(self) -> str:
        """Name what is common beside the classes, e.g. "a red cell or background"."""
        return " or ".join(_ARTICLES.get(name, f"a {name}") for name in self.others)


class HaltingSpec(_Strict):
    """When a TNet stops by itself, and what that was worth on images that chose the threshold.

    Parameters
    ----------
    threshold : float
        Calibrated probability of the most probable class that is sure enough.
    n : int
        Validation images that it was chosen on.
    accuracy, accuracy_all : float
        When stopping, and when looking at all crops.
    auc, auc_all : float or None
        The same of the area under the ROC curve; None where it cannot be told.
    saved : float
        Mean share, 0 to 1, of the crops, and so of the pixels, that were not looked at.
    known_halted : bool
        Whether the known states are those of a model that stops.
    """

    threshold: Annotated[float, Field(gt=0, le=1)]
    n: int = 0
    accuracy: float | None = None
    accuracy_all: float | None = None
    auc: float | None = None
    auc_all: float | None = None
    saved: float | None = None
    known_halted: bool = False


class ExplanationSpec(_Strict):
    """Which explanation of a SPAN was measured best, by patch flipping.

    Parameters
    ----------
    best : str
        The method with the highest mean gain.
    n : int
        Slides, or bags of tiles, that it was measured on.
    gains : dict of str to (float, float, float)
        By method the mean symmetric gain and its 95 % interval over slides;
        ``"random"`` among them.
    data : str
        What these slides were.
    """

    best: Explanation
    n: int = 0
    gains: dict[str, tuple[float, float, float]] = {}
    data: str = ""


class TargetSpec(_Strict):
    """What a SPAN-MIL gives in place of classes, and what was learned of it from training slides.

    Parameters
    ----------
    kind : str
        A row of `targets.TARGETS`.
    outcome : str
        The event, e.g. ``"recurrence"``, or what the number is of.
    unit : str
        Of the time, or of the number.
    times : tuple of float
        Of hazards: where the intervals end; what is beyond was not learned.
    mean, sd : float
        Of numbers: those of the training slides; the network gives multiples.
    reference : tuple of float
        Quantiles of the score of the training slides at even steps from the
        least to the largest: what a score is compared with.
    """

    kind: Literal["number", "hazards", "cox"]
    outcome: Annotated[str, Field(max_length=100)] = ""
    unit: Annotated[str, Field(max_length=30)] = ""
    times: tuple[Positive, ...] = ()
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    sd: Positive = 1.0
    reference: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()

    @model_validator(mode="after")
    def _is_ordered(self) -> TargetSpec:
        if any(b <= a for a, b in zip(self.times, self.times[1:], strict=False)):
            raise ValueError("the ends of intervals must rise")
        if list(self.reference) != sorted(self.reference):
            raise ValueError("the quantiles of the training slides' scores must rise")
        return self

    @property
    def row(self) -> TargetKind:
        """What there is for targets of this kind."""
        return TARGETS[self.kind]

    @property
    def n_outputs(self) -> int:
        """How many numbers the network gives."""
        return len(self.times) if self.row.by_intervals else 1

    @property
    def answer_name(self) -> str:
        """What the one answer is called, as the model's only class name."""
        if not self.row.survival:
            return self.outcome or "number"
        return f"risk of {self.outcome}" if self.outcome else "risk"

    def score(self, outputs: Tensor) -> Tensor:
        """Turn the network's numbers (..., C) into the score (...): a risk, or the number."""
        return self.row.score(outputs) * self.sd + self.mean

    def survival(self, outputs: Tensor) -> tuple[float, ...]:
        """Chances of no event by each of `times`, of the numbers (C,); empty where not learned."""
        return tuple(survival_curve(outputs.double()).tolist()) if self.times else ()

    def rank(self, score: float) -> float | None:
        """Share, 0 to 1, of the training slides with a lower score; None if not kept."""
        if len(self.reference) < 2:
            return None
        return float(np.interp(score, self.reference, np.linspace(0, 1, len(self.reference))))

    def describe(self) -> str:
        """Say in a sentence what the model gives."""
        unit = f" {self.unit}" if self.unit else ""
        if not self.row.survival:
            return f"Gives a number: {self.answer_name}{f', in{unit}' if unit else ''}"
        if not self.times:
            return f"Gives a {self.answer_name}, learned by Cox's partial likelihood"
        return (
            f"Gives a {self.answer_name}, and the chance of no event by "
            f"{', '.join(f'{time:.3g}' for time in self.times)}{unit}"
        )


class TestVector(_Strict):
    """Logits that the loaded model must give on `bundle.test_input`.

    Parameters
    ----------
    logits : list of float
        One per class; of a SPAN-UNet one per patch.
    tolerance : float
        Largest absolute difference.
    """

    __test__ = False  # not a pytest class, for all its name

    logits: list[float]
    tolerance: Positive = 0.02


class Card(_Strict):
    """Everything about a model but its tensors."""

    format_version: Literal[1, 2, 3, 4, 5] = 1
    kind: str
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w][\w .+-]*$")]
    description: str = ""
    weights_licence: str = "BSD-3-Clause"
    class_names: Annotated[tuple[str, ...], Field(min_length=1, max_length=10_000)]
    class_colours: tuple[str, ...] = ()
    channels: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    modality: Literal["brightfield", "phase", "opd", "fluorescence", "hologram", "unknown"]
    unit: str = ""
    crop: CropSpec
    encoder: EncoderSpec | None = None
    normalisation: Normalisation
    architecture: dict[str, Any]
    temperature: Positive = 1.0
    training: Training
    metrics: dict[str, Any] = {}
    novelty: NoveltySpec | None = None
    halting: HaltingSpec | None = None
    explanation: ExplanationSpec | None = None
    #: What a SPAN-MIL gives in place of classes; its one class name is that of the answer.
    target: TargetSpec | None = None
    #: What alone it knows: a sentence that stands beside each of its answers.
    limits: str = ""
    test_vector: TestVector | None = None
    tensors_sha256: str = ""

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"there is no kind of model '{kind}'; there are {', '.join(KINDS)}")
        return kind

    @field_validator("class_names")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names) or any(not name.strip() for name in names):
            raise ValueError("class names must be distinct and not empty")
        return names

    @model_validator(mode="after")
    def _agrees(self) -> Card:
        if self.class_colours and len(self.class_colours) != len(self.class_names):
            raise ValueError("class_colours needs one colour per class")
        vector = self.test_vector
        if vector and not self.segments and len(vector.logits) != self.n_outputs:
            raise ValueError("the test vector needs one logit per class")
        if self.takes_slides != (self.encoder is not None):
            raise ValueError("a SPAN, and no other model, names the encoder of its features")
        if self.halting is not None and self.model_kind.setting != "locations":
            raise ValueError("a TNet, and no other model, stops by itself")
        if self.explanation is not None and not self.takes_slides:
            raise ValueError("a SPAN, and no other model, names its best explanation")
        if self.target is not None:
            if self.segments or not self.takes_slides:
                raise ValueError("a SPAN of slides, and no other model, gives a risk or a number")
            if self.class_names != (self.target.answer_name,) or not self.target.n_outputs:
                raise ValueError("a risk or a number is the one class name, and hazards need times")
        if self.segments and len(self.class_names) != 2:
            raise ValueError("a SPAN-UNet tells two classes apart")
        return self

    @property
    def model_kind(self) -> ModelKind:
        """What there is for models of this kind."""
        return KINDS[self.kind]

    @property
    def takes_slides(self) -> bool:
        """Whether the model classifies the patches of a slide together (a SPAN)."""
        return "slides" in self.model_kind.takes

    @property
    def n_outputs(self) -> int:
        """How many numbers the network gives of a whole: one per class, or what a target needs."""
        return len(self.class_names) if self.target is None else self.target.n_outputs

    @property
    def channels_text(self) -> str:
        """Its channels in words, e.g. ``"3 channels (red, green, blue)"``."""
        n = len(self.channels)
        return f"{n} channel{'s' * (n != 1)} ({', '.join(self.channels)})"

    @property
    def n_checked(self) -> int:
        """Cells of its own training that tell what a fine-tuned model forgot."""
        return 0 if self.novelty is None else self.novelty.checked

    @property
    def segments(self) -> bool:
        """Whether the model gives a probability per patch (a SPAN-UNet)."""
        return self.model_kind.segments

    @property
    def shown_names(self) -> tuple[str, ...]:
        """The class names that results carry, wherever those are shown or written.

        Of a model that was trained on simulated images each begins with
        ``"simulated_"``: what it says of a patient's slide is no finding.
        """
        if not self.training.simulated:
            return self.class_names
        return tuple(f"{_SIMULATED}{plain_name(name)}" for name in self.class_names)

    @property
    def colours(self) -> tuple[str, ...]:
        """One ``#rrggbb`` per class."""
        return self.class_colours or default_colours(len(self.class_names))

    def summary(self) -> str:
        """Return the card as a few lines of text."""
        training = self.training
        lines = [
            f"{self.name}: {self.description}".rstrip(": "),
            f"{len(self.class_names)} classes: {', '.join(self.class_names)}"
            if self.target is None
            else f"{self.target.describe()}.",
            self._describe_reading(),
            f"Trained on {'SIMULATED data: ' if training.simulated else ''}{training.data}",
        ]
        if training.licence:
            lines.append(f"Data licence: {training.licence}")
        if training.split:
            lines.append(f"Split: {training.split}")
        if "accuracy" in self.metrics:
            lines.append(
                f"On {self._tested_on()}: accuracy {100 * self.metrics['accuracy']:.1f} %, "
                f"macro F1 {100 * self.metrics.get('macro_f1', float('nan')):.1f} %"
            )
        if self.target is not None and "sentence" in self.metrics:
            lines.append(f"Held out: {self.metrics['sentence']}")
        if self.metrics.get("dice") is not None:
            lines[-1] += f", Dice {self.metrics['dice']:.3f}"
        lines.append(f"Unlike anything it knows: {self._describe_novelty()}")
        if self.halting is not None:
            lines.append(self._describe_halting(self.halting))
        if training.citation:
            lines.append(f"Cite: {training.citation}")
        return "\n".join(lines)

    def _describe_novelty(self) -> str:
        """Say how often it would be a false alarm."""
        spec = self.novelty
        if spec is None:
            return "not measured, this file has no states of what it was trained on."
        found = "" if spec.flagged_test is None else f" ({100 * spec.flagged_test:.1f} % of test)"
        named = f", also as more like {spec.others_text}" if spec.others else ""
        softened = " Its confidence is lowered by how unlike it is." if spec.softening else ""
        return (
            f"flagged beyond what {100 * (1 - spec.false_alarms):.3g} % of "
            f"{spec.n_validation} held-out images reach{found}{named}.{softened}"
        )

    @staticmethod
    def _describe_halting(spec: HaltingSpec) -> str:
        """Say when the model stops by itself, and what that saves."""
        said = f"Stops looking by itself at a probability of {100 * spec.threshold:.3g} %"
        if spec.saved is None or spec.accuracy is None or spec.accuracy_all is None:
            return f"{said}."
        return (
            f"{said}: {100 * spec.saved:.3g} % fewer crops on {spec.n} validation images, of "
            f"which {100 * spec.accuracy:.1f} % were right ({100 * spec.accuracy_all:.1f} % by "
            "all crops)."
        )

    def _tested_on(self) -> str:
        """Say on what the figures were measured."""
        n = self.metrics.get("n", self.training.n_test)
        if self.segments:
            return f"{n} patches of {self.training.n_test} held-out slides"
        usual = "slides" if self.takes_slides else "images"
        return f"{n} held-out {self.metrics.get('unit', usual)}"

    def _describe_reading(self) -> str:
        """Say in one sentence what the model looks at."""
        crop, kind = self.crop, self.model_kind
        seen, scale = kind.describe(self.architecture, crop.size), f"{crop.pixel_size:g} µm"
        if self.encoder is not None:
            return f"{seen} at {scale} per pixel, level by level; encoder: {self.encoder.name}."
        if "fields" not in kind.takes:
            return f"{seen} of a {crop.field_of_view_um:g} µm crop at {scale} per pixel."
        if self.normalisation.kind == "fixed":
            return f"{seen}; of a slide as well, from its overview to {scale}."
        return f"{seen}, of a {crop.field_of_view_um:g} µm crop at {scale} per pixel."

    def accuracy_at(self, locations: tuple[int, ...]) -> tuple[float, int] | None:
        """Return how often a TNet was right with so many locations, and on how many images.

        None where its recipe has not measured this setting.
        """
        for row in self.metrics.get("by_locations", ()):
            if isinstance(row, dict) and tuple(row.get("locations", ())) == locations:
                return float(row["accuracy"]), int(row["n"])
        return None
