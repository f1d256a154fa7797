"""Settings of a training run: one YAML file, one typed model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.denoisers.lora import LoraSettings
from memsieve.filtering.denoisers.quantize import Bits
from memsieve.filtering.settings import LocalPath, PathText, Settings
from memsieve.train.tracker_kinds import TrackerName

__all__ = [
    "CheckpointConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PriorConfig",
    "RunConfig",
    "TrackingConfig",
    "TrainConfig",
    "ValidationConfig",
]


def _default(settings: Settings, name: str) -> object:
    return type(settings).model_fields[name].default


class ModelConfig(Settings):
    """Section ``model``: what is fine-tuned."""

    path: PathText
    """A diffusers pipeline folder, a hub id, or a checkpoint in one file (``FILE.safetensors``, ``FILE::CONFIGS``)."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    """Overrides the scheduler's own; flow models have one only."""
    lora: LoraSettings | None = None
    """Train an adapter instead of the weights; the model without it is the filter's reference."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the network under a LoRA, which is frozen; what is trained is float32."""
    text_encoder_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen text encoders: a T5-XXL takes 19 GB in float32, half of that in bfloat16. The VAE is float32."""
    quantize: Bits | None = None
    """Hold the linear layers of the network under a LoRA in fewer bits: ``nf4`` takes 4.5, ``int8`` 8, and they are
    multiplied in ``dtype``. Needs the extra ``bnb``."""
    text_encoder_quantize: Bits | None = None
    """As ``quantize``, of the frozen text encoders."""
    gradient_checkpointing: bool = False
    ema: bool = False
    """Keep an exponential moving average of what is trained; it is what is validated and exported."""
    ema_decay: float = Field(default=0.9999, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _frozen_in_half(self) -> ModelConfig:
        if self.dtype != "float32" and self.lora is None:
            raise ValueError(
                f"model.dtype: {self.dtype} is for the frozen network under model.lora; what is trained is float32: "
                "set model.lora, or train.mixed_precision"
            )
        if self.quantize is not None and self.lora is None:
            raise ValueError(
                f"model.quantize: {self.quantize} is for the frozen network under model.lora; weights in fewer bits "
                "cannot be trained: set model.lora, or leave model.quantize out"
            )
        return self


class OptimizerConfig(Settings):
    """Section ``optimizer``."""

    name: Literal["adamw", "adamw_8bit", "prodigy", "sgd"] = "adamw"
    """``adamw_8bit`` needs the extra ``bnb``, ``prodigy`` the extra ``prodigy``."""
    lr: float = Field(default=1e-5, gt=0.0)
    """``prodigy`` finds its own step size and multiplies it by this: 1.0 is usual."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=1e-2, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    """``constant_with_warmup`` is what ``constant`` with ``warmup_steps`` comes to."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises from 0, under every schedule."""

    @model_validator(mode="after")
    def _fits(self) -> OptimizerConfig:
        if self.name == "prodigy" and self.lr < 0.1:
            raise ValueError(
                f"optimizer.lr: {self.lr:g} multiplies the step size that prodigy finds, so that it would hardly move; "
                "set it to about 1.0"
            )
        for name in ("betas", "eps") if self.name == "sgd" else ():
            if getattr(self, name) != _default(self, name):
                raise ValueError(f"optimizer.{name} is Adam's, and optimizer.name: sgd has none; leave it out")
        return self

    @property
    def scheduler(self) -> str:
        """What diffusers calls the schedule: its ``constant`` takes no notice of a warm-up."""
        return "constant_with_warmup" if self.schedule == "constant" and self.warmup_steps else self.schedule


class TrainConfig(Settings):
    """Section ``train``: the loop."""

    seed: int = 0
    steps: int | None = Field(default=None, ge=1)
    """Windows to train: one optimizer step each, less those skipped. Or give ``epochs``."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the data; the last window of each is padded."""
    batch_size: int = Field(default=8, ge=1)
    """Samples per rank and forward."""
    accumulation: int = Field(default=1, ge=1)
    """Batches per optimizer step."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """None takes what the launcher says (``mixed_precision`` of its config), "no" without one."""
    snr_gamma: float | None = Field(default=None, gt=0.0)
    """Min-SNR loss weighting (Hang et al., ICCV 2023); 5.0 is usual."""
    timestep_weighting: Literal["uniform", "logit_normal"] = "uniform"
    """How flow models draw t: uniformly from the scheduler's (shifted) table, or by SD3's logit-normal density. Where
    t falls more often, it is also scored more often."""
    logit_mean: float = 0.0
    """``logit_normal``: mean of the normal variable."""
    logit_std: float = Field(default=1.0, gt=0.0)
    """``logit_normal``: its standard deviation."""
    noise_offset: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of noise that is one value per channel, so that brightness is learnt too; 0.05 to 0.1 is usual."""
    input_perturbation: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Further noise in the input that is not in the target (Ning et al., ICML 2023); 0.1 is usual."""
    caption_dropout: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of visits trained without their caption, so that the unconditional branch goes on being trained."""
    cache: LocalPath | None = None
    """Folder for encoded images and captions: each is encoded once, for this run and later ones with the same VAE and
    text encoders, which then wait in host memory. None encodes at every visit."""
    random_tokens: int = Field(default=0, ge=0)
    """Random token addition (Somepalli et al., NeurIPS 2023): tokens inserted at random places of each caption."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per rank; None leaves torch's choice."""
    timeout: float = Field(default=1800.0, gt=0.0)
    """Seconds that ranks wait for each other before the run ends; more than one validation and one export take."""

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: object) -> object:
        """YAML reads an unquoted ``no`` as false."""
        return "no" if value is False else value

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either train.steps or train.epochs")
        for name in ("logit_mean", "logit_std") if self.timestep_weighting == "uniform" else ():
            if getattr(self, name) != _default(self, name):
                raise ValueError(
                    f"train.{name}: {getattr(self, name):g} shapes train.timestep_weighting: logit_normal, and that is "
                    f"uniform; set it to logit_normal, or leave train.{name} out"
                )
        return self


class PriorConfig(Settings):
    """Section ``prior``: class pictures that the base draws, trained on beside the pairs (prior preservation)."""

    prompts: list[str] = []
    """Of the class, as "a photo of a dog" beside "a photo of sks dog"; in turn. None: no prior."""
    pictures: int = Field(default=100, ge=10)
    """Drawn before the first step, and kept in ``OUTPUT/prior``; a fifth is held out."""
    weight: float = Field(default=1.0, gt=0.0)
    """Of their mean loss beside that of the pairs; a window has as many of them as samples."""
    steps: int = Field(default=20, ge=1)
    """Of their drawings."""
    guidance_scale: float = Field(default=7.5, ge=0.0)
    """Of their drawings."""

    @field_validator("prompts")
    @classmethod
    def _not_empty(cls, prompts: list[str]) -> list[str]:
        if any(not prompt.strip() for prompt in prompts):
            raise ValueError("an empty prompt names no class; leave it out")
        return prompts


class ValidationConfig(Settings):
    """Section ``validation``."""

    every: int = Field(default=0, ge=0)
    """Steps between validations; 0 validates only at the end."""
    prompts: list[str] = []
    """Drawn at each validation with fixed seeds."""
    sampling_steps: int = Field(default=20, ge=1)
    guidance_scale: float = Field(default=7.5, ge=0.0)
    copy_groups: int = Field(default=0, ge=0, le=64)
    """Most suspected groups whose captions are drawn at each validation to see whether their image comes back."""
    copy_images: int = Field(default=2, ge=1, le=16)
    """Generations per suspected group."""
    copy_bank: int = Field(default=4096, ge=1)
    """Training groups that generations are compared with, the first of the data; 12 KB each."""
    held_out_draws: int = Field(default=4, ge=1)
    """(t, noise) draws per held-out pair, fixed over the run."""
    held_out_pairs: int = Field(default=64, ge=0)
    """Held-out pairs in the loss; 0 leaves it out."""


class CheckpointConfig(Settings):
    """Section ``checkpoint``."""

    every: int = Field(default=500, ge=0)
    """Steps between checkpoints; 0 saves only at the end, and when a run is interrupted or fails."""
    final: bool = True
    """Save the last step too: from there ``train.steps`` can be raised, and an export that failed is done again."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints to keep."""
    export: bool = True
    """Write the fine-tuned pipeline at the end."""
    best: bool | None = None
    """Write the model with the lowest held-out loss to ``best/``, as it comes; of runs that ask which pairs come back
    (``filter.rule: recall``), the last one before they do where that is earlier. None: in those runs."""


class TrackingConfig(Settings):
    """Section ``tracking``; ``metrics.jsonl`` is always written."""

    report_to: list[TrackerName] = []
    """Trackers besides; ``wandb: true``, as configs of 0.1 have it, is ``[wandb]``."""
    project: str = "memsieve"
    name: str | None = None
    """Of the run; the tracker's own choice, or the output folder's name, where left out."""
    log_every: int = Field(default=10, ge=1)
    histogram_every: int = Field(default=50, ge=1)
    """Steps between magnitude histograms per t-bin."""
    top_k: int = Field(default=20, ge=1, le=200)
    """Rows of the table of most suspected groups."""
    log_samples: bool = False
    """Send captions and pictures of suspected samples to the trackers."""

    @model_validator(mode="before")
    @classmethod
    def _in_todays_words(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("wandb"), bool):
            return given
        named = list(given.get("report_to") or [])
        if given["wandb"] and "wandb" not in named:
            named.append("wandb")
        return {**{name: value for name, value in given.items() if name != "wandb"}, "report_to": named}

    @field_validator("report_to")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        return list(dict.fromkeys(names))


class RunConfig(Settings):
    """A whole training config."""

    output: LocalPath
    """Run folder; the same command resumes what is there."""
    model: ModelConfig
    data: DataConfig
    filter: FilterConfig = FilterConfig()
    train: TrainConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    prior: PriorConfig = PriorConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
