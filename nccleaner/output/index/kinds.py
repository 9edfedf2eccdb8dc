"""Which kind of FAISS index, and with what parameters: counts and memory in, a plan out.

The rules are those of FAISS's guidelines and autofaiss: exact search while it is fast, graphs while
they fit in memory, then inverted lists, at last compressed vectors. Loads no FAISS.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Literal, get_args

from nccleaner.errors import UsageError

Kind = Literal["flat", "hnsw", "ivf-flat", "ivf-pq"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Inverted lists need not be in memory, neither to be filled nor to be searched.
KINDS_WITH_LISTS: tuple[Kind, ...] = ("ivf-flat", "ivf-pq")

# What building an index may hold in memory. HNSW takes minutes for each GB: more is worth it where
# one index answers many searches, not where each cut-off that is tried builds another.
MEMORY_GB = 0.25

_FLAT_BELOW = 10_000
_UNCOMPRESSED_BELOW = 1_000_000
# Links of a vector in the graph; FAISS keeps twice as many on its lowest level, 4 bytes each.
_LINKS = 32
# Vectors that a list needs to be learned well: what FAISS warns below.
_TRAINING_A_LIST = 39
# A code of 8 bits names one of 256 vectors, learned from the sample.
_CODEWORDS = 256
TRAINING_A_CODEWORD = 64
_MAX_CODE_BYTES = 64
_FLOAT_BYTES = 4
# What may be held in memory holds the sample and, as much again, what training makes of it.
_COPIES = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """How an index is built.

    Attributes:
        kind: Its kind.
        factory: The same for FAISS's `index_factory`.
        sample: Vectors to train on; 0 where nothing is trained.
        memory_bytes: What building may hold in memory, where the kind allows.
    """

    kind: Kind
    factory: str
    sample: int
    memory_bytes: int

    @property
    def has_lists(self) -> bool:
        """Whether it consists of inverted lists."""
        return self.kind in KINDS_WITH_LISTS


def choose_kind(count: int, dim: int, *, memory_bytes: int) -> Kind:
    """Chooses a kind by size and memory.

    `flat` below 10,000 vectors, `hnsw` where the index fits in memory, `ivf-flat` below 1,000,000,
    then `ivf-pq`.

    Args:
        count: Vectors.
        dim: Numbers in each.
        memory_bytes: What building may hold in memory.
    """
    if count < _FLAT_BELOW:
        return "flat"
    if count * (_FLOAT_BYTES * dim + 2 * _LINKS * 4) <= memory_bytes:
        return "hnsw"
    return "ivf-flat" if count < _UNCOMPRESSED_BELOW else "ivf-pq"


def plan_index(kind: Kind, *, count: int, dim: int, memory_bytes: int) -> Plan:
    """Fixes the parameters of a kind.

    4 * sqrt(count) lists, fewer where the sample that fits in memory is too small for as many;
    codes of 64 bytes, fewer for vectors of less than 256 numbers.

    Args:
        kind: The kind.
        count: Vectors.
        dim: Numbers in each.
        memory_bytes: What building may hold in memory.

    Raises:
        UsageError: Too few vectors to train such an index.
    """
    if kind == "flat":
        return Plan(kind, "Flat", 0, memory_bytes)
    if kind == "hnsw":
        return Plan(kind, f"HNSW{_LINKS},Flat", 0, memory_bytes)
    least = 1 if kind == "ivf-flat" else _CODEWORDS
    if count < least:
        raise UsageError(
            f"An index of kind {kind} is trained on {least} pairs at least, and {count} are kept.",
            "Use --kind flat, which is exact, or --kind auto.",
        )
    # However little memory there is, a few thousand vectors are needed.
    affordable = min(count, max(memory_bytes // (_COPIES * _FLOAT_BYTES * dim), _FLAT_BELOW))
    lists = max(1, min(4 * isqrt(count), affordable // _TRAINING_A_LIST))
    if kind == "ivf-flat":
        sample = min(affordable, TRAINING_A_CODEWORD * lists)
        return Plan(kind, f"IVF{lists},Flat", sample, memory_bytes)
    sample = min(affordable, TRAINING_A_CODEWORD * max(lists, _CODEWORDS))
    code_bytes = min(_MAX_CODE_BYTES, 1 << max(dim // 4, 1).bit_length() - 1)
    width = min(dim, 4 * code_bytes)
    # np: without polysemous codes, which take minutes to train and are for other uses.
    factory = f"OPQ{code_bytes}_{width},IVF{lists},PQ{code_bytes}np"
    return Plan(kind, factory, sample, memory_bytes)
