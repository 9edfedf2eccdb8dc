from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from PIL import Image

import nccleaner


@pytest.fixture
def closed_figures():
    yield
    plt.close("all")


def test_it_draws_its_figures(workspace: Path, closed_figures, type_example, capsys):
    type_example("notebook.py")
    figures = ["cut-offs.png", "dropped.png", "nearest.png", "scores.png"]
    assert sorted(path.name for path in Path().glob("*.png")) == figures
    for name in figures:
        with Image.open(name) as image:
            assert len(image.convert("L").getcolors()) > 20, f"{name} is blank"
    told = capsys.readouterr().out
    assert f"Kept {len(nccleaner.KeepSet('nccleaner-run'))} of 240 samples." in told
