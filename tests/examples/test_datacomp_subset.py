import gc
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from builders import jpeg, tar_bytes
from purged import purge

from nccleaner.identity import derive_uid
from nccleaner.output.uids import UID_DTYPE, write_uids

KEYS = [f"{number:04d}" for number in range(30)]
UIDS = [derive_uid("a pool", key) for key in KEYS]


def to_array(uids: list[str]) -> np.ndarray:
    return np.sort(np.array([divmod(int(uid, 16), 2**64) for uid in uids], UID_DTYPE))


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tar with uids in its JSON, one sample without; of the others every third was kept."""
    monkeypatch.chdir(tmp_path)
    fields = [{"uid": uid} for uid in UIDS] + [{}]
    members = [
        member
        for key, document in zip([*KEYS, "last"], fields, strict=True)
        for member in ((f"{key}.jpg", jpeg()), (f"{key}.json", json.dumps(document).encode()))
    ]
    Path("00000000.tar").write_bytes(tar_bytes(members))
    clean = Path("run", "clean")
    keep = [number % 3 == 0 for number in range(len(KEYS))]
    purge(clean, pa.table({"uid": UIDS}), keys=KEYS, keep=keep, uids=list(UIDS))
    write_uids(clean)
    return tmp_path


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("other", [None, 2])
def test_the_subset_takes_what_all_filters_keep(pool, type_example, capsys, other):
    options = []
    if other:
        np.save("other.npy", to_array(UIDS[::other]))
        options = ["--and", "other.npy"]
    type_example("datacomp_subset.py", "run", "00000000.tar", "subset.npy", *options)
    wanted = UIDS[:: 3 * (other or 1)]
    subset = np.load("subset.npy")
    assert subset.dtype == UID_DTYPE
    assert np.array_equal(subset, to_array(wanted))
    count = len(wanted)
    assert capsys.readouterr().out == f"{count} uids; the resharder takes {count} of 31 samples.\n"
    gc.collect()  # webdataset leaves closing its files to the collector
