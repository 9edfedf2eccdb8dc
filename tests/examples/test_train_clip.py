import json
import re
import subprocess
import sys
from pathlib import Path

import open_clip
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_clip"
OPTIONS = "--model tiny-clip --device cpu --precision fp32 --epochs 1 --warmup 2 --lr 1e-3"


def test_open_clip_trains_on_the_export(workspace: Path) -> None:
    """In a process of its own: open_clip sets up logging for good."""
    command = [sys.executable, EXAMPLE / "train.py", "cleaned", *OPTIONS.split()]
    command += ["--batch-size", "16", "--name", "test"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    log = Path("logs/test/out.log").read_text()
    losses = [float(loss) for loss in re.findall(r"Contrastive_loss: ([\d.]+)", log)]
    seen = [int(samples) for samples in re.findall(r"\[ *\d+/(\d+) \(\d+%\)\]", log)]
    assert losses
    assert max(losses) < 10
    sizes = json.loads(Path("cleaned/sizes.json").read_text())
    assert sum(sizes.values()) <= seen[0] < sum(sizes.values()) + 16 * len(sizes)

    checkpoint = torch.load("logs/test/checkpoints/epoch_1.pt", weights_only=True)
    open_clip.add_model_config(EXAMPLE / "tiny-clip.json")
    open_clip.create_model("tiny-clip").load_state_dict(checkpoint["state_dict"])
