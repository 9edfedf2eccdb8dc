"""The configuration of a run: every default, once, with its bounds and what it means.

Read by the pipeline and the command line only; modules below take plain arguments. A run keeps its
resolved configuration in `run.json`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nccleaner.errors import UsageError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """What a sample may cost, and how many are read at once."""

    workers: int = Field(-1, ge=-1, description="Decoding processes; -1: one a core, 0: none.")
    max_image_pixels: int = Field(
        89_478_485, ge=1, description="Width x height above which an image is rejected unread."
    )
    max_caption_chars: int = Field(
        10_000, ge=1, description="Characters above which a text is no caption."
    )
    decode_timeout_s: float = Field(30.0, gt=0, description="Seconds for one image.")
    max_member_bytes: int = Field(
        256 * 2**20, ge=1, description="Bytes above which a member of a shard is not read."
    )
    on_bad_shard: Literal["use", "fail"] = Field(
        "use",
        description="use: take the good samples of a damaged shard, report the loss; fail: stop.",
    )


class EncodersConfig(_Section):
    """The frozen backbones, and where they run."""

    image: str = Field(
        "efficientnet-lite0",
        description="efficientnet-lite0, resnet50, resnet152, or open_clip:MODEL/WEIGHTS; WEIGHTS "
        "is a tag that open_clip knows or a local file.",
    )
    image_weights: Path | None = Field(
        None,
        description="A local file of weights (.pth or .safetensors) for the image encoder; one of "
        "open_clip names its own.",
    )
    text: str = Field(
        "minilm",
        description="minilm, a folder with a sentence encoder, open_clip:MODEL/WEIGHTS, or gru "
        "(trained from the captions).",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    batch_size: int = Field(64, ge=1, description="Images or captions in one forward pass.")


class TrustedConfig(_Section):
    """How the trusted pairs are divided; meta, probe and held_out add up to 1."""

    sample: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share set aside to judge cut-offs, before the others are divided; for trusted "
        "files with the labels, 0 and 1, of a random sample of the shards.",
    )
    meta: float = Field(0.3, gt=0, lt=1, description="Share that guides training.")
    probe: float = Field(0.5, gt=0, lt=1, description="Share planted in the pool to calibrate it.")
    held_out: float = Field(
        0.2, gt=0, lt=1, description="Share that chooses the snapshot and judges other pairs."
    )

    @model_validator(mode="after")
    def _adds_up(self) -> TrustedConfig:
        total = self.meta + self.probe + self.held_out
        if abs(total - 1) > 1e-6:
            raise ValueError(f"meta, probe and held_out must add up to 1, not {total:g}")
        return self


class ModelConfig(_Section):
    """Widths of the networks (METHOD 1 and 2)."""

    joint_width: int = Field(512, ge=8, description="D, width of each network's semantic part.")
    similarity_width: int = Field(64, ge=4, description="S, width of a similarity vector.")
    meta_hidden_width: int = Field(64, ge=1, description="Hidden width of the meta network.")
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Of the frozen features, while training; None: 0.6 for pools under 20,000 "
        "pairs, whose mismatched captions are soon known by heart, and 0.4 for larger ones.",
    )
    temperature: float = Field(0.05, gt=0, description="Start of InfoNCE's temperature.")
    vocabulary: int = Field(
        10_000, ge=300, description="Token ids, for text: gru and caption reconstruction."
    )
    max_tokens: int = Field(
        64, ge=4, description="Tokens of a caption, for text: gru and caption reconstruction."
    )
    embedding_width: int = Field(300, ge=8, description="Width of a token's embedding.")
    gru_layers: int = Field(1, ge=1, description="Layers of the GRU (4 in the paper).")
    generator_width: int = Field(
        64, ge=1, description="Channels of the generator's last layer, for image reconstruction."
    )

    def dropout_for(self, pairs: int) -> float:
        """Returns the dropout for a pool of `pairs`."""
        if self.dropout is not None:
            return self.dropout
        return 0.6 if pairs < 20_000 else 0.4


class TrainConfig(_Section):
    """How the networks are trained (METHOD 2 and 3)."""

    max_pairs: int = Field(1_000_000, ge=100, description="Pairs in the pool; a seeded sample.")
    networks: int = Field(
        2, ge=1, le=2, description="2 networks train each other; 1 trains on what itself believes."
    )
    epochs: int = Field(
        8, ge=1, description="Passes over the pool, warm-up included; more where min_steps asks."
    )
    min_steps: int = Field(
        550, ge=0, description="Steps at least: a small pool is passed over more often."
    )
    warm_up: float = Field(
        0.25, gt=0, lt=1, description="Share of the epochs before the first purification."
    )
    batch_size: int = Field(128, ge=8, description="Pairs in a step, at least.")
    trusted_batch_size: int = Field(64, ge=4, description="Trusted matched pairs in a step.")
    schedule: Literal["cosine", "step"] = Field(
        "cosine",
        description="cosine: the main rate falls along a cosine, the meta rate stays; step: both "
        "fall once to a tenth, and during warm-up the meta networks learn at the main rate.",
    )
    fall_at: float = Field(
        0.6, gt=0, le=1, description="Share of all steps after which rates fall, with step."
    )
    learning_rate: float = Field(1e-3, gt=0, description="Peak rate of the main networks.")
    meta_learning_rate: float = Field(1e-3, gt=0, description="Rate of the meta networks.")
    weight_decay: float = Field(0.0, ge=0, description="Of the main networks.")
    warm_up_steps: int = Field(100, ge=0, description="Steps over which the rate rises.")
    averaging: float = Field(
        0.98, ge=0, lt=1, description="Decay of the averaged weights that score; 0: the last ones."
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto",
        description="Of the losses; bf16: autocast; auto: bf16 on CUDA, float32 on a CPU with "
        "products that round their factors where the hardware is faster so; float32: throughout.",
    )
    log_every: int = Field(50, ge=1, description="Steps between two lines of metrics.jsonl.")
    hard_mismatched: bool = Field(
        True, description="Half of the meta networks' mismatched pairs are hard ones."
    )
    learn_trusted: bool = Field(
        True,
        description="The canonical view, and with purify.belief=frozen the main networks, learn "
        "from the trusted pairs of the meta part too.",
    )
    meta_gradient: Literal["direct", "finite_difference", "exact", "none"] = Field(
        "direct",
        description="How the meta gradient is taken; none: the meta networks are not trained.",
    )
    info_nce: float = Field(1.0, ge=0, description="Weight of InfoNCE on the cosines.")
    hinge: float = Field(0.0, ge=0, description="Weight of the adaptive hinge; 0: not computed.")
    modality: float = Field(0.1, ge=0, description="Weight of the modality loss.")
    specific: float = Field(1.0, ge=0, description="Weight of the specific loss.")
    image_reconstruction: float = Field(
        0.0, ge=0, description="Weight of rebuilding images from their parts; 0: not done."
    )
    caption_reconstruction: float = Field(
        0.0, ge=0, description="Weight of rebuilding captions from their parts; 0: not done."
    )
    generator_learning_rate: float = Field(
        2e-4, gt=0, description="Rate of the networks that rebuild images."
    )
    margin: float = Field(0.2, ge=0, description="Margin of the hinge.")
    adaptive_margin: bool = Field(
        True, description="After warm-up, smaller margins for pairs that score low."
    )
    modality_margin: float = Field(0.0, ge=0, description="Margin of the modality loss.")

    fine_tune_epochs: int = Field(
        0, ge=0, description="Passes that train copies of the image backbone too; 0: it is frozen."
    )
    fine_tune_learning_rate: float = Field(
        2e-5, gt=0, description="Rate of backbones and main networks in these passes."
    )

    def length(self, pairs: int) -> tuple[int, int, int]:
        """Returns steps an epoch, epochs, and epochs of warm-up for a pool of `pairs`."""
        steps = max(pairs // self.batch_size, 1)
        epochs = max(self.epochs, -(-self.min_steps // steps))
        return steps, epochs, max(1, round(self.warm_up * epochs))

    @model_validator(mode="after")
    def _learns(self) -> TrainConfig:
        if not self.info_nce and not self.hinge:
            raise ValueError("info_nce and hinge cannot both be 0: nothing would be learned")
        return self


class PurifyConfig(_Section):
    """How scores become decisions (METHOD 3 and 4)."""

    belief: Literal["frozen", "trusted", "full"] = Field(
        "frozen",
        description="What decides how much a pair is believed while training; frozen: the frozen "
        "evidence, then the networks; trusted: the trusted pairs' scores; full: nothing, every "
        "pair is believed. Without frozen captions (text: gru) frozen means trusted.",
    )
    prior: Literal["anchor", "init"] = Field(
        "anchor", description="anchor: trusted pairs stay in the EM; init: they only start it."
    )
    max_iterations: int = Field(10, ge=1, description="Of EM.")
    tolerance: float = Field(
        1e-3, gt=0, description="EM stops when noise rate and means move less."
    )
    references: int = Field(
        2048, ge=64, description="Pairs of the pool among which neighbours are sought."
    )
    neighbours: int = Field(
        30, ge=1, description="About how many neighbours of an image or a caption count."
    )
    shrinkage: float | None = Field(
        None,
        gt=0,
        description="Of the covariances in the canonical map, in variances of a mean direction; "
        "None: 8 (features / believed pairs) ** 0.5.",
    )
    exchanged: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="Share of the pool whose captions are exchanged, to have mismatched pairs that "
        "judges can learn from; at least 10 pairs and at most 1,000. They are scored as pairs "
        "outside the pool.",
    )
    near_misses: bool = Field(
        True,
        description="Whether the pool decides on clean probabilities where it shows that its "
        "mismatched pairs are not like exchanged ones; false: Bayes' rule does throughout.",
    )


class RunConfig(_Section):
    """Everything that decides a run's result, beside its inputs."""

    seed: int = Field(0, ge=0, description="Same inputs, seed and device give the same scores.")
    data: DataConfig = Field(default_factory=DataConfig)
    encoders: EncodersConfig = Field(default_factory=EncodersConfig)
    trusted: TrustedConfig = Field(default_factory=TrustedConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    purify: PurifyConfig = Field(default_factory=PurifyConfig)

    @classmethod
    def preset(cls, name: str, **settings: object) -> RunConfig:
        """Returns the configuration of a preset.

        Args:
            name: One of `preset_names()`.
            **settings: What goes over it, for example `seed=1, train={"epochs": 20}`.

        Raises:
            UsageError: There is no such preset.
            ValidationError: pydantic's, for settings that do not exist or are out of bounds.
        """
        return cls.model_validate(overlay(read_preset(name), settings))


def preset_names() -> list[str]:
    """Returns the names of the presets that come with nccleaner."""
    found = files("nccleaner").joinpath("presets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in found if file.name.endswith(".toml"))


def read_preset(name: str) -> dict[str, Any]:
    """Reads what a preset sets: only what differs from the defaults, in sections.

    Raises:
        UsageError: There is no such preset.
    """
    if name not in preset_names():
        raise UsageError(f"There is no preset {name!r}.", f"Choose of {', '.join(preset_names())}.")
    return tomllib.loads(
        files("nccleaner").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")
    )


def overlay(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings in sections with others over them; sections are merged."""
    both = {**values, **over}
    for name in values.keys() & over.keys():
        if isinstance(values[name], Mapping) and isinstance(over[name], Mapping):
            both[name] = {**values[name], **over[name]}
    return both
