"""nccleaner: learns which image-caption pairs are mismatched, and purges them.

    import nccleaner

    run = nccleaner.fit("shards/", meta="trusted.csv", run="my-run")
    result = nccleaner.purge("my-run", threshold=0.3)
    keep = nccleaner.KeepSet("my-run")  # `(shard, key) in keep`

Names load what they need when they are first used: importing the package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nccleaner.config import RunConfig
    from nccleaner.errors import NccleanerError
    from nccleaner.output.keepset import KeepSet
    from nccleaner.pipeline.corrupt import corrupt
    from nccleaner.pipeline.download import download
    from nccleaner.pipeline.export import export
    from nccleaner.pipeline.fit import fit
    from nccleaner.pipeline.index import index
    from nccleaner.pipeline.purge import purge
    from nccleaner.pipeline.report import report
    from nccleaner.pipeline.reporter import Reporter
    from nccleaner.pipeline.score import score
    from nccleaner.pipeline.search import search

__all__ = [
    "KeepSet",
    "NccleanerError",
    "Reporter",
    "RunConfig",
    "corrupt",
    "download",
    "export",
    "fit",
    "index",
    "purge",
    "report",
    "score",
    "search",
]

_MODULES = {
    "KeepSet": "nccleaner.output.keepset",
    "NccleanerError": "nccleaner.errors",
    "Reporter": "nccleaner.pipeline.reporter",
    "RunConfig": "nccleaner.config",
    "corrupt": "nccleaner.pipeline.corrupt",
    "download": "nccleaner.pipeline.download",
    "export": "nccleaner.pipeline.export",
    "fit": "nccleaner.pipeline.fit",
    "index": "nccleaner.pipeline.index",
    "purge": "nccleaner.pipeline.purge",
    "report": "nccleaner.pipeline.report",
    "score": "nccleaner.pipeline.score",
    "search": "nccleaner.pipeline.search",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
