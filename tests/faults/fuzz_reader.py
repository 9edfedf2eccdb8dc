"""Looks for bytes that the reader of shards cannot stand, led by what they make it execute.

    python tests/faults/fuzz_reader.py -max_total_time=120 FOUND tests/faults/corpus

The options are libFuzzer's. Inputs that reach new code go into the folder FOUND, and one that fails
into the file that the last lines name; mended, it is kept in `corpus`, which `test_corpus` replays.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["nccleaner.data", "tarfile"]):
    from anybytes import read_as_shards

import tarfile


def mutate(data: bytes, max_size: int, seed: int) -> bytes:  # the names are libFuzzer's
    """Changes anything, then makes the check sums of headers right: else most end the reading."""
    changed = bytearray(atheris.Mutate(data, max_size))
    at = 0
    while changed[:1] != b"P" and at + tarfile.BLOCKSIZE <= len(changed):
        block = changed[at : at + tarfile.BLOCKSIZE]
        if not any(block):
            break
        changed[at + 148 : at + 156] = b"%06o\0 " % tarfile.calc_chksums(block)[0]
        try:
            size = max(tarfile.nti(bytes(block[124:136])), 0)
        except tarfile.HeaderError:
            break
        at += tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE))
    return bytes(changed[:max_size])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        # Ends the process: what is in the folder goes with it.
        atheris.Setup(
            sys.argv, lambda data: read_as_shards(data, Path(folder)), custom_mutator=mutate
        )
        atheris.Fuzz()
