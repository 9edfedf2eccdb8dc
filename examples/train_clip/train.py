"""Trains a CLIP on the cleaned tars, with open_clip's own trainer.

    nccleaner export cleaned/
    python examples/train_clip/train.py cleaned/ --model ViT-B-32 --batch-size 256 --warmup 500
    python examples/train_clip/train.py cleaned/ --model tiny-clip --device cpu --precision fp32

All that the script does is to name the tars of an export; every option is one of open_clip's. The
command it prints does the same without the script, and under `torchrun` on several GPUs. The model
`tiny-clip`, which open_clip learns of from a file beside this script, trains on any machine, to see
that all is in place.

open_clip gives whole tars to its processes: there must be as many as `--workers` on all GPUs
together. `nccleaner export cleaned/ --samples-per-shard 1000` makes more of them.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import open_clip
from open_clip_train.main import main as train

TINY_CLIP = Path(__file__).with_name("tiny-clip.json")
WORKERS = 4  # open_clip's default


def main() -> None:
    """Makes open_clip's arguments, and trains."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    _, cleaned, *options = sys.argv
    arguments = [*data_arguments(Path(cleaned)), *options]
    print("python -m open_clip_train.main", shlex.join(arguments))
    open_clip.add_model_config(TINY_CLIP)
    train(arguments)


def data_arguments(cleaned: Path) -> list[str]:
    """Tells open_clip where the tars are; it finds in `sizes.json` how many pairs they hold."""
    names = sorted(json.loads((cleaned / "sizes.json").read_text()))
    first, last = Path(names[0]).stem, Path(names[-1]).stem
    pattern = f"{{{first}..{last}}}.tar"
    workers = min(WORKERS, len(names))
    return [
        *("--dataset-type", "webdataset"),
        *("--train-data", str(cleaned / pattern)),
        *("--workers", str(workers)),
    ]


if __name__ == "__main__":
    main()
