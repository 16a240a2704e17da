"""Solutions never reach a learner, notebooks keep the style, and the checks of every lab catch what they should."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path

import nbformat as nbf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib import catalog
from course_lib import notebooks as nbs
from course_lib.errors import ArtifactError, DataError
from course_lib.exercises import LabSession, check_exercise, verify, wrong_solutions
from course_lib.nblint import lint, loose_numbers
from course_lib.registry import registry

OPENING = "# A lab\n\n**Goal** x. **Prerequisites** none. **Device** CPU. **Measured runtime** 1 s."
EXERCISE = '''def double(values: list[int]) -> list[int]:
    """Twice each value."""
    ### BEGIN SOLUTION
    secret = [2 * v for v in values]

    return secret
    ### END SOLUTION
'''
CHECK = '''assert double([]) == [], "an empty list stays empty"
assert double([1, 2]) == [2, 4], f"each value is doubled, but [1, 2] became {double([1, 2])}"
print("exercise 1 passes")'''
WRONG = '''- exercise: 1
  name: squares
  mistake: Squares instead of doubling.
  code: return [v ** 2 for v in values]
  expect: each value is doubled
'''


def md(source: str, *tags: str) -> nbf.NotebookNode:
    return nbf.v4.new_markdown_cell(source, metadata={"tags": list(tags)} if tags else {})


def code(source: str, *tags: str) -> nbf.NotebookNode:
    return nbf.v4.new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def lab(*, exercise: str = EXERCISE, check: str = CHECK, extra: tuple = ()) -> nbf.NotebookNode:
    cells = [md(OPENING), code("seed = 1\nout_dir = 'x'  # folder", "parameters"), md("Load."), code("factor = 2"),
             md("### Exercise 1: double the values\n\nWrite it."), code(exercise, "exercise-1"), md("Try it."),
             code("len(double([1]))", "try-1"), md("Check it."), code(check, "check-1"), *extra,
             md("The facilitator sees: secret sauce", "solution"), md("## Takeaways\n\n- Doubling works.")]
    return nbs.normalise(nbf.v4.new_notebook(cells=cells), keep_outputs=False)


@pytest.fixture
def lab_file(tmp_path: Path) -> Path:
    path = tmp_path / "06_demo" / "lab.ipynb"
    path.parent.mkdir()
    nbs.write(lab(), path)
    path.with_name("wrong_solutions.yaml").write_text(WRONG)
    return path


def rules(nb: nbf.NotebookNode, name: str = "06_x/lab.ipynb") -> set[str]:
    return {p.rule for p in lint(nb, name)}


def test_a_learner_copy_holds_stubs_and_nothing_else() -> None:
    source = lab()
    before = copy.deepcopy(source)
    result = nbs.learner_copy(source)
    text = nbs.source_text(result)
    assert "secret" not in text and "SOLUTION" not in text
    assert "raise NotImplementedError('Exercise 1: double the values')" in text
    assert '"""Twice each value."""' in text, "the docstring is the learner's specification"
    assert source == before, "the source is not changed"
    assert result == nbs.normalise(result, keep_outputs=False)
    assert [(e.number, e.title, e.spans) for e in nbs.exercises(result)] == [(1, "double the values", ())]
    check = result.cells[nbs.tagged(result, "check-1")[0]]
    assert check.metadata["editable"] is False and check.metadata["deletable"] is False
    for _, cell in nbs.code_cells(result):
        ast.parse(cell.source)


@pytest.mark.parametrize("broken", [
    EXERCISE.replace("### END SOLUTION", ""),
    EXERCISE.replace("### BEGIN SOLUTION", ""),
    EXERCISE.replace("### END SOLUTION", "### BEGIN SOLUTION"),
    EXERCISE.replace("### BEGIN", "# BEGIN"),
    EXERCISE.replace("### END SOLUTION", "### end solution"),
    EXERCISE.replace("    secret =", "    ### BEGIN SOLUTION\n    secret ="),
    EXERCISE.replace("return secret", "return secret  ### END SOLUTION"),
])
def test_a_marker_out_of_place_stops_the_copy(broken: str) -> None:
    with pytest.raises(DataError) as caught:
        nbs.learner_copy(lab(exercise=broken))
    assert "line" in caught.value.where


@pytest.mark.parametrize("extra", [
    (code("### BEGIN SOLUTION\nx = 1\n### END SOLUTION"),),
    (md("The answer is between BEGIN SOLUTION and END SOLUTION."),),
    (code("x = 1", "exercise-2"),),
    (code("### BEGIN SOLUTION\nx = 1\n### END SOLUTION", "exercise-1"),),
    (code("### BEGIN SOLUTION\nx = 1\n### END SOLUTION", "exercise-3"),),
])
def test_a_solution_outside_an_exercise_stops_the_copy(extra: tuple) -> None:
    with pytest.raises(DataError):
        nbs.learner_copy(lab(extra=extra))


def test_several_regions_and_top_level_regions_become_stubs() -> None:
    exercise = "### BEGIN SOLUTION\na = 1\n### END SOLUTION\n\ndef f():\n    if a:\n        ### BEGIN SOLUTION\n" \
               "        return a\n        ### END SOLUTION\n    return 0\n"
    result = nbs.source_text(nbs.learner_copy(lab(exercise=exercise, check="assert f() == 1, 'one'")))
    assert result.count("raise NotImplementedError('Exercise 1: double the values')") == 2
    assert "        raise NotImplementedError" in result and "    return 0" in result


@given(before=st.lists(st.sampled_from(["x = 1", "def f():", "    y = 2", ""]), max_size=5),
       inside=st.lists(st.text(alphabet="abc =#()", min_size=1, max_size=12), max_size=5),
       indent=st.sampled_from(["", "    ", "\t"]))
def test_nothing_between_markers_survives(before: list[str], inside: list[str], indent: str) -> None:
    body = [f"{indent}SECRET{line}" for line in inside]
    source = "\n".join([*before, indent + nbs.BEGIN, *body, indent + nbs.END, "after = 1"])
    result = nbs.replace_solution(source, ["raise NotImplementedError('x')"])
    assert "SECRET" not in result and "SOLUTION" not in result
    assert result.endswith("after = 1") and f"{indent}raise NotImplementedError('x')" in result
    assert result.splitlines()[: len(before)] == before


def test_normalise_is_idempotent_and_scrubs_what_changes_from_run_to_run() -> None:
    nb = nbf.v4.new_notebook(cells=[code("a"), code("a"), md("b")], metadata={"toc": 1, "widgets": {"x": 1}})
    nb.cells[0].metadata["execution"] = {"start": "now"}
    nb.cells[0].execution_count = 41
    nb.cells[0].outputs = [
        nbf.v4.new_output("stream", text="<object at 0x7f3a2b1c4d5e> /tmp/ipykernel_991/123.py:1: Warning"),
        nbf.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "abc"},
                                           "text/plain": "Quiz at 0xdeadbeefcafe"}, metadata={"x": 1})]
    result = nbs.normalise(nb)
    assert result == nbs.normalise(result)
    assert len({c.id for c in result.cells}) == 3
    assert result.cells[0].execution_count == 1 and result.cells[1].execution_count is None
    assert result.cells[0].outputs[0].text == "<object at 0x…> <cell>:1: Warning"
    assert result.cells[0].outputs[1].data == {"text/plain": "Quiz at 0x…"}
    assert set(result.metadata) == {"kernelspec", "language_info"}


def test_read_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad.ipynb").write_text("{")
    for name, says in (("none.ipynb", "does not exist"), ("bad.ipynb", "not a readable notebook")):
        with pytest.raises(ArtifactError, match=says):
            nbs.read(tmp_path / name)


def test_what_is_set_aside_never_replaces_what_was(tmp_path: Path) -> None:
    work = tmp_path / "lab.ipynb"
    for text in "abc":
        work.write_text(text)
        nbs.set_aside(work)
    (tmp_path / "lab.backup-1.ipynb").unlink()
    work.write_text("d")
    assert nbs.set_aside(work).name == "lab.backup-1.ipynb"
    assert [p.read_text() for p in sorted(tmp_path.iterdir())] == ["d", "b", "c"]


def test_a_good_lab_has_no_problem() -> None:
    assert lint(lab(), "06_x/lab.ipynb") == []


@pytest.mark.parametrize(("cells", "rule"), [
    ((code("!pip install x"),), "no-install"),
    ((code("import subprocess\nsubprocess.run(['pip', 'install', 'x'])"),), "no-install"),
    ((code("%store x"),), "no-magic"),
    ((code("def helper():\n    pass"),), "functions"),
    ((code("seed = 2", "parameters"),), "parameters"),
    ((code("\n".join("x = 1" for _ in range(16))),), "size"),
    ((md("a"), code("a = 1"), code("b = 1"), code("c = 1")), "prose"),
    ((code("x ="),), "syntax"),
    ((code("fig, ax = plt.subplots()\nax.plot([1])"),), "plot-title"),
    (tuple(c for i in range(20) for c in (md(f"Step {i}."), code(f"x = {i}"))), "size"),
])
def test_lint_finds_each_breach_in_a_lab(cells: tuple, rule: str) -> None:
    assert rule in rules(lab(extra=cells))


def test_lint_wants_messages_parameters_units_and_checks() -> None:
    assert "check-message" in rules(lab(check="assert double([1]) == [2]"))
    nb = lab()
    nb.cells[1].source = "limit = 3"
    assert "parameters" in rules(nbs.normalise(nb))
    nb.cells[1].source = "limit = 3  # words"
    assert "parameters" not in rules(nbs.normalise(nb))
    nb.cells[1].source = "limit = len('x')"
    assert "parameters" in rules(nbs.normalise(nb))
    nb = lab()
    nb.cells = [c for c in nb.cells if "check-1" not in nbs.tags(c)]
    assert "exercise" in rules(nb)
    nb = lab()
    nb.cells[3].execution_count = 1
    assert "outputs" in rules(nb)
    nb.cells[3].metadata["scrolled"] = True
    assert "normalised" in rules(nb)
    nb.cells = nb.cells[1:-1]
    assert {"opening", "takeaways"} <= rules(nb)


def lecture() -> nbf.NotebookNode:
    cells = [md(OPENING), code("x = 41 + 1\nx"), md("The answer is 42."), md("## Takeaways\n\n- Count.")]
    cells[1].execution_count = 1
    cells[1].outputs = [nbf.v4.new_output("execute_result", {"text/plain": "42"}, execution_count=1)]
    return nbs.normalise(nbf.v4.new_notebook(cells=cells))


def test_lint_of_lectures() -> None:
    good = lecture()
    assert lint(good) == []
    bare = nbs.normalise(good, keep_outputs=False)
    assert "outputs" in rules(bare, "06_x.ipynb")
    failed = lecture()
    failed.cells[1].outputs = [nbf.v4.new_output("error", ename="E", evalue="x", traceback=[])]
    assert "error-output" in rules(failed, "06_x.ipynb")
    failed.cells[1].metadata["tags"] = ["raises-exception"]
    assert "error-output" not in rules(failed, "06_x.ipynb")
    long = lecture()
    long.cells[1].source = "\n".join(f"x = {i}" for i in range(41))
    assert "size" in rules(long, "06_x.ipynb")
    path = lecture()
    path.cells[1].outputs = [nbf.v4.new_output("stream", text="saved to /home/someone/out")]
    assert "machine-path" in rules(path, "06_x.ipynb")
    order = lecture()
    order.cells[1].execution_count = 7
    assert "order" in rules(order, "06_x.ipynb")
    prose = lecture()
    prose.cells[2].source = "Recall is 0.93, up 12 %. In 2026 it was 0.5."
    assert loose_numbers(prose) == []  # a dated paragraph is fine
    prose.cells[2].source = "Recall is 0.93, up 12 %, over 42 questions."
    assert [p.message[:4] for p in loose_numbers(prose)] == ["0.93", "12 %"]
    assert lint(nbs.normalise(prose)) == []


def test_solutions_pass_stubs_fail_and_mistakes_are_named(lab_file: Path) -> None:
    assert verify(lab_file) == []
    assert check_exercise(lab_file, 1).passed
    run = check_exercise(lab_file, 1, "return values")
    assert run.kind == "fail" and "became [1, 2]" in run.message
    with LabSession(lab_file) as session:
        assert session.check(1, stub=True).error == "NotImplementedError"
        assert session.check(1, ("return None.x",)).kind == "crash"
        assert session.check(1).passed, "a trial leaves no trace in the next one"


@pytest.mark.parametrize(("change", "says"), [
    ({"check": "print('always')"}, "does not catch it"),
    ({"check": "assert double([2]) == 'x', 'never'"}, "the solution does not pass"),
    ({"check": "assert double([3]) == [6], 'wrong'"}, "does not name the mistake"),
    ({"check": "assert double([3]) == [6] or 1 / 0, 'wrong'"}, "crashed instead of explaining"),
    ({"exercise": EXERCISE.replace("### BEGIN", "return [2 * x for x in values]\n    ### BEGIN")}, "stub does not"),
])
def test_verify_can_fail(lab_file: Path, change: dict, says: str) -> None:
    nbs.write(lab(**change), lab_file)
    assert says in " ".join(verify(lab_file))


def test_verify_wants_a_mistake_per_exercise_and_no_strangers(lab_file: Path) -> None:
    seeds = lab_file.with_name("wrong_solutions.yaml")
    seeds.write_text(WRONG.replace("exercise: 1", "exercise: 4"))
    text = " ".join(verify(lab_file))
    assert "Exercise 1 has no seeded wrong solution" in text and "exercise 4, which the lab does not have" in text
    for bad in ("a: 1", "- exercise: 1", WRONG + WRONG):
        seeds.write_text(bad)
        with pytest.raises(DataError):
            wrong_solutions(lab_file)


def test_later_exercises_see_the_reference_solutions_and_the_parameters(tmp_path: Path) -> None:
    body = "    ### BEGIN SOLUTION\n    return double(double(v))\n    ### END SOLUTION"
    second = code(f"def quadruple(v):\n{body}", "exercise-2")
    third = code("assert quadruple([seed]) == [4 * seed] and seed == 5, 'four times'", "check-2")
    path = tmp_path / "lab.ipynb"
    nbs.write(lab(extra=(md("### Exercise 2 - twice"), second, md("Check."), third)), path)
    with LabSession(path, {"seed": 5}) as session:
        assert session.check(2).passed
        assert session.check(1).passed
        assert session.check(2, ("return v",)).message == "four times"


@pytest.mark.parametrize("path", catalog.notebooks(), ids=lambda p: p.name)
def test_committed_lectures_keep_the_style(path: Path) -> None:
    assert [str(p) for p in lint(nbs.read(path), path)] == []


@pytest.mark.parametrize("path", catalog.labs(), ids=lambda p: p.parent.name)
def test_committed_labs_keep_the_style_and_hide_their_solutions(path: Path) -> None:
    nb = nbs.read(path)
    assert [str(p) for p in lint(nb, path)] == []
    copy_text = nbs.source_text(nbs.learner_copy(nb))
    for exercise in nbs.exercises(nb):
        lines = nb.cells[exercise.cell].source.splitlines()
        for first, last in exercise.spans:
            body = [line.strip() for line in lines[first + 1:last] if len(line.strip()) > 25]
            assert not [line for line in body if line in copy_text], f"exercise {exercise.number} leaks"


@pytest.mark.parametrize("path", [*catalog.notebooks(), *catalog.labs()], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_notebooks_name_only_models_of_the_registry(path: Path) -> None:
    text = nbs.source_text(nbs.read(path))
    named = set(re.findall(r"\b(?:claude|course-lm)-[a-z]+(?:-[a-z0-9.]+)*\b", text))
    assert sorted(name for name in named if name not in registry()) == []


@pytest.mark.parametrize("path", catalog.labs(), ids=lambda p: p.parent.name)
def test_exercises_of_committed_labs_grade(path: Path) -> None:
    assert verify(path) == []
