"""A cohort run: kills, crashes, corrupt entries, changed graders. Scores of the others never move."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cohort_kit as kit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from course_grader import cohort, sandbox
from course_grader.cohort import JOURNAL, LabGrader, Options, grade_cohort, written
from course_grader.gradebook import CRASHED, REFUSED, Book, Row, build
from course_grader.intake import collect
from course_grader.items import look_first
from course_grader.journal import Journal, read_journal
from course_grader.policy import Policy
from course_grader.workers import Crash, Pool, inline
from course_lib import cli
from course_lib.errors import ExecutionError, UsageError
from course_lib.submission import Submission
from course_lib.types import Finding, Outcome

CALLS: list[Path] = []


def rows(book: Book) -> dict[str, Row]:
    return {row.learner: row for row in book.labs[0].counted}


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.cohort(tmp_path_factory.mktemp("forty") / "submissions", 40)


def test_killed_at_random_points_it_goes_on_and_ends_the_same(forty: Path, tmp_path: Path) -> None:
    result = kit.kill_and_resume(forty, tmp_path, kills=10)
    assert result["kill_points"] == 10 and result["rounds"] >= 1
    assert result["kill_mismatches"] == 0 and result["graded_twice"] == 0


@settings(max_examples=12, deadline=None)
@given(st.floats(0, 1), st.randoms(use_true_random=False))
def test_cut_anywhere_the_journal_leads_to_the_same_gradebook(share: float, draw: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        subs = kit.cohort(work / "subs", 5)
        kit.grade(subs, work / "a")
        raw = (work / "a" / JOURNAL).read_bytes()
        (work / "b").mkdir()
        (work / "b" / JOURNAL).write_bytes(raw[: int(share * len(raw))])
        whole = kit.finished(work / "b")
        run = kit.grade(subs, work / "b")
        assert (run.reused, run.graded) == (whole, 5 - whole)
        assert kit.derived(work / "a") == kit.derived(work / "b")


def test_two_gradings_are_equal_whatever_the_workers_and_the_order(forty: Path, tmp_path: Path) -> None:
    kit.grade(forty, tmp_path / "a")
    options = Options(workers=3)
    grade_cohort(list(reversed(collect([forty]))), kit.CheapGrader(), tmp_path / "b", options)
    a, b = kit.derived(tmp_path / "a"), kit.derived(tmp_path / "b")
    assert a == b and len(a) == 40 + 6
    again = kit.grade(forty, tmp_path / "a")
    assert (again.graded, again.reused, again.changes) == (0, 40, ()) and kit.derived(tmp_path / "a") == a
    assert len(read_journal(tmp_path / "a" / JOURNAL)) == 41, "an unchanged run adds nothing"
    assert len(list((tmp_path / "b" / "logs").glob("learner-*.log"))) == 40


def test_corrupt_entries_leave_the_others_as_they_are(tmp_path: Path) -> None:
    kit.cohort(tmp_path / "good", 18)
    alone = rows(kit.grade(tmp_path / "good", tmp_path / "alone").book)
    shutil.copytree(tmp_path / "good", tmp_path / "mixed")
    (tmp_path / "mixed" / "bad-zip.zip").write_bytes(b"PK\x03\x04 torn")
    (tmp_path / "mixed" / "bad-link").symlink_to("/etc")
    os.mkfifo(tmp_path / "mixed" / "bad-pipe")
    run = kit.grade(tmp_path / "mixed", tmp_path / "book")
    mixed = rows(run.book)
    assert {name: row for name, row in mixed.items() if name in alone} == alone
    for name in ("bad-zip", "bad-link", "bad-pipe"):
        row = mixed[name]
        assert row.status == REFUSED and "refused" in row.error and row.report is None
        assert row.error.split(",")[0] in kit.page(tmp_path / "book", name).replace("&#39;", "'")
    assert "bad-zip" in (tmp_path / "book" / "gradebook.csv").read_text()


def test_a_crash_costs_its_own_submission_only(tmp_path: Path) -> None:
    kit.cohort(tmp_path / "subs", 6)
    for name, act in (("x-exits", "exit"), ("x-killed", "kill"), ("x-raises", "raise"), ("x-hangs", "hang")):
        kit.tiny(tmp_path / "subs" / name, 99, act__txt=act)
    grader = kit.CheapGrader(tmp_path / "calls")
    mapper = Pool(2, 4, grader.warm, tmp_path / "log", grader.preload).map_tasks
    run = grade_cohort(collect([tmp_path / "subs"]), grader, tmp_path / "book", Options(mapper=mapper))
    found = rows(run.book)
    crashed = {name: row.error for name, row in found.items() if row.status == CRASHED}
    assert crashed == {
        "x-exits": "Not scored: the grading process ended with exit code 3.",
        "x-killed": "Not scored: the grading process ended by signal 9.",
        "x-raises": "Not scored: the grader stopped with RuntimeError: planted.",
        "x-hangs": "Not scored: the grader was stopped after 4 s.",
    }
    kit.cohort(tmp_path / "six", 6)
    alone = rows(kit.grade(tmp_path / "six", tmp_path / "alone").book)
    assert {name: row for name, row in found.items() if name in alone} == alone
    shutil.rmtree(tmp_path / "subs" / "x-hangs")
    (tmp_path / "subs" / "x-raises" / "act.txt").unlink()
    again = grade_cohort(collect([tmp_path / "subs"]), grader, tmp_path / "book", Options(mapper=mapper))
    assert again.graded == 3 and again.reused == 6, "what crashed is tried again, what was finished is not"
    assert rows(again.book)["x-raises"].report is not None and "x-hangs" not in rows(again.book)
    assert not (tmp_path / "book" / "learners" / "x-hangs").exists()
    assert {c.learner: c.why for c in again.changes}["x-raises"][0] == "another submission"


def test_workers_that_cannot_start_leave_reasons(tmp_path: Path) -> None:
    pool = Pool(2, 5, _no_start, tmp_path / "log")
    found = dict(pool.map_tasks(len, ["a", "bb"]))
    assert found == dict.fromkeys(["a", "bb"], Crash("the grading process does not start; its log says why"))
    assert "planted start" in (tmp_path / "log").read_text()


def _no_start() -> None:
    raise RuntimeError("planted start")


def test_a_regrade_is_shown_before_it_is_written(tmp_path: Path) -> None:
    subs = kit.cohort(tmp_path / "subs", 6)
    kit.grade(subs, tmp_path / "book")
    before = kit.derived(tmp_path / "book")
    harder = kit.CheapGrader(version="2", harder=("rag.hit_rate",))
    with pytest.raises(UsageError, match="another grader"):
        kit.grade(subs, tmp_path / "book", harder)
    with pytest.raises(UsageError, match="another set of tiers"):
        kit.grade(subs, tmp_path / "book", kit.CheapGrader(tiers=("static", "executed")))
    shown = kit.grade(subs, tmp_path / "book", harder, regrade=True, commit=False)
    assert kit.derived(tmp_path / "book") == before and not shown.committed and shown.graded == 6
    old = rows(kit.grade(subs, tmp_path / "book").book)
    for change in shown.changes:
        assert change.before == old[change.learner].final and change.before - change.after == 2.0
        assert change.why[:3] == ("retrieval_works: 2 to 0 points", "gate source_in_top_3: pass to fail",
                                  "rule rag.hit_rate: pass to fail")  # fmt: skip
    failed = {name for name, row in old.items() for f in row.report.findings if f.rule == "rag.hit_rate" and not f.ok}
    assert {change.learner for change in shown.changes} == set(old) - failed
    written_now = kit.grade(subs, tmp_path / "book", harder, regrade=True)
    assert written_now.graded == 0 and written_now.changes == shown.changes and kit.derived(tmp_path / "book") != before


def test_a_policy_holds_until_another_is_named(tmp_path: Path) -> None:
    """A run without one, of this lab or of the next, must not give back what lateness took."""
    kit.tiny(tmp_path / "subs" / "ann", 1)
    (tmp_path / "subs" / "who.csv").write_text("learner,path,submitted\nann,ann,2026-11-02T10:00:00Z\n")
    late, strict = (Policy.model_validate({"due": {"06": "2026-11-01T00:00:00Z"}, "late": {"per_day": share}})
                    for share in (0.1, 0.5))  # fmt: skip

    def taken(policy: Policy | None, module: str = "06") -> list[float]:
        run = grade_cohort(collect([tmp_path / "subs" / "who.csv"]), kit.CheapGrader(module=module), tmp_path / "book",
                           Options(mapper=inline, policy=policy))  # fmt: skip
        assert build(read_journal(tmp_path / "book" / JOURNAL)) == run.book
        return [lab.rows[0].taken_off for lab in run.book.labs]

    assert taken(None) == [0] and taken(late) == taken(None) == [3.4]
    assert taken(None, "03") == [0, 3.4] and taken(strict, "03") == [0, 17]
    assert taken(late) == [0, 3.4], "the same run of this lab as before, and yet another policy than the last one"
    assert taken(Policy()) == taken(None) == [0, 0]


def test_reviews_survive_a_regrade_and_not_another_submission(tmp_path: Path) -> None:
    subs = kit.cohort(tmp_path / "subs", 3)
    book = kit.grade(subs, tmp_path / "book").book
    row = rows(book)["learner-01"]
    with Journal(tmp_path / "book" / JOURNAL) as journal:
        journal.append("review", learner="learner-01", module="06", criterion="readme_clear", digest=row.digest,
                       points=0.5, reason="no results", who="R. Reviewer", when="2026-11-20T10:00:00Z")  # fmt: skip
    reviewed = rows(kit.grade(subs, tmp_path / "book").book)["learner-01"]
    assert reviewed.final == row.final + 0.5
    after = rows(kit.grade(subs, tmp_path / "book", kit.CheapGrader(version="2"), regrade=True).book)["learner-01"]
    line = next(line for line in after.ledger if line.criterion == "readme_clear")
    assert (line.reviewer, line.final, line.reason, line.who) == (0.5, 0.5, "no results", "R. Reviewer")
    assert sum(line.final or 0 for line in after.ledger) == after.final
    (subs / "learner-01" / "README.md").write_text("# Another\n")
    other = rows(kit.grade(subs, tmp_path / "book", kit.CheapGrader(version="2")).book)["learner-01"]
    assert other.final == row.final and "earlier submission" in other.notes[0]


def test_equal_submissions_are_graded_once_and_flagged(tmp_path: Path) -> None:
    subs = kit.cohort(tmp_path / "subs", 2)
    shutil.copytree(subs / "learner-00", subs / "zoe")
    run = kit.grade(subs, tmp_path / "book", kit.CheapGrader(tmp_path / "calls"))
    assert run.graded == 2 and len((tmp_path / "calls").read_text().split()) == 2
    assert [(p.first, p.second) for p in run.book.labs[0].pairs] == [("learner-00", "zoe")]
    assert rows(run.book)["zoe"].final == rows(run.book)["learner-00"].final


def fake_reexecute(path: Path, module: str, seed: int, out: Path) -> list[Finding]:
    """Reads the files that it is given, and decides one rule that waits."""
    assert module == "06" and seed == 7 and (path / "README.md").is_file() and str(out).endswith(out.name)
    number = int((path / "README.md").read_text().split()[3])
    if number == 2:
        raise RuntimeError("planted")
    return [Finding("rag.notebook", Outcome.FAIL if number == 1 else Outcome.PASS, "Ran again.", fix="Run it.")]


class TwoTiers(kit.CheapGrader):
    """The cheap grader first, in which the notebook waits, and then a re-execution of the course's own kind."""

    def identity(self, tier: str) -> dict[str, str]:
        return {**super().identity(tier), "tier": tier}

    def grade(self, submission: Submission, tier: str) -> list[Finding]:
        if tier == "executed":
            return LabGrader("06", fake_reexecute).grade(submission, tier)
        found = super().grade(submission, tier)
        return [replace(f, outcome=Outcome.SKIPPED) if f.rule == "rag.notebook" else f for f in found]


def test_re_execution_comes_second_and_decides_what_waited(tmp_path: Path) -> None:
    for number in range(3):
        kit.tiny(tmp_path / "subs" / f"l{number}", number)
    events: list[str] = []
    grader = TwoTiers(tiers=("static", "executed"))
    run = grade_cohort(collect([tmp_path / "subs"]), grader, tmp_path / "book", Options(mapper=inline),
                       lambda event: events.append(event.get("tier", "")))  # fmt: skip
    assert events == ["", *["static"] * 3, *["executed"] * 3]
    found = [c for row in rows(run.book).values() for c in row.report.criteria if c.id == "notebook_ran"]
    assert [(c.outcome, c.earned, c.pending, c.unscored) for c in found] == [
        ("pass", 1, 0, 0), ("fail", 0, 0, 0), ("error", 0, 0, 1)]  # fmt: skip
    waiting = kit.grade(tmp_path / "subs", tmp_path / "static", TwoTiers())
    assert all(row.report.pending == 4 for row in rows(waiting.book).values())


class Flagging(kit.CheapGrader):
    def grade(self, submission: Submission, tier: str) -> list[Finding]:
        flag = Finding("rerun.constants", Outcome.FAIL, "Not computed.", evidence={"flag": "hard-coded results"})
        return [*super().grade(submission, tier), *([flag] if "2" in submission.name else [])]


def test_a_flag_is_named_first_and_costs_nothing_by_itself(tmp_path: Path) -> None:
    subs = kit.cohort(tmp_path / "subs", 4)
    plain, flagged = (kit.grade(subs, tmp_path / name, grader) for name, grader in
                      (("a", kit.CheapGrader()), ("b", Flagging())))  # fmt: skip
    assert [row.final for row in plain.book.labs[0].rows] == [row.final for row in flagged.book.labs[0].rows]
    looks = {look.what: look.examples for look in look_first(flagged.book)}
    assert looks["1 submission flagged: hard-coded results"] == (("learner-02", "learner-02"),)
    assert not any("flagged" in look.what for look in look_first(plain.book))


def test_the_course_grader_scores_as_alone_and_offline(tmp_path: Path) -> None:
    """One exemplar through workers, the real checkers and the command line."""
    import exemplars

    from course_lib.grade import grade_submission

    exemplars.Flow(tmp_path / "subs" / "ann").run()
    (tmp_path / "subs" / "bob").mkdir()
    done = CliRunner().invoke(cli.app, ["grade", str(tmp_path / "subs"), "--out", str(tmp_path / "book"), "--json",
                                        "--static", "--workers", "1",
                                        "--certificates", str(tmp_path / "key.pem")])  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0 and [e["event"] for e in events] == ["start", "graded", "graded", "summary"]
    assert events[1].keys() >= {"done", "total", "left_s", "learner"} and events[3]["passed"] == 1
    book = json.loads((tmp_path / "book" / "gradebook.json").read_text())
    alone = grade_submission(tmp_path / "subs" / "ann")
    ann, bob = book["labs"][0]["rows"]
    assert ann["points"] == alone.points and ann["criteria"] == {c.id: c.earned for c in alone.criteria}
    assert bob["points"] == 0 and bob["status"] == "graded"
    done = CliRunner().invoke(cli.app, ["grade", str(tmp_path / "subs"), "--out", str(tmp_path / "book"), "--resume",
                                        "--static"])  # fmt: skip
    assert done.exit_code == 0 and "2 known from the journal" in done.stdout and "Look here first" in done.stdout


@pytest.mark.parametrize(("words", "says"), [
    (["--resume"], "nothing to resume"), (["--commit"], "belongs to --regrade"), (["--gold", "x"], "belong together"),
    (["--static"], "no submission here"),
    (["--static", "--unsafe-no-sandbox"], "does not go with static checks"),
])  # fmt: skip
def test_wrong_options_are_explained(tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(cli.app, ["grade", str(tmp_path / "empty"), "--out", str(tmp_path / "book"), *words])
    assert isinstance(done.exception, UsageError) and says in done.exception.what


def test_without_a_sandbox_it_refuses_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "available", lambda: (False, "bubblewrap is not installed"))
    kit.tiny(tmp_path / "subs" / "ann", 1)
    words = ["grade", str(tmp_path / "subs"), "--out", str(tmp_path / "book")]
    done = CliRunner().invoke(cli.app, words)
    assert isinstance(done.exception, ExecutionError) and "not installed" in done.exception.where
    for way in ("apt install bubblewrap", "course doctor", "--static", "--unsafe-no-sandbox"):
        assert way in done.exception.fix
    assert not (tmp_path / "book" / JOURNAL).exists(), "refused before anything was graded"


@pytest.mark.parametrize(("words", "asks", "tiers", "stamp"), [
    ([], True, 2, ""), ([], False, 1, ""), (["--static"], True, 1, ""), (["--execute"], False, 2, ""),
    (["--unsafe-no-sandbox"], True, 2, "Notebooks were executed without a sandbox."),
])  # fmt: skip
def test_the_rubric_asks_for_the_second_tier_and_the_command_line_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], asks: bool, tiers: int, stamp: str
) -> None:
    made: list[LabGrader] = []

    def cheap(*given: object, **named: object) -> kit.CheapGrader:
        made.append(LabGrader(*given, **named))  # type: ignore[arg-type]
        return kit.CheapGrader(stamp=made[0].stamp)

    rubric = cohort.cached_rubric("06")
    monkeypatch.setattr(cohort, "cached_rubric", lambda module: rubric if asks else rubric.model_copy(
        update={"rerun": None}))  # fmt: skip
    monkeypatch.setattr(cohort, "LabGrader", cheap)
    monkeypatch.setattr(sandbox, "available", lambda: ("--unsafe-no-sandbox" not in words, "there is none"))
    kit.tiny(tmp_path / "subs" / "ann", 1)
    done = CliRunner().invoke(cli.app, ["grade", str(tmp_path / "subs"), "--out", str(tmp_path / "book"), *words])
    assert done.exit_code == 0 and len(made[0].tiers) == tiers and made[0].stamp == stamp
    assert (stamp or "without a sandbox") in (tmp_path / "book" / "index.html").read_text() or not stamp
    if stamp:
        assert made[0].reexecute.unsafe and not made[0].reexecute.sandboxed


def test_files_are_written_out_for_execution_inside_the_folder(tmp_path: Path) -> None:
    submission = Submission("x", {"a/b.md": b"1", "c": b"2"})
    folder = written(submission, tmp_path / "new")
    assert Submission.open(folder).digest() == submission.digest()
