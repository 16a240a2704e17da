"""Pictures that lessons draw alike: shares with their intervals, a funnel, tokens in boxes, texts side by side."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from course_lib.errors import UsageError
from course_lib.measure import wilson


def share_bars(outcomes: Mapping[str, Sequence[bool]], title: str, xlabel: str) -> Any:
    """A figure with one bar for each name: the share of true outcomes with its 95 % Wilson interval."""
    import matplotlib.pyplot as plt

    if not outcomes or not all(len(hits) for hits in outcomes.values()):
        raise UsageError("Each bar needs at least one outcome.", where="share_bars")
    fig, ax = plt.subplots(figsize=(8, 0.5 * len(outcomes) + 1.1))
    for place, hits in enumerate(outcomes.values()):
        share, (low, high) = sum(hits) / len(hits), wilson(int(sum(hits)), len(hits))
        ax.barh(place, share, color="0.8", edgecolor="black", xerr=[[share - low], [high - share]], capsize=4)
        ax.text(min(high, 1.0) + 0.015, place, f"{share:.0%}", va="center")
    ax.set_yticks(range(len(outcomes)), list(outcomes))
    ax.invert_yaxis()
    ax.set(xlabel=f"{xlabel} (95 % interval)", xlim=(0, 1.1), xticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0], title=title)
    return fig


def funnel(counts: Mapping[str, int], title: str, unit: str = "rows") -> Any:
    """A figure of what each step leaves: the first bar is the start, each later one shows kept (dark) and removed."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(8, 0.4 * len(counts) + 1.1))
    before = next(iter(counts.values()))
    for place, count in enumerate(counts.values()):
        ax.barh(place, before, color="white", edgecolor="black", hatch="///")
        ax.barh(place, count, color="0.6", edgecolor="black")
        ax.text(before * 1.01, place, f"{count}" + (f"  (-{before - count})" if before > count else ""), va="center")
        before = count
    ax.set_yticks(range(len(counts)), list(counts))
    ax.invert_yaxis()
    ax.set(xlabel=f"{unit} left (grey) and removed by this step (hatched)", title=title,
           xlim=(0, max(counts.values()) * 1.14))  # fmt: skip
    return fig


def token_boxes(tokenizer: Any, ids: Sequence[int], dark: Sequence[bool]) -> str:
    """HTML with one box per token; a dot is a space. ``dark`` says which boxes are dark."""
    boxes = []
    for token, is_dark in zip(ids, dark, strict=True):
        text = html.escape(tokenizer.decode([token]).replace("\n", "⏎").replace(" ", "·"))
        colours = "background:#333;color:#fff" if is_dark else "background:#fff;color:#555"
        boxes.append(f"<span style='border:1px solid #888;padding:1px 2px;margin:1px;display:inline-block;{colours}'>"
                     f"{text}</span>")
    return f"<div style='line-height:1.9;font-family:monospace'>{''.join(boxes)}</div>"


def side_by_side(texts: Mapping[str, str]) -> str:
    """HTML with the texts in columns under their names, every character shown and nothing rendered."""
    cells = [f"<td style='vertical-align:top;text-align:left;padding:0 14px'><strong>{html.escape(name)}</strong>"
             f"<pre>{html.escape(text)}</pre></td>" for name, text in texts.items()]
    return f"<table><tr>{''.join(cells)}</tr></table>"
