"""One view with a few controls: live in JupyterLab, a still picture of it everywhere else.

The view itself is an ordinary function of the notebook, so a learner can read it, call it and change it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from course_lib.errors import UsageError

__all__ = ["Live"]
_WIDGET = "application/vnd.jupyter.widget-view+json"
Control = str | range | Sequence[Any]


class Live:
    """``view(**values)`` drawn again whenever a control changes; as the last line of a cell it shows itself.

    view: returns HTML as ``str`` or a matplotlib figure. Its caller vouches for the HTML: escape what people type.
    text: the plain text of the still picture, for readers without images; the same at every run.
    controls: name -> a ``str`` (text box), a ``range`` (slider), or a sequence of choices. The still picture shows the
    text, the start of the range, the first choice.
    """

    def __init__(self, view: Callable[..., Any], text: str, /, **controls: Control) -> None:
        if not controls or any(not isinstance(c, str) and not len(c) for c in controls.values()):
            raise UsageError("A live view needs controls, and each needs a value.", where="Live")
        self.view, self.text, self.controls = view, text, controls
        self.start = {name: c if isinstance(c, str) else c[0] for name, c in controls.items()}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        shown = self.view(**self.start)
        bundle: dict[str, Any] = {"text/plain": self.text}
        if isinstance(shown, str):
            bundle["text/html"] = shown
        else:
            bundle["image/png"] = base64.b64encode(_png(shown)).decode()
        try:
            bundle[_WIDGET] = self.widget()._repr_mimebundle_()[_WIDGET]
        except Exception:  # no ipywidgets, or no kernel to talk to: the still picture is complete by itself
            return bundle
        return bundle

    def widget(self) -> Any:
        """An ipywidgets box: the controls in one row, the view below. An error of the view is shown in its place."""
        import ipywidgets as widgets

        boxes = {name: _control(name, control) for name, control in self.controls.items()}
        page, picture = widgets.HTML(), widgets.Image(format="png")

        def draw(_: Any = None) -> None:
            try:
                shown = self.view(**{name: box.value for name, box in boxes.items()})
            except Exception as error:
                shown = _failed(error)
            html = isinstance(shown, str)
            page.value = shown if html else ""
            if not html:
                picture.value = _png(shown)
            picture.layout.display = "none" if html else ""

        for box in boxes.values():
            box.observe(draw, names="value")
        draw()
        row = widgets.HBox(list(boxes.values()), layout=widgets.Layout(flex_flow="row wrap"))
        whole = widgets.VBox([row, page, picture])
        whole.add_class("course-live")
        return whole


def _failed(error: Exception) -> str:
    """What stands in place of a view that failed."""
    import html

    return f"<p role='alert'>This setting cannot be shown: {html.escape(str(error) or type(error).__name__)}</p>"


def _control(name: str, control: Control) -> Any:
    import ipywidgets as widgets

    wide: dict[str, Any] = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
    if isinstance(control, str):
        return widgets.Text(value=control, continuous_update=False, layout=widgets.Layout(width="44em"), **wide)
    if isinstance(control, range):
        return widgets.IntSlider(value=control[0], min=control[0], max=control[-1], step=control.step, **wide)
    return widgets.Dropdown(options=list(control), value=control[0], **wide)


def _png(figure: Any) -> bytes:
    import matplotlib.pyplot as plt

    stream = io.BytesIO()
    figure.savefig(stream, format="png", bbox_inches="tight")
    plt.close(figure)
    return stream.getvalue()
