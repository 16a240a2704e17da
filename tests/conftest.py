"""Shared fixtures. Runs of ``pytest`` outside ``make test`` get the same network block."""

from __future__ import annotations

import os
import sys
from pathlib import Path

OFFLINE = Path(__file__).parent / "offline"
sys.path.insert(0, str(OFFLINE))
import sitecustomize as _site  # noqa: E402

if not hasattr(_site, "NetworkBlocked"):  # another sitecustomize came first: load ours by path
    import runpy

    runpy.run_path(str(OFFLINE / "sitecustomize.py"))

os.environ["PYTHONPATH"] = os.pathsep.join(
    dict.fromkeys([str(OFFLINE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
)
for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"):
    os.environ.pop(name, None)
os.environ.update(HF_HUB_OFFLINE="1", ANONYMIZED_TELEMETRY="False", TOKENIZERS_PARALLELISM="false")
