"""What can be chosen: frozen dataclasses; `config_file` reads them.

Every default but `adaptation.steps` is the paper's; where the paper is silent, the docstring says
who decided. Where the paper and its authors' code disagree, the code's variant is named in the
field's docstring, which is its help text. Nothing here imports torch, so that `--help` stays
instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic.dataclasses import dataclass

Precision = Literal["auto", "32-true", "bf16-mixed"]
"""Lightning Fabric's names, and "auto"; see `maskmend.devices.resolve_precision`."""

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)

_Ends = TypeVar("_Ends", tuple[float, float], tuple[int, int])


def _ordered(ends: _Ends) -> _Ends:
    if ends[0] > ends[1]:
        raise ValueError(f"the first end must not be above the second; got {list(ends)}")
    return ends


def _percentiles(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] < ends[1] <= 100:
        raise ValueError(f"must be two percentiles, 0 <= low < high <= 100; got {list(ends)}")
    return ends


def _steps(value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f'must be a number of steps, 0 or more, or "auto"; got {value!r}')
    return value


def _count_up(structures: Mapping[int, str]) -> None:
    if sorted(structures) != list(range(1, len(structures) + 1)):
        raise ValueError(f"structures must have labels 1, 2, ...; got {sorted(structures)}")


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Counts = Annotated[tuple[int, int], AfterValidator(_ordered)]
Percentiles = Annotated[tuple[float, float], AfterValidator(_percentiles)]

Steps = Annotated[int | Literal["auto"], BeforeValidator(_steps)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class StructuresConfig:
    """Which data, and which of their structures."""

    layout: Literal["auto", "acdc", "lvsc", "folder"] = "auto"
    """How the data folder is laid out; "auto" looks."""
    structures: dict[int, str] = Field(default_factory=lambda: {1: "RV", 2: "MYO", 3: "LV"})
    """Name of each label in the masks. Label 0 is the background; labels count up from 1."""

    @model_validator(mode="after")
    def _labels_count_up(self) -> StructuresConfig:
        _count_up(self.structures)
        return self

    @property
    def classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.structures) + 1


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataConfig(StructuresConfig):
    """Which patients, and which of their structures."""

    split: Literal["random", "semi_supervised_fold0", "scanner_1p5T_to_3T"] = "random"
    """Split of the patients: drawn with the seed, or one of the two published for ACDC."""
    annotated: Literal["split", "all"] = "split"
    """Training patients whose masks go with their images: the split's few, or all of them."""
    mask_patients: int | None = Field(default=None, gt=0)
    """The discriminator learns from the masks of so many training patients; by default of all."""
    fold: int = Field(default=0, ge=0)
    """Fold of the cross-validation, for the random split."""
    folds: int = Field(default=3, ge=1)
    """Number of folds (section 4: three)."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PreprocessConfig:
    """From a volume to the slices that the networks see (section 4, Data)."""

    spacing_mm: float = Field(default=1.51, gt=0, allow_inf_nan=False)
    """In-plane pixel size that slices are resampled to, in mm (1.51 for ACDC, 1.45 for LVSC)."""
    size: int = Field(default=224, gt=0, le=4096)
    """Height and width, in pixels, that slices are cropped or padded to."""
    clip_percentiles: Percentiles | None = None
    """Clip a volume's intensities to these percentiles first. The authors' code: [5, 95]."""
    slice_axis: Literal["auto", 0, 1, 2] = "auto"
    """Voxel axis that runs through the slices; "auto" takes the one with the largest spacing, and
    where voxels are as long as wide the one nearest to the body's own, from foot to head."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SegmentorConfig:
    """The UNet (section 3.2)."""

    width: int = Field(default=64, gt=0)
    """Channels of the first level; each level below has twice as many. 64 gives the 90 MB."""
    depth: int = Field(default=5, ge=2)
    """Number of levels; the image size must be a multiple of 2 ** (depth - 1)."""
    in_channels: int = Field(default=1, gt=0)
    """Channels of the image."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DiscriminatorConfig:
    """The mask discriminator (sections 3.1 and 3.2)."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Filters of each 4x4 convolution. The authors' code: [32, 128, 256, 512]."""
    strides: tuple[int, ...] = (2, 2, 1, 1, 1)
    """Stride of each convolution. The authors' code: [2, 2, 2, 1]."""
    spectral_norm: Literal["all", "inner", "none"] = "all"
    """Layers with a unit spectral norm; "inner" spares the first convolution and the dense head,
    as the authors' code does."""
    activation: Literal["tanh", "leaky_relu"] = "tanh"
    """After each convolution."""
    first_activation: Literal["tanh", "leaky_relu"] | None = None
    """After the first convolution, where it differs. The authors' code: leaky_relu."""
    bottleneck: int | None = Field(default=None, gt=0)
    """Channels of a 1x1 sigmoid convolution between the 4x4 ones. The authors' code: 13."""
    sees_image: bool = False
    """Judge image and mask together: a mask can be realistic, and of another heart. Real pairs are
    the annotated ones; masks of other images are fakes as well. Not in the paper."""

    @model_validator(mode="after")
    def _one_stride_a_width(self) -> DiscriminatorConfig:
        if not self.widths or len(self.widths) != len(self.strides):
            raise ValueError(
                f"strides must have one entry for each of the {len(self.widths)} widths;"
                f" got {len(self.strides)}"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AdaptorConfig:
    """The adaptor in front of the segmentor (section 3.3)."""

    widths: tuple[int, ...] = (16, 16)
    """Filters of each hidden 3x3 convolution; one more convolution leads back to the image."""
    joint: bool = False
    """Train it with the segmentor, as the authors' code does, rather than add it at inference."""
    scale_mean: float = Field(default=0.2, gt=0)
    """Start of the activation's scale s. The paper's 0 has no gradient, for T and s alike, so that
    such an adaptor never moves; 0.2 is the authors' code."""
    scale_std: float = Field(default=0.0, ge=0)
    """Spread of the scale's start. The authors' code: 0.05."""
    scale_per_channel: bool = False
    """One scale a channel, as in the authors' code, rather than one a layer."""
    final_activation: bool = False
    """Activation after the last convolution too, as in the authors' code. Karani et al., whose
    adaptor the paper takes, leave the last one linear, and only so can it start as the identity."""

    @model_validator(mode="after")
    def _starts_as_identity(self) -> AdaptorConfig:
        if self.final_activation and not self.joint:
            raise ValueError(
                "final_activation needs joint: true, for exp(-T^2/s^2) is never 0 and an adaptor"
                " that is added at inference must start as the identity"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AnchorConfig:
    """Fake anchors: corrupted real masks, fakes until the end of training (section 3.1)."""

    kind: Literal["paper", "local", "authors", "none"] = "paper"
    """"paper": swapped patches and label noise; "local": the same near the structures, with blobs
    and holes, as real mistakes look; "authors": the recipe of their code; "none": no anchors."""
    patch: float = Field(default=0.1, gt=0, le=0.5)
    """Side of a swapped patch as a share of the image's side (footnote 4)."""
    swaps: Counts = (1, 8)
    """Fewest and most swaps a mask. Not in the paper."""
    noise: Range = (0.002, 0.05)
    """Smallest and largest share of pixels that get a random label. Not in the paper."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AugmentationConfig:
    """Random roto-translation, scaling and noise of what a network sees."""

    rotation_deg: Range = (0.0, 0.0)
    """Smallest and largest rotation, in degrees."""
    translation: float = Field(default=0.0, ge=0, lt=1)
    """Largest shift along either axis, as a share of the image's side."""
    scale: float = Field(default=0.0, ge=0, lt=1)
    """Largest change of size, as a share."""
    noise_std: float = Field(default=0.0, ge=0)
    """Standard deviation of added Gaussian noise (instance noise)."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DegradationConfig:
    """Simulated changes of scanner (see `maskmend.degrade`). Not in the paper."""

    probability: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that are degraded."""
    appearance: float = Field(default=0.0, ge=0, le=1)
    """Of those, the share that look as another sequence may (see `maskmend.appearance`)."""
    contrast: float = Field(default=0.5, ge=0, le=1)
    """Of those, the share with another contrast: a gamma, half as often a random tone curve."""
    gamma: Range = (0.4, 2.7)
    """Smallest and largest gamma."""
    inversion: float = Field(default=0.05, ge=0, le=1)
    """Share with bright and dark exchanged, as another sequence may."""
    shading: float = Field(default=0.4, ge=0, le=1)
    """Share with a bias field."""
    bias: Range = (0.0, 0.4)
    """Smallest and largest coefficient of its cubic polynomial's logarithm."""
    blur: Range = (0.004, 0.016)
    """Standard deviation of the Gaussian blur of a quarter of them, as a share of the side."""
    sharpening: Range = (2.0, 15.0)
    """Strength of the sharpening of 15% of them."""
    noise: float = Field(default=0.5, ge=0, le=1)
    """Share with Rician noise."""
    noise_std: float = Field(default=0.2, ge=0)
    """Largest standard deviation of the noise, where the image goes from 0 to 1."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AdversarialConfig:
    """The least-squares adversarial losses (equation 2)."""

    enabled: bool = True
    """False trains the segmentor alone, on annotated images: the UNet of table 1."""
    real: float = 1.0
    """Label of real masks."""
    fake: float = -1.0
    """Label of predicted and corrupted masks. The authors' code: 0."""
    target: float = 0.0
    """What the segmentor wants its masks to score. The authors' code: 1."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the segmentor's adversarial loss."""
    balance: bool = False
    """Scale that loss to the supervised one: weight x stop_gradient(supervised / adversarial). The
    authors' code: true, with weight 0.1."""
    gradient_penalty: float = Field(default=0.0, ge=0)
    """Weight of (|gradient| - 1)^2 between real and corrupted masks. The authors' code: 10."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainingConfig:
    """Optimisation (section 3.2)."""

    iterations: int = Field(default=50_000, gt=0)
    """Most alternations of the supervised and the adversarial steps. Not in the paper."""
    batch: int = Field(default=12, gt=1)
    """Slices a batch. The authors' code: 8."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Adam's step size for segmentor and joint adaptor."""
    discriminator_learning_rate: float = Field(default=1e-4, gt=0)
    """Adam's step size for the discriminator."""
    class_weights: Literal["complement", "inverse"] = "complement"
    """w_i = 1 - n_i / n_tot (equation 1), or n_tot / n_i as in the authors' code."""
    dice: float = Field(default=0.0, ge=0)
    """Weight of soft Dice in the supervised loss, beside the cross-entropy. Not in the paper."""
    validate_every: int = Field(default=250, gt=0)
    """Iterations between two looks at the validation patients, each with a checkpoint."""
    stop: Literal["loss", "dice"] = "loss"
    """Validation figure that training ends and the best weights are chosen by: the supervised loss
    (the paper) or Dice (the authors' code)."""
    patience: int = Field(default=20, gt=0)
    """End after this many looks without a better figure. Not in the paper."""
    cosine: bool = False
    """Let both step sizes fall to zero along a half cosine. Not in the paper."""
    precision: Precision = "32-true"
    """Arithmetic of the networks, and of all that a run teaches later; weights and optimizer stay
    in 32 bits. "auto" takes bfloat16 where the hardware has units for it. Not float16, in which
    gradients of pixels' means vanish."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AdaptationConfig:
    """Adversarial test-time training (section 3.3)."""

    method: Literal["paper", "guarded"] = "paper"
    """"paper": `steps` updates of the adaptor, as section 3.3 says; "guarded": several views
    and corrections of the image, two kinds of batch norm statistics and noisy students are tried,
    the Dice of every mask is predicted, and the plain mask stays unless another promises enough;
    of the fields below all up to student_iterations count then, and precision."""
    draws: int = Field(default=3, ge=0)
    """Degraded copies of each validation image, and as many with artefacts, that "guarded" learns
    to predict Dice from."""
    students: int = Field(default=2, ge=0)
    """Noisy students, copies of the segmentor that are shown degraded images when the run is
    calibrated, and that "guarded" asks for other opinions."""
    student_iterations: int = Field(default=2400, gt=0)
    """Updates of each student."""
    prior: Literal["discriminator", "entropy", "denoiser"] = "discriminator"
    """What judges the predicted masks. "denoiser" tunes on each volume apart, as Karani et al. do
    (see `maskmend.rivals.follow`), and counts steps and precision alone of the other fields."""
    steps: Steps = "auto"
    """Updates of the adaptor an instance; 0 is plain inference. "auto" takes none where the plain
    masks are as realistic as the validation patients' were, and ends once they are or the loss no
    longer falls, after 50, the paper's number (section 4.1), at the latest."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Adam's step size. Not in the paper; 1e-4 is its step size in training."""
    instance: Literal["patient", "slice"] = "patient"
    """Tune one adaptor on all slices of a patient's volumes together, or one a slice."""
    keep: Literal["last", "best"] = "last"
    """Return the masks of the last weights or, as the authors' code, of those with the lowest
    loss."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Take each step on an augmented copy of the images, as the authors' code does."""
    continual: bool = False
    """Learn from a stream: start at what was tuned on the patient before, or anew where that has
    the lower loss. Masks then depend on the order of the images."""
    batch_norm: Literal["eval", "train"] = "eval"
    """Batch norm with the training's statistics, or with the instance's own, as the authors' code
    does. The caller's statistics never move."""
    precision: Precision = "auto"
    """Arithmetic of the frozen networks; the adaptor's weights stay in 32 bits. "auto" takes
    bfloat16 where the hardware has units for it."""

    @property
    def most_steps(self) -> int:
        """Number of steps after which adaptation ends."""
        return 50 if self.steps == "auto" else self.steps


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Config:
    """Everything that a run depends on, but for the data themselves."""

    seed: int = Field(default=0, ge=0)
    """Seed of the split, the weights and every random draw of training."""
    data: DataConfig = DataConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    segmentor: SegmentorConfig = SegmentorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    adaptor: AdaptorConfig = AdaptorConfig()
    anchors: AnchorConfig = AnchorConfig()
    image_augmentation: AugmentationConfig = AugmentationConfig()
    """Of the images the segmentor is trained on. The paper names none."""
    degradation: DegradationConfig = DegradationConfig()
    """Of the same images."""
    mask_augmentation: AugmentationConfig = AugmentationConfig(
        rotation_deg=(0.0, 90.0), translation=0.1, noise_std=0.1
    )
    """Of the masks the discriminator sees (section 3.1, challenge 2). The authors' code: rotation
    -90 to 90, noise 0.2."""
    adversarial: AdversarialConfig = AdversarialConfig()
    training: TrainingConfig = TrainingConfig()
    adaptation: AdaptationConfig = AdaptationConfig()

    @model_validator(mode="after")
    def _guard_has_a_discriminator(self) -> Config:
        if self.adaptation.method == "guarded" and not self.adversarial.enabled:
            raise ValueError(
                "adaptation.method guarded needs a discriminator; set adversarial.enabled to true"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Config:
        factor = 2 ** (self.segmentor.depth - 1)
        if self.preprocess.size % factor:
            raise ValueError(
                f"preprocess.size {self.preprocess.size} must be a multiple of {factor}, for a"
                f" segmentor.depth of {self.segmentor.depth}"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PriorDataConfig(StructuresConfig):
    """Which masks a prior is fitted to."""

    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the patients that the prior is not fitted to, by which it is known how realistic is
    enough. Those of a run's own validation, where the prior is fitted to a run."""
    held_out_patients: tuple[str, ...] = ()
    """Hold out these instead: patients that the model was not trained on. A guard is fitted to
    them, and to no others."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FittingConfig:
    """Optimisation of a prior on its own. Nothing of this is in the paper."""

    iterations: int = Field(default=1000, gt=0)
    """Updates of the discriminator."""
    batch: int = Field(default=12, gt=1)
    """Slices of each kind a batch: real, corrupted and, with a segmentor, predicted."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Adam's step size; it falls to zero along a half cosine."""
    predictions: bool = True
    """Take a segmentor's predictions for fakes, where there is one. False leaves fake anchors
    alone; of a run only its grid and its patients count then."""
    look_every: int = Field(default=100, gt=0)
    """Iterations between two looks at what is held out, each with a checkpoint."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PriorConfig:
    """Everything that a prior which is fitted after the fact depends on, but for the data."""

    seed: int = Field(default=0, ge=0)
    """Seed of the patients held out, the weights and every random draw."""
    data: PriorDataConfig = PriorDataConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    """How masks are prepared; those that are to be judged must lie on the same grid."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    anchors: AnchorConfig = AnchorConfig(kind="local")
    degradation: DegradationConfig = DegradationConfig(probability=0.5)
    """Of the images whose predictions are fakes: they fail as on images of another scanner."""
    mask_augmentation: AugmentationConfig = AugmentationConfig(
        rotation_deg=(0.0, 90.0), translation=0.1, noise_std=0.1
    )
    """Of the masks the discriminator sees, as in training."""
    fitting: FittingConfig = FittingConfig()
    segmentor: SegmentorConfig = SegmentorConfig(width=32)
    """Of the noisy students that learn from scratch beside copies of the model; see `Ward`."""
    image_augmentation: AugmentationConfig = AugmentationConfig(
        rotation_deg=(-30.0, 30.0), translation=0.1, scale=0.15
    )
    """Of the images that students are taught with."""
    adaptation: AdaptationConfig = AdaptationConfig()
    """How to adapt with this prior. Of the guard its fields tell how it is fitted."""

    @model_validator(mode="after")
    def _judges_masks_alone(self) -> PriorConfig:
        if self.discriminator.sees_image:
            raise ValueError(
                "discriminator.sees_image must be false: a prior is fitted to masks, some of which"
                " have no image"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelConfig:
    """What the file of a model that was not trained here leaves unsaid; a YAML file beside it."""

    structures: dict[int, str] | None = None
    """Name of each label but the background's 0. By default the prior's."""
    channels: int = Field(default=1, gt=0)
    """Channels of an image: the files NAME_0000.nii.gz, NAME_0001.nii.gz, ..."""
    activation: Literal["softmax", "sigmoid"] = "softmax"
    """Of its output: a class each, the background first, or a structure each."""
    axes: Literal["LP", "LA", "RP", "RA", "PL", "AL", "PR", "AR"] = "LP"
    """Where height and width of a slice run to, among left, right, posterior, anterior (of axial
    slices; others are named as if they were)."""
    preprocess: PreprocessConfig | None = None
    """How images are sliced. By default as masks are for the prior."""
    intensities: list[dict[str, dict[str, Any]]] | None = None
    """MONAI's transforms of a volume's intensities, such as `NormalizeIntensity: {nonzero: true}`,
    in a list. By default its median and interquartile range standardise it."""

    @model_validator(mode="after")
    def _labels_count_up(self) -> ModelConfig:
        _count_up(self.structures or {})
        return self
