"""What all tests share."""

from __future__ import annotations

import os

from jaxtyping import install_import_hook

# One thread a test: the suite runs beside others on small machines, where threads that wait for
# each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shapes and types of what is learned are checked in every test; the hook must be there before the
# packages are imported.
install_import_hook(["nccleaner.model", "nccleaner.train"], "beartype.beartype")
