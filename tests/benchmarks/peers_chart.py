"""The chart of ``grade_peers``: seconds a notebook and notebooks a minute, by tool.

    python tests/benchmarks/peers_chart.py        draws docs/grade_peers.png again from the committed result
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

LABELS = {"papermill": "papermill", "otter": "otter run", "nbgrader": "nbgrader autograde", "ours_cold": "ours, cold",
          "ours_warm": "ours, warm", "ours_warm_sandboxed": "ours, warm, in the sandbox"}  # fmt: skip
DARK, LIGHT, INK = "#2f5d86", "#c9d2da", "#222222"


def finding(tools: Mapping[str, Mapping[str, float]]) -> str:
    """What the numbers say, in one line."""
    peers = [tools[name]["p50_s"] for name in ("papermill", "otter", "nbgrader") if name in tools]
    mine = tools.get("ours_warm_sandboxed")
    if mine is None or not peers:
        return "Seconds to execute one import-heavy notebook"
    says = f"{mine['p50_s']:.1f} s a notebook in the sandbox, {min(peers):.0f} to {max(peers):.0f} s with other tools"
    if "overhead_s" in mine:
        says += f":\n{mine['overhead_s']:.2f} s of it are ours, the rest is the learner's own code"
    return says


def draw(tools: Mapping[str, Mapping[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in LABELS if name in tools][::-1]
    shades = [DARK if name.startswith("ours") else LIGHT for name in names]
    places = list(range(len(names)))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=(3, 2), sharey=True)
    middle = [tools[name]["p50_s"] for name in names]
    late = [max(0.0, tools[name]["p95_s"] - tools[name]["p50_s"]) for name in names]
    left.barh(places, middle, color=shades, edgecolor=INK, xerr=[[0.0] * len(names), late], capsize=3)
    for place, name in zip(places, names, strict=True):
        left.text(tools[name]["p95_s"] + 0.02 * max(middle), place, f" {tools[name]['p50_s']:.1f}", va="center")
    left.set_yticks(places, [LABELS[name] for name in names])
    left.set_xlim(0, 1.15 * max(tools[name]["p95_s"] for name in names))
    left.set_xlabel("seconds a notebook, median (line: to the 95th percentile)")
    for number, (shift, hatch) in {1: (0.2, ""), 2: (-0.2, "///")}.items():
        rates = [tools[name].get(f"per_minute_{number}", 0.0) for name in names]
        spots = [place + shift for place in places]
        edges = ["white" if shade == DARK and hatch else INK for shade in shades]
        right.barh(spots, rates, height=0.38, color=shades, edgecolor=edges, hatch=hatch, linewidth=0.8)
    right.set_xlabel("notebooks a minute")
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=INK, hatch=hatch) for hatch in ("", "///")]
    right.legend(handles, ["one worker", "two workers"], loc="upper right", frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(finding(tools), x=0.02, ha="left", fontsize=12)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    here = Path(__file__).parent
    result = json.loads((here / "results" / "grade_peers.json").read_text())
    draw(result["tools"], here.parents[1] / "docs" / "grade_peers.png")
