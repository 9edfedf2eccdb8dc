import runpy
from pathlib import Path

import pyarrow.parquet as pq
from smallfit import tiny

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "fit_on_a_sample.py"


def test_every_sample_is_judged_and_only_the_sample_was_trained_on(workspace: Path) -> None:
    runpy.run_path(str(SCRIPT))["fit_on_a_sample"](
        "shards", Path("trusted.csv"), fit_on=1, run=Path("run"), rest=Path("rest"), config=tiny()
    )
    fitted, others = (
        {path.stem: pq.read_table(path) for path in folder.glob("scores/*.parquet")}
        for folder in (Path("run"), Path("rest"))
    )
    assert fitted.keys() | others.keys() == {"00000", "00001"}
    assert len(fitted) == len(others) == 1
    assert any(table["fitted"].to_pylist().count(True) for table in fitted.values())
    assert not any(True in table["fitted"].to_pylist() for table in others.values())
    decided = [
        pq.read_metadata(path).num_rows
        for folder in ("run", "rest")
        for kind in ("manifest", "rejected")
        for path in Path(folder, "clean", kind).glob("*.parquet")
    ]
    assert sum(decided) == 240
