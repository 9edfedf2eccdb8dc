"""A run directory: where everything is in it, and what its `run.json` says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from nccleaner.config import RunConfig
from nccleaner.errors import RunError
from nccleaner.files import read_parquet, write_json
from nccleaner.identity import is_file_name
from nccleaner.output.summary import SUMMARY_NAME
from nccleaner.records import Shard

_LAYOUT = 4
# What reading a file of another version, a damaged or a forged one may raise.
_UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError),
    ValidationError,
)
_PACKAGES = ("nccleaner", "torch", "torchvision", "numpy", "pyarrow", "faiss-cpu", "faiss-gpu")


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths in a run directory, or in the `--output` folder of another data set.

    Attributes:
        root: The directory.
    """

    root: Path

    @property
    def description(self) -> Path:
        """`run.json`."""
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`."""
        return self.root / "metrics.jsonl"

    @property
    def features(self) -> Path:
        """The feature cache."""
        return self.root / "features"

    @property
    def fine_tuned_features(self) -> Path:
        """The feature cache of the fine-tuned encoder."""
        return self.root / "features-fine-tuned"

    @property
    def training(self) -> Path:
        """The tables that training sees; only while it lasts."""
        return self.root / "training"

    @property
    def reconstruction(self) -> Path:
        """Images and captions beside their reconstructions; only where those are switched on."""
        return self.root / "reconstruction"

    @property
    def scorer(self) -> Path:
        """The snapshot that scores."""
        return self.root / "checkpoints" / "best.safetensors"

    @property
    def last(self) -> Path:
        """The networks after the last epoch."""
        return self.root / "checkpoints" / "last.safetensors"

    @property
    def state(self) -> Path:
        """All that training goes on from."""
        return self.root / "checkpoints" / "state.pt"

    @property
    def fine_tuned(self) -> Path:
        """The image backbones that were fine-tuned, and the main networks that read them."""
        return self.root / "checkpoints" / "fine_tuned.safetensors"

    @property
    def pool(self) -> Path:
        """Which pairs the networks were trained on, and how much they were believed."""
        return self.root / "checkpoints" / "pool.parquet"

    @property
    def sample(self) -> Path:
        """Labels of a random sample of the shards that the fit did not see, where there is one."""
        return self.root / "checkpoints" / "sample.parquet"

    @property
    def trusted(self) -> Path:
        """Which samples of the shards are trusted, and their labels."""
        return self.root / "checkpoints" / "trusted.parquet"

    @property
    def scores(self) -> Path:
        """One Parquet file a shard."""
        return self.root / "scores"

    @property
    def inputs(self) -> Path:
        """Which shards have scores here, `scores.json`."""
        return self.root / "scores.json"

    @property
    def embeddings(self) -> Path:
        """What the networks make of a small data set, for its indexes; safe to delete."""
        return self.root / "embeddings"

    @property
    def clean(self) -> Path:
        """What `purge` writes."""
        return self.root / "clean"

    @property
    def index(self) -> Path:
        """The FAISS indexes of the kept pairs."""
        return self.clean / "index"

    @property
    def summary(self) -> Path:
        """Of the purge; while it is there, everything beside it belongs to it."""
        return self.clean / SUMMARY_NAME

    @property
    def report(self) -> Path:
        """About the purge that the summary is of."""
        return self.clean / "report.html"

    @property
    def evaluation(self) -> Path:
        """The feature cache of pairs that `evaluate` looks at."""
        return self.root / "evaluation"


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What `run.json` says.

    Attributes:
        config: The resolved configuration.
        shards: The input of `fit`.
        trusted: The trusted file.
        image_encoder: Fingerprint of the image encoder.
        text_encoder: Fingerprint of the text encoder; None where captions come as tokens.
        device: Where the networks were trained.
        result: What `fit` found: counts, problems, quality, seconds.
    """

    config: RunConfig
    shards: tuple[Shard, ...]
    trusted: Path
    image_encoder: str
    text_encoder: str | None
    device: str
    result: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Writes `run.json`."""
        write_json(
            {
                "layout": _LAYOUT,
                "versions": package_versions(),
                "seed": self.config.seed,
                "device": self.device,
                "trusted": str(self.trusted),
                "encoders": {"image": self.image_encoder, "text": self.text_encoder},
                "config": self.config.model_dump(mode="json"),
                "result": dict(self.result),
                "shards": [asdict(shard) for shard in self.shards],
            },
            path,
        )

    @staticmethod
    def read(path: Path) -> RunDescription:
        """Reads `run.json`.

        Raises:
            RunError: There is none, or it is not one of this version.
        """
        if not path.exists():
            raise RunError(
                f"{path.parent} holds no finished fit.",
                "Run `nccleaner fit SHARDS --meta CSV` first, or name its folder with --run.",
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            _check_layout(path, data)
            return RunDescription(
                RunConfig.model_validate(data["config"]),
                _shards_in(data),
                Path(data["trusted"]),
                data["encoders"]["image"],
                data["encoders"]["text"],
                data["device"],
                data["result"],
            )
        except _UNREADABLE as error:
            raise RunError(
                f"{path} cannot be read: {error}", "Run `nccleaner fit` again."
            ) from error


def _check_layout(path: Path, data: Mapping[str, Any]) -> None:
    """Refuses a run of another version."""
    layout = data.get("layout", "none")
    if layout == _LAYOUT:
        return
    writer = data.get("versions", {}).get("nccleaner", "an unknown version")
    is_newer = isinstance(layout, int) and layout > _LAYOUT
    raise RunError(
        f"{path} has layout {layout}, expected {_LAYOUT}; nccleaner {writer} wrote it.",
        ("Use that version or a newer one, or run" if is_newer else "Run")
        + " `nccleaner fit` again with this version.",
    )


def _shards_in(data: Mapping[str, Any]) -> tuple[Shard, ...]:
    """Reads shards from JSON; a run directory may be a stranger's, and names become files."""
    shards = TypeAdapter(tuple[Shard, ...]).validate_python(data["shards"])
    for shard in shards:
        if not is_file_name(shard.name):
            raise ValueError(f"{shard.name!r} is no name of a shard")
    return shards


def read_checkpoint(path: Path) -> pa.Table:
    """Reads a table that `fit` left.

    Raises:
        RunError: It is missing or damaged.
    """
    try:
        return read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise RunError(
            f"{path} is missing or damaged: {error}", "Run `nccleaner fit` again."
        ) from error


def read_inputs(workspace: Workspace) -> tuple[Shard, ...]:
    """Returns the shards that were scored into a directory; none where nothing was.

    Raises:
        RunError: The list is damaged.
    """
    if not workspace.inputs.exists():
        return ()
    try:
        data = json.loads(workspace.inputs.read_text(encoding="utf-8"))
        return _shards_in(data)
    except _UNREADABLE as error:
        raise RunError(
            f"{workspace.inputs} cannot be read: {error}",
            "Remove it, and run `nccleaner score` again.",
        ) from error


def known_shards(
    workspace: Workspace, target: Workspace, description: RunDescription
) -> tuple[Shard, ...]:
    """Returns the shards of a target: those of the fit, unless others were scored apart.

    Args:
        workspace: The run directory.
        target: The same, or the `--output` folder.
        description: What `run.json` says.
    """
    scored = {shard.name: shard for shard in read_inputs(target)}
    if scored and target != workspace:
        return tuple(scored.values())
    of_fit = {shard.name: shard for shard in description.shards}
    return tuple((of_fit | scored).values())


def add_inputs(workspace: Workspace, shards: Sequence[Shard]) -> None:
    """Adds shards to those that are scored into a directory."""
    known = {shard.name: shard for shard in read_inputs(workspace)}
    known |= {shard.name: shard for shard in shards}
    write_json({"shards": [asdict(known[name]) for name in sorted(known)]}, workspace.inputs)


def package_versions() -> dict[str, str]:
    """Returns the versions of the packages that decide the result."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
