"""The page of a graded submission: complete, inert, equal from run to run, and readable where it is opened."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graded import edit, edit_row

from course_lib.grade import grade_submission
from course_lib.report import points, render_index, render_report, visible, write_index, write_report
from course_lib.rubric import LabReport
from course_lib.types import Finding, Outcome

pytest_plugins = ("exemplar_fixtures",)  # the fixtures made and passing

ATTACKS = (
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned=1'>",
    "<svg onload='window.pwned=1'><image href='http://127.0.0.1:9/x.svg'/></svg>",
    "</style><style>@import url(http://127.0.0.1:9/x.css)</style>",
    "\"' onmouseover=window.pwned=1 x=",
    "{{ 7919 * 7927 }}{% raw %}",
    "<a href='javascript:window.pwned=1'>click</a>",
    "right\u202eelpmis",
)


def attack(folder: Path) -> Path:
    """Plants an attack wherever text of a submission can reach a page."""
    whole = " ".join(ATTACKS)
    target = folder.with_name("<script>window.pwned=2<script> x")
    os.rename(folder, target)
    edit(target, "config.json", lambda c: c.update(model=whole[:150], lab=ATTACKS[0]))
    edit(target, "rag_eval_results.json", lambda r: r["failed_cases"].append({"id": whole[:180], "reason": whole}))
    edit_row(target, "access_probes.jsonl", 0, lambda row: row.update(retrieved=list(ATTACKS), denied={ATTACKS[1]: 1}))
    edit_row(target, "injection_rows.jsonl", 0, lambda row: row.update(hostile_docs=list(ATTACKS)))
    edit_row(target, "audit.jsonl", 1, lambda row: row.update(request_id=ATTACKS[0]))
    edit_row(target, "audit.jsonl", 2, lambda row: row.update(request_id=ATTACKS[0]))
    (target / "README.md").write_text(whole)
    (target / f"{ATTACKS[4]}.log").write_text("x")
    return target


@pytest.fixture
def hostile(copy: Path) -> LabReport:
    return grade_submission(attack(copy))


def test_markup_of_a_submission_is_shown_and_never_interpreted(hostile: LabReport) -> None:
    page = render_report(hostile)
    assert "&lt;script&gt;window.pwned" in page
    body = page.partition("</style>")[2]
    tags = set(re.findall(r"<\s*([a-zA-Z]+)", body))
    assert not tags & {"script", "img", "image", "iframe", "object", "style", "link", "form", "a", "use"}, tags
    assert not re.search(r"<[^>]*\son\w+\s*=", body) and not re.search(r"<[^>]*(src|href|url)\s*=\s*[\"']?http", body)
    assert "62773913" not in re.findall(r"\{\{ 7919 \* 7927 \}\}|62773913", body)
    assert "\u202e" not in page


def test_the_policy_lets_nothing_in_but_the_one_style(made: dict[str, Path]) -> None:
    page = render_report(grade_submission(made["passing"]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "style=" not in page.partition("</style>")[2], "an inline style would be blocked"
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_every_criterion_gate_and_finding_is_on_the_page(made: dict[str, Path]) -> None:
    for name in ("passing", "malformed_jsonl"):
        report = grade_submission(made[name])
        page = render_report(report).replace("&#39;", "'").replace("&#34;", '"')
        for part in (*report.criteria, *report.gates):
            assert part.title in page
        for finding in report.findings:
            assert finding.rule in page and finding.message in page and (finding.ok or finding.fix in page)
        assert report.digest in page and report.rubric_sha256 in page


def test_written_twice_is_written_equal(made: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        written = write_report(grade_submission(made["missing_readme"]), tmp_path / name)
        assert written == tmp_path / name / "report.html"
    for file in ("report.html", "report.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    stored = json.loads((tmp_path / "one" / "report.json").read_text("utf-8"))
    assert stored["points"] == 15 and stored["submission"] == "missing_readme" and len(stored["gates"]) == 6
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["report.html", "report.json"]


def test_grade_submission_writes_where_it_is_told(made: dict[str, Path], tmp_path: Path) -> None:
    report = grade_submission(made["passing"], "06", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8")) == json.loads(report.to_json())


def test_reviewer_points_change_the_page(made: dict[str, Path]) -> None:
    reviews = {"failures_analysed": 1, "risk_judgement": 0.5, "readme_clear": 1}
    page = render_report(grade_submission(made["passing"], reviews=reviews))
    assert "19.5<small> of 20 points" in page and "All 6 gates passed." in page


def test_index_links_stay_inside_and_names_are_inert(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"folder": "/x/a b#?", "module": "06", "points": 17, "pending": 3, "max": 20, "band": "enterprise-ready",
         "gates_failed": [], "error": "", "html": str(tmp_path / "a b#?" / "report.html")},
        {"folder": "/x/javascript:alert(1)", "module": "06", "error": "refused <b>", "band": "could not score",
         "html": str(tmp_path / "javascript:alert(1)" / "report.html")},
        {"folder": "/x/<script>alert(1)</script>", "module": "06", "points": 3, "gates_failed": ["deleted_gone"]},
    ]  # fmt: skip
    page = render_index(rows, tmp_path)
    links = re.findall(r'href="([^"]*)"', page)
    assert links == ["./a%20b%23%3F/report.html", "./javascript%3Aalert%281%29/report.html"]
    assert "<script" not in page and "refused &lt;b&gt;" in page
    assert write_index(rows, tmp_path).read_text("utf-8") == page


def test_text_is_made_visible() -> None:
    assert visible("a\u202eb\u200bc\x00") == "a\\u202eb\\u200bc\\u0000" and visible(3) == 3
    assert [points(value) for value in (3, 2.5, 1 / 3, 0.0)] == ["3", "2.5", "0.33", "0"]


def look(browser: Any, path: Path, width: int, scheme: str = "light") -> dict[str, Any]:
    """What happened when the page was opened: console messages, requests, planted code, and whether it overflows."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen: dict[str, Any] = {"console": [], "requests": []}
    page.on("console", lambda message: seen["console"].append(message.text))
    page.on("pageerror", lambda error: seen["console"].append(str(error)))
    page.on("request", lambda request: seen["requests"].append(request.url))
    page.goto(path.as_uri())
    for element in page.query_selector_all("td, li, h1, code"):
        element.hover(force=True, timeout=2000, no_wait_after=True) if element.is_visible() else None
    seen["pwned"] = page.evaluate("window.pwned ?? null")
    seen["overflow"] = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    seen["background"] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    bars = "[...document.querySelectorAll('rect.fill-earned')].map(rect => rect.getBoundingClientRect().width)"
    seen["bars"] = page.evaluate(bars)
    page.close()
    return seen


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_hostile_report_in_a_browser(browser: Any, hostile: LabReport, tmp_path: Path, width: int) -> None:
    path = write_report(hostile, tmp_path / "out")
    seen = look(browser, path, width)
    assert seen["console"] == [] and seen["requests"] == [path.as_uri()]
    assert seen["pwned"] is None and seen["overflow"] <= 0
    assert seen["bars"][0] > 10, "the style was applied"


@pytest.mark.browser
def test_report_in_light_and_dark(browser: Any, made: dict[str, Path], tmp_path: Path) -> None:
    path = write_report(grade_submission(made["access_after_generation"]), tmp_path)
    light, dark = (look(browser, path, 390, scheme) for scheme in ("light", "dark"))
    assert light["background"] != dark["background"] and light["console"] == dark["console"] == []
    assert light["overflow"] <= 0


@pytest.mark.browser
def test_a_planted_script_would_be_noticed(browser: Any, made: dict[str, Path], tmp_path: Path) -> None:
    """The browser test can fail: without escaping the policy stops the script and the console says so."""
    report = replace(grade_submission(made["passing"]), findings=(Finding("r", Outcome.PASS, "MARK"),))
    page = render_report(report).replace("MARK", ATTACKS[0] + ATTACKS[1])
    (tmp_path / "bad.html").write_text(page, "utf-8")
    seen = look(browser, tmp_path / "bad.html", 1100)
    assert any("Content Security Policy" in text for text in seen["console"]) and seen["pwned"] is None
    (tmp_path / "worse.html").write_text(re.sub(r"<meta http-equiv[^>]*>", "", page), "utf-8")
    assert look(browser, tmp_path / "worse.html", 1100)["pwned"] == 1
