"""Temperature and top-p by hand: sliders over real logits, and the same tables where widgets do not render.

The view computes nothing itself: it is handed the function that turns logits into probabilities, which in the lesson is
the one that the learner has just written.
"""

from __future__ import annotations

import html
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from course_lib.errors import UsageError

__all__ = ["SamplingView"]
_WIDGET = "application/vnd.jupyter.widget-view+json"
_SETTINGS = ((0.3, 1.0), (1.0, 1.0), (2.0, 1.0), (2.0, 0.9))
Distribution = Callable[[Any, float, float], Any]


class SamplingView:
    """Next-token distributions that react to temperature and top-p.

    places: name of a position in a text -> its logits, one number per token of the vocabulary.
    token: token id -> its text. distribution: (logits, temperature, top_p) -> as many probabilities, in the same order.
    Not promised: that ``distribution`` is right. What it returns is what is shown; a sum other than 1 is refused.
    """

    def __init__(self, places: Mapping[str, Sequence[float]], token: Callable[[int], str], distribution: Distribution,
                 *, show: int = 6) -> None:
        if not places:
            raise UsageError("There is nothing to show.", where="SamplingView", fix="Pass at least one position.")
        self.places = {name: [float(x) for x in logits] for name, logits in places.items()}
        self.originals = dict(places)
        self.token, self.distribution, self.show = token, distribution, show

    def probabilities(self, place: str, temperature: float, top_p: float) -> list[float]:
        """What ``distribution`` makes of one position. Raises UsageError unless it is a distribution."""
        values = [float(x) for x in self.distribution(self.originals[place], temperature, top_p)]
        if len(values) != len(self.places[place]) or not math.isclose(sum(values), 1.0, abs_tol=1e-3):
            raise UsageError(f"{len(values)} values with the sum {sum(values):.3f} are no distribution over "
                             f"{len(self.places[place])} tokens.", where="SamplingView",
                             fix="Normalise after the cut: the kept probabilities must add up to 1.")
        return values

    def rows(self, place: str, temperature: float, top_p: float) -> tuple[list[tuple[str, float]], int, float]:
        """((token, probability) of the likeliest before any cut, tokens that can be drawn, bits of entropy)."""
        values = self.probabilities(place, temperature, top_p)
        logits = self.places[place]
        first = sorted(range(len(logits)), key=lambda i: -logits[i])[: self.show]
        kept = [p for p in values if p > 0]
        return [(self.token(i), values[i]) for i in first], len(kept), -sum(p * math.log2(p) for p in kept)

    def draw(self, place: str, temperature: float, top_p: float, count: int, seed: int) -> list[str]:
        """``count`` tokens drawn with a generator of that seed."""
        values = self.probabilities(place, temperature, top_p)
        return [self.token(i) for i in random.Random(seed).choices(range(len(values)), values, k=count)]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": str(self), "text/html": self.html()}
        try:
            bundle[_WIDGET] = self.widget()._repr_mimebundle_()[_WIDGET]
        except Exception:  # no ipywidgets, or no kernel to talk to: the static tables say the same
            return bundle
        return bundle

    def __str__(self) -> str:
        lines = []
        for place in self.places:
            lines.append(place)
            for temperature, top_p in _SETTINGS:
                rows, kept, bits = self.rows(place, temperature, top_p)
                shown = "  ".join(f"{_visible(token)} {p:.2f}" for token, p in rows[:5])
                lines.append(f"  T={temperature:g} top-p={top_p:g}: {shown}  | {_tokens(kept)}, {bits:.1f} bits")
        return "\n".join(lines)

    def html(self) -> str:
        """One table per position: a row for each of the likeliest tokens, a column for each of four settings."""
        return "".join(self._overview(place) for place in self.places)

    def _overview(self, place: str) -> str:
        columns = [self.rows(place, t, p) for t, p in _SETTINGS]
        names = [f"temperature {t:g}" + (f", top-p {p:g}" if p < 1 else "") for t, p in _SETTINGS]
        head = "".join(f"<th scope='col' colspan='2' style='text-align:left'>{n}</th>" for n in names)
        body = ""
        for i, (token, _) in enumerate(columns[0][0]):
            cells = "".join(_cells(rows[i][1], 90) for rows, _, _ in columns)
            name = f"<code>{html.escape(_visible(token))}</code>"
            body += f"<tr><th scope='row' style='text-align:left'>{name}</th>{cells}</tr>"
        rest = "".join(_cells(max(0.0, 1.0 - sum(p for _, p in rows)), 90) for rows, _, _ in columns)
        facts = "".join(f"<td colspan='2' style='text-align:left'>{_tokens(kept)}, {bits:.1f} bits</td>"
                        for _, kept, bits in columns)
        return (f"<table><caption>{html.escape(place)}</caption><thead><tr><th></th>{head}</tr></thead><tbody>{body}"
                f"<tr><th scope='row' style='text-align:left'><em>all others</em></th>{rest}</tr>"
                f"<tr><th scope='row' style='text-align:left'>can be drawn</th>{facts}</tr></tbody></table>")

    def table(self, place: str, temperature: float, top_p: float) -> str:
        """One distribution as bars; a token that top-p has cut is struck through."""
        rows, kept, bits = self.rows(place, temperature, top_p)
        cells = "".join(self._bar(token, p) for token, p in rows)
        rest = max(0.0, 1.0 - sum(p for _, p in rows))
        return (f"<table style='border-collapse:collapse'><caption style='text-align:left'>temperature "
                f"{temperature:.1f}, top-p {top_p:.2f}: {_tokens(kept)} can be drawn, {bits:.1f} bits</caption>"
                f"<tbody>{cells}{self._bar('all others', rest, quote=False)}</tbody></table>")

    def _bar(self, token: str, p: float, *, quote: bool = True) -> str:
        name = html.escape(_visible(token) if quote else token)
        name = f"<code>{name}</code>" if quote else f"<em>{name}</em>"
        name = f"<s>{name}</s>" if quote and p == 0 else name
        return f"<tr><th scope='row' style='text-align:left;font-weight:normal'>{name}</th>{_cells(p, 140)}</tr>"

    def widget(self) -> Any:
        """Two sliders, a choice of position and a button that draws; the table follows every move."""
        import ipywidgets as widgets

        wide = {"style": {"description_width": "7em"}, "layout": widgets.Layout(width="30em")}
        place = widgets.Dropdown(options=list(self.places), description="position", **wide)
        temperature = widgets.FloatSlider(value=1.0, min=0.1, max=2.5, step=0.1, description="temperature",
                                          readout_format=".1f", **wide)
        top_p = widgets.FloatSlider(value=1.0, min=0.05, max=1.0, step=0.05, description="top-p", **wide)
        button = widgets.Button(description="Draw 12 tokens", tooltip="Draw 12 tokens from the distribution shown")
        table, drawn = widgets.HTML(), widgets.HTML()
        presses = 0

        def refresh(_: Any = None) -> None:
            table.value = self.table(place.value, temperature.value, top_p.value)
            drawn.value = ""

        def draw(_: Any) -> None:
            nonlocal presses
            presses += 1
            tokens = self.draw(place.value, temperature.value, top_p.value, 12, presses)
            drawn.value = ("<p role='status'>drawn: "
                           + " ".join(f"<code>{html.escape(_visible(t))}</code>" for t in tokens) + "</p>")

        for control in (place, temperature, top_p):
            control.observe(refresh, names="value")
        button.on_click(draw)
        refresh()
        box = widgets.VBox([place, temperature, top_p, table, button, drawn])
        box.add_class("course-sampling")
        return box


def _cells(p: float, width: int) -> str:
    """A probability as a number and as a bar of at most ``width`` pixels."""
    bar = f"<div style='width:{width * p:.0f}px;height:0.8em;background:#555;border-right:1px solid #555'></div>"
    return f"<td style='text-align:right'>{p:.3f}</td><td style='text-align:left;min-width:{width + 5}px'>{bar}</td>"


def _tokens(count: int) -> str:
    return f"{count:,} token" + ("" if count == 1 else "s")


def _visible(token: str) -> str:
    """A token with its spaces and line breaks made visible."""
    return token.replace(" ", "·").replace("\n", "↵") or "(empty)"
