import gc
import re

import pytest

import nccleaner


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_pipeline_delivers_what_was_kept(workspace, type_example, capsys):
    type_example(
        "filter_webdataset.py", "nccleaner-run", "shards/{00000..00001}.tar", "--batch-size", "50"
    )
    kept = len(nccleaner.KeepSet("nccleaner-run"))
    told = capsys.readouterr().out
    assert 0 < kept < 240
    assert sum(int(count) for count in re.findall(r"^(\d+) pairs, the", told, re.MULTILINE)) == kept
    assert told.endswith(f"{kept} pairs delivered; the purge kept {kept}.\n")
    gc.collect()  # webdataset leaves closing its files to the collector
