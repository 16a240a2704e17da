"""The reviewer's panel in JupyterLab: the evidence on one side, points and a reason on the other, one save per review.

``review("build/gradebook", ["submissions"])`` as the last line of a cell shows it; ``course review`` writes a notebook
that does. Without a widget manager a static list says what is open. Everything of a submission is escaped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from course_grader.review_desk import BY_CRITERION, BY_LEARNER, Desk, Draft, Item
from course_grader.review_html import checks, file, head, progress, said, warning
from course_grader.reviews import read_points
from course_lib.errors import CourseError, UsageError
from course_lib.report import points, visible
from course_lib.widgets import _WIDGET, Table

CLASS = "course-review"
INTRODUCTION = """# Reviews

Run the cell below (Shift+Enter). It shows what people score, with the learner's files and the findings of the checks
beside it. **Save and go on** writes one review to the disk. What you type and do not save is kept as a draft. Points
and reasons survive every regrade of the same submission."""
CSS = Path(__file__).parent / "templates" / "review.css"


def review(gradebook: Path | str, submissions: Iterable[Path | str] | Path | str = (), reviewer: str = "") -> Panel:
    """The panel over a graded cohort. submissions: what was given to ``course grade``, for the evidence."""
    paths = [submissions] if isinstance(submissions, (str, Path)) else list(submissions)
    return Panel(Desk(gradebook, paths), reviewer)


def write_notebook(gradebook: Path, submissions: Iterable[Path] = (), reviewer: str = "") -> Path:
    """``review.ipynb`` in the gradebook, which shows the panel; paths are relative to it. One that is there and says
    something else is kept beside it."""
    import nbformat

    from course_lib import notebooks as nbs

    paths = [os.path.relpath(path, gradebook) for path in submissions]
    values = [json.dumps(value, ensure_ascii=False) for value in (".", paths, reviewer)]
    code = nbformat.v4.new_code_cell(f"from course_grader.review_panel import review\n\nreview({', '.join(values)})")
    nb = nbs.normalise(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(INTRODUCTION), code]))
    target = gradebook / "review.ipynb"
    if target.exists() and nbs.source_text(nbs.read(target)) != nbs.source_text(nb):
        nbs.set_aside(target)
    if not target.exists():
        nbs.write(nb, target)
    return target


class Panel:
    """One reviewer at one desk. ``widget()`` builds the live form."""

    def __init__(self, desk: Desk, reviewer: str = "") -> None:
        self.desk, self.name = desk, reviewer
        self.items: list[Item] = []
        self.item: Item | None = None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        table = self.table()
        bundle: dict[str, Any] = {"text/plain": str(table), "text/html": table.html()}
        try:
            bundle[_WIDGET] = self.widget()._repr_mimebundle_()[_WIDGET]
        except Exception:  # no ipywidgets, or no kernel to talk to: the list says how to go on without
            return bundle
        return bundle

    def table(self) -> Table:
        """What people still have to score, and how to do it without this panel."""
        items = self.desk.items()
        rows = [(visible(i.row.name), f"lab {i.module}", i.line.title, f"0 to {points(i.line.points)}")
                for i in items if i.open]  # fmt: skip
        caption = (f"{len(rows)} of {len(items)} reviews are open. To score them here, run this cell in JupyterLab; to "
                   "score them in a spreadsheet, fill reviews.csv and hand it in with course grade --reviews.")
        return Table(("Learner", "Lab", "Criterion", "Points"), rows, caption)

    def widget(self) -> Any:
        """An ipywidgets box: where one is, the evidence, and the form."""
        import ipywidgets as widgets

        self._build(widgets)
        self._listen()
        self._list()
        self._go(self.items[0] if self.items else None)
        if strays := self.desk.stray_drafts():
            self._say(f"{len(strays)} unsaved drafts belong to submissions that no longer count; they stay in "
                      "review-drafts.json.", "warn")  # fmt: skip
        return self.box

    def _build(self, widgets: Any) -> None:
        def wide(kind: Any, **more: Any) -> Any:
            return kind(layout=widgets.Layout(width="auto"), **more)

        self.progress, self.head, self.files_note, self.checks, self.shown, self.said, self.scale = (
            widgets.HTML() for _ in range(7))
        self.where = wide(widgets.Dropdown, options=[], tooltip="Go to a review")
        self.order = wide(widgets.Dropdown, options=[("learner by learner", BY_LEARNER),
                                                     ("criterion by criterion", BY_CRITERION)], tooltip="Order")
        self.back, self.on = (widgets.Button(description=name, tooltip=tip) for name, tip in
                              (("←", "Previous review"), ("→", "Next review")))
        self.files = wide(widgets.Dropdown, options=[], tooltip="File of the submission")
        self.points = wide(widgets.Text, placeholder="points", tooltip="Points", continuous_update=True)
        self.quick = widgets.HBox()
        self.reason = wide(widgets.Textarea, rows=6, continuous_update=True, tooltip="Reason",
                           placeholder="What in the packet earns or costs the points? The learner reads this.")
        self.reviewer = wide(widgets.Text, value=self.name, placeholder="your name", tooltip="Reviewer")
        self.save = widgets.Button(description="Save and go on", button_style="primary")
        self.drop = widgets.Button(description="Discard edit", tooltip="Back to what is saved")
        top = _classed(widgets.HBox([self.back, self.where, self.on, self.order]), "top")
        left = _classed(widgets.VBox([self.files, self.files_note, self.shown, self.checks]), "evidence")
        form = [self.head, _caption(widgets, "Points"), widgets.HBox([self.points, self.quick, self.scale]),
                _caption(widgets, "Reason"), self.reason, _caption(widgets, "Reviewer"), self.reviewer,
                widgets.HBox([self.save, self.drop]), self.said]  # fmt: skip
        right = _classed(widgets.VBox(form), "form")
        style = widgets.HTML(f"<style>{CSS.read_text('utf-8')}</style>")
        self.box = _classed(widgets.VBox([style, self.progress, top, _classed(widgets.HBox([left, right]), "sides")]),
                            CLASS)  # fmt: skip
        self._filling = False

    def _listen(self) -> None:
        self.where.observe(lambda change: self._chosen(change["new"]), "value")
        self.order.observe(lambda _: self._reordered(), "value")
        self.files.observe(lambda _: self._show_file(), "value")
        for field in (self.points, self.reason):
            field.observe(lambda _: self._typed(), "value")
        self.reviewer.observe(lambda change: setattr(self, "name", change["new"]), "value")
        self.back.on_click(lambda _: self._step(-1))
        self.on.on_click(lambda _: self._step(1))
        self.save.on_click(lambda _: self._save())
        self.drop.on_click(lambda _: self._discard())

    def _list(self) -> None:
        """The order is taken once, so that a saved review does not jump away."""
        places = {item.key: number for number, item in enumerate(self.items)}
        fresh = self.desk.items(self.order.value)
        self.items = sorted(fresh, key=lambda i: places.get(i.key, len(places))) if places else fresh
        self._refresh()

    def _reordered(self) -> None:
        self.items = []
        self._list()
        self._go(self._same(self.item) or (self.items[0] if self.items else None))

    def _same(self, item: Item | None) -> Item | None:
        return next((other for other in self.items if item and other.key == item.key), None)

    def _refresh(self) -> None:
        """Progress and the list of reviews, after anything changed."""
        done = sum(not item.open for item in self.items)
        labs = ", ".join(f"lab {lab.module}: {lab.title}" for lab in self.desk.book.labs)
        self.progress.value = progress(labs, done, len(self.items), len(self.desk.drafts))
        self._filling = True
        self.where.options = [(self._label(item), number) for number, item in enumerate(self.items)]
        if self.item is not None and (here := self._same(self.item)):
            self.where.value = self.items.index(here)
        self._filling = False

    def _label(self, item: Item) -> str:
        state = ("not saved" if item.key in self.desk.drafts else "open" if item.open else
                 f"{points(item.line.reviewer or 0)} of {points(item.line.points)}")  # fmt: skip
        return f"{visible(item.row.name)[:40]} · {item.line.title[:60]} · {state}"

    def _chosen(self, number: int | None) -> None:
        if not self._filling and number is not None:
            self._go(self.items[number])

    def _step(self, by: int) -> None:
        if self.item is not None and (here := self._same(self.item)):
            self._go(self.items[(self.items.index(here) + by) % len(self.items)])

    def _go(self, item: Item | None) -> None:
        """Show an item, with its draft where there is one."""
        self.item = item
        self._say("" if item else "Nothing here is scored by people.")
        for field in (self.points, self.reason, self.reviewer, self.save, self.drop, self.back, self.on):
            field.disabled = item is None
        if item is not None:
            self._fill(item)
            self._show_evidence(item)
            self._refresh()

    def _fill(self, item: Item) -> None:
        import ipywidgets as widgets

        self.head.value = head(item)
        form = self.desk.form(item)
        self._filling = True
        self.points.value, self.reason.value = form.points, form.reason
        self._filling = False
        steps = [0.0, item.line.points / 2, item.line.points]
        self.quick.children = [widgets.Button(description=points(step), tooltip=f"{points(step)} points")
                               for step in steps]  # fmt: skip
        for button in self.quick.children:
            button.on_click(lambda pressed: setattr(self.points, "value", pressed.description))
        self.scale.value = f"of {points(item.line.points)}"
        if not item.open and item.key in self.desk.drafts:
            self._say("This edit of a saved review is not saved.", "warn")
        elif item.key in self.desk.drafts:
            self._say("This draft is kept, and not saved yet.", "warn")

    def _show_evidence(self, item: Item) -> None:
        self._evidence = self.desk.evidence(item)
        self.files_note.value = warning(self._evidence.problem)
        names = [(str(visible(name)), name) for name in self._evidence.names]
        self.files.options, self.files.disabled = names, not names
        self._show_file()
        self.checks.value = checks(item.row.report.findings if item.row.report else ())

    def _show_file(self) -> None:
        name = self.files.value
        self.shown.value = "" if name is None else file(name, self._evidence.text(name))

    def _typed(self) -> None:
        """Each change is a draft on the disk, so that a closed tab or a dead kernel takes nothing along."""
        if self._filling or self.item is None:
            return
        had = self.item.key in self.desk.drafts
        try:
            self.desk.keep(self.item, Draft(self.points.value, self.reason.value))
        except (CourseError, OSError) as error:
            self._say(f"This edit is kept in this panel only, save it soon: {error}", "bad")
            return
        problem, _ = read_points(self.points.value, self.item.line.points)
        if problem and self.points.value.strip():
            self._say(f"Not saved yet, and it does not fit: {problem}.", "bad")
        else:
            self._say("Not saved yet." if self.item.key in self.desk.drafts else "", "warn")
        if had != (self.item.key in self.desk.drafts):
            self._refresh()

    def _discard(self) -> None:
        if self.item is None:
            return
        try:
            self.desk.keep(self.item, None)
        except (CourseError, OSError) as error:
            self._say(f"The draft could not be removed: {error}", "bad")
            return
        self._go(self.desk.find(self.item.key) or self.item)

    def _save(self) -> None:
        item = self.item
        if item is None:
            return
        try:
            self.desk.save(item, Draft(self.points.value, self.reason.value), self.reviewer.value)
        except (CourseError, OSError) as error:
            what = f"{error.what} {error.fix}" if isinstance(error, CourseError) else f"The disk refused: {error}."
            self._say(f"Not saved. {what}", "bad")
            if isinstance(error, UsageError):
                self.item = self.desk.find(item.key) or item
                self.head.value = head(self.item)
            return
        self._list()
        saved = self._same(item)
        self._go(self._next_open(item) or saved)
        self._say(f"Saved: {self.points_of(saved)} for {visible(item.row.name)}, {item.line.title}."
                  f"{' That was the last open one.' if all(not i.open for i in self.items) else ''}", "good")
        try:
            self.desk.publish()
        except (CourseError, OSError) as error:
            self._say(f"The review is saved. The pages follow with the next course grade: {error}", "warn")

    @staticmethod
    def points_of(item: Item | None) -> str:
        return f"{points(item.line.reviewer or 0)} of {points(item.line.points)}" if item else "the review"

    def _next_open(self, item: Item) -> Item | None:
        here = next((n for n, other in enumerate(self.items) if other.key == item.key), 0)
        return next((other for other in [*self.items[here:], *self.items[:here]] if other.open), None)

    def _say(self, what: str, kind: str = "") -> None:
        self.said.value = said(what, kind)


def _classed(widget: Any, name: str) -> Any:
    widget.add_class(f"{CLASS}-{name}" if name != CLASS else CLASS)
    return widget


def _caption(widgets: Any, name: str) -> Any:
    return widgets.HTML(f"<p class='caption'>{name}</p>")
