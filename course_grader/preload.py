"""Imported first, and only, by the process that grading workers are forked from: it imports without collecting garbage.

That is the one import in the package with an effect, on purpose: libraries make so many objects that nothing of which
goes away that collections take a sixth of their import. ``workers`` turns the collector on again in every worker.
"""

from __future__ import annotations

import gc

gc.disable()
