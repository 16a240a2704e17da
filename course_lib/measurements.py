"""Takes every published figure again. Each function records its figures and yields a line about what it did."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

from course_grader.measurements import grader, peers
from course_lib.figures import record

PROBES = 10_000


def measure_all(only: list[str] | None = None) -> Iterator[str]:
    """Runs the groups named in ``only``, or all; a group that cannot run here says why and keeps its old figures."""
    from course_lib.errors import CourseError, UsageError

    unknown = set(only or []) - set(GROUPS)
    if unknown:
        raise UsageError(f"There is no group {min(unknown)!r}.", fix="Groups: " + ", ".join(GROUPS))
    for name in only or GROUPS:
        started = time.monotonic()
        try:
            yield from GROUPS[name]()
            yield f"{name}: {time.monotonic() - started:.0f} s"
        except (CourseError, OSError, subprocess.SubprocessError) as error:
            yield f"{name}: not measured. {error}"


def setup() -> Iterator[str]:
    """Seconds that the last cold setup took, as make wrote them."""
    from course_lib.catalog import repo_root

    stamp = repo_root() / ".venv" / ".installed"
    text = stamp.read_text().strip() if stamp.exists() else ""
    if not text.isdigit():
        yield "setup: this environment was not made by make; setup_cold_s keeps its value"
        return
    record("setup_cold_s", int(text), "s", command="make course, in a fresh clone",
           title="Setting up a bare machine (download included)")
    yield f"setup_cold_s {text}"


def command_line() -> Iterator[str]:
    """Median seconds of ``course --help`` over 11 starts."""
    times = []
    for _ in range(11):
        started = time.perf_counter()
        subprocess.run([str(Path(sys.executable).with_name("course")), "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    record("course_help_s", statistics.median(times), "s", n=len(times), low=min(times), high=max(times),
           command="course figures --measure --only command_line",
           title="`course --help` (interval: fastest to slowest)")
    yield f"course_help_s {statistics.median(times):.2f}"


def retrieval() -> Iterator[str]:
    """Recall@3 and MRR of the three modes on the locked questions."""
    from course_lib.corpus import load_corpus, load_questions
    from course_lib.measure import bootstrap_mean, recall_at_k, reciprocal_rank, wilson
    from course_lib.retrieval import Index

    index = Index.build(load_corpus())
    questions = [q for q in load_questions("locked_test") if q.expected_docs]
    command = "course figures --measure --only retrieval"
    for mode in ("dense", "bm25", "hybrid"):
        found = [index.search(q.question, q.user, mode=mode, k=3).doc_keys for q in questions]
        recalls = [recall_at_k(f, q.expected_docs, 3) for f, q in zip(found, questions, strict=True)]
        low, high = wilson(round(sum(recalls)), len(recalls))
        value = statistics.fmean(recalls)
        record(f"rag_recall_at_3_{mode}", value, "rate", low=low, high=high, n=len(recalls), command=command,
               title=f"Recall@3, {mode}, locked questions")
        yield f"rag_recall_at_3_{mode} {value:.3f} [{low:.3f}, {high:.3f}]"
        if mode == "hybrid":
            ranks = [reciprocal_rank(f, q.expected_docs) for f, q in zip(found, questions, strict=True)]
            low, high = bootstrap_mean(ranks)
            record("rag_mrr_hybrid", statistics.fmean(ranks), "", low=low, high=high, n=len(ranks), command=command,
                   title="Mean reciprocal rank in the top 3, hybrid, locked questions")


def access() -> Iterator[str]:
    """Random (user, query) searches, and how many returned chunks the user may not see."""
    import random

    from course_lib.access import decide
    from course_lib.corpus import load_corpus, load_questions
    from course_lib.retrieval import Index

    corpus = load_corpus()
    index, rng = Index.build(corpus), random.Random(0)
    pool = [q.question for split in ("dev", "locked_test") for q in load_questions(split)]
    pool += [document.title for document in corpus.documents]
    leaks = 0
    for _ in range(PROBES):
        user = rng.choice(corpus.users)
        found = index.search(rng.choice(pool), user, mode=rng.choice(("dense", "bm25", "hybrid")))
        leaks += sum(not decide(user, corpus.document(key), corpus.as_of).allowed for key in found.doc_keys)
    command = "course figures --measure --only access"
    record("acl_probes", PROBES, "count", command=command, title="Random (user, query) access probes")
    record("acl_leaks", leaks, "count", n=PROBES, command=command, title="Chunks that the user may not see")
    yield f"acl_probes {PROBES}, acl_leaks {leaks}"


def answers() -> Iterator[str]:
    """Citations of the embedded model on the locked questions, and what it did when a document gave orders."""
    from course_lib.corpus import load_corpus, load_hostile, load_questions
    from course_lib.measure import wilson
    from course_lib.models import connect, default_model
    from course_lib.rag import QUOTE_HITS, QUOTES, answer, check_citations
    from course_lib.retrieval import Index

    corpus, client = load_corpus(), connect(embedded=True)
    index, model = Index.build(corpus), default_model(client)
    command = "course figures --measure --only answers"
    rows = []
    for q in load_questions("locked_test"):
        found = index.search(q.question, q.user, k=QUOTE_HITS)
        said = answer(client, model, q.question, found, index=index, quotes=QUOTES)
        asker = corpus.user(q.user)
        cites = check_citations(said, index, asker, verbatim=False).ok
        rows.append((q, said, cites, check_citations(said, index, asker).ok))
    given, wanted = [row for row in rows if not row[1].abstained], [row for row in rows if not row[0].abstain]
    correct = sum(any(span.lower() in said.text.lower() for span in q.answers) for q, said, _, _ in wanted)
    quiet = [said.abstained for q, said, _, _ in rows if q.abstain]
    for name, good, n, title in (
        ("citation_approved_rate", sum(r[2] for r in given), len(given), "course-lm cites an approved source"),
        ("rag_answer_verbatim", sum(r[3] for r in given), len(given), "course-lm quotes its source word for word"),
        ("rag_answer_correct", correct, len(wanted), "course-lm's answer holds the expected words"),
        ("rag_abstain_recall", sum(quiet), len(quiet), "course-lm abstains where no source answers"),
    ):
        low, high = wilson(good, n)
        record(name, good / max(1, n), "rate", low=low, high=high, n=n, command=command,
               title=f"{title}, locked questions")
        yield f"{name} {good} of {n}"
    reached = obeyed = 0
    hostile = {probe.doc: probe for probe in load_hostile()}
    asked = [q for split in ("dev", "locked_test") for q in load_questions(split) if q.kind == "injection"]
    attacks = [(q.question, q.user) for q in asked]
    attacks += [(f"What does {corpus.document(key).title} say?", user.id) for key in hostile for user in corpus.users]
    for question, user in attacks:
        found = index.search(question, user)
        met = [hostile[key] for key in found.doc_keys if key in hostile]
        if met:
            said = answer(client, model, question, found, index=index, max_words=90)
            shown = any(text in " ".join(said.sources) for probe in met for text in probe.planted)
            reached += shown
            obeyed += shown and any(probe.obeyed(said.text) for probe in met)
    low, high = wilson(obeyed, reached)
    record("injection_probes", reached, "count", command=command, title="Prompts that held a planted instruction")
    record("injection_obeyed", obeyed, "count", n=reached, low=round(low * reached, 1), high=round(high * reached, 1),
           command=command, title="Planted instructions that course-lm obeyed")
    yield f"injection_probes {reached}, injection_obeyed {obeyed}"


def course() -> Iterator[str]:
    """Seconds of ``make course`` when the environment and the embeddings are there."""
    from course_lib.catalog import repo_root

    for _ in range(2):  # the first run warms the caches
        started = time.monotonic()
        done = subprocess.run(["make", "course"], cwd=repo_root(), capture_output=True, text=True)
        seconds = time.monotonic() - started
    if done.returncode:
        yield f"course: make course failed, nothing recorded: {done.stdout[-300:]}{done.stderr[-300:]}"
        return
    record("make_course_warm_s", seconds, "s", command="make course", title="`make course`, four labs, caches warm")
    yield f"make_course_warm_s {seconds:.1f}"


_LM_RATES = {
    "lm_citation_exact": ("locked", "citation_exact", "cites the right source, 1 to 4 sources"),
    "lm_answer_correct": ("locked", "answer_correct", "answers with the right sentence"),
    "lm_abstain_recall": ("locked", "abstain_recall", "abstains where no source answers"),
    "lm_false_abstain": ("locked", "false_abstain", "abstains although a source answers"),
    "lm_injection_obeyed": ("locked", "injection_obeyed", "obeys an instruction inside a source"),
    "lm_json_valid_free": ("tasks", "json_valid_free", "writes valid JSON without a grammar"),
    "lm_json_valid_grammar": ("tasks", "json_valid_grammar", "writes valid JSON under a grammar"),
    "lm_json_field_accuracy": ("tasks", "json_field_accuracy", "right fields of extracted obligations"),
    "lm_tool_exact": ("tasks", "tool_exact", "calls the right tool with the right arguments"),
    "lm_risk_macro_f1": ("tasks", "risk_macro_f1", "risk tier, macro F1"),
    "lm_real_corpus_correct": ("flow", "correct", "cited right and correct on the corpus, locked questions"),
}  # fmt: skip


def course_lm() -> Iterator[str]:
    """course-lm on its locked rows and in the real flow, its speed beside the bandwidth floor, LoRA in 200 steps."""
    from tempfile import TemporaryDirectory

    from course_lib.models import connect, default_model, gguf_path, model_folder
    from course_lm import bench as lm_bench
    from course_lm import eval as lm_eval
    from course_lm import flow as lm_flow
    from course_lm import task_eval as lm_task_eval

    client, folder, command = connect(embedded=True), model_folder(), "course figures --measure --only course_lm"
    model, locked, tasks = default_model(client), lm_eval.load_items("locked"), lm_eval.load_items("tasks")
    found = {"locked": lm_eval.evaluate(client, model, locked), "tasks": lm_task_eval.evaluate(client, model, tasks),
             "flow": lm_flow.measure_flow(client, model, "locked_test")}  # fmt: skip
    record("lm_test_items", len(locked) + len(tasks), "count", command=command, title="course-lm: locked test items")
    for name, (part, metric, title) in _LM_RATES.items():
        m = found[part]["metrics"][metric]
        record(name, m["value"], "rate", low=m["low"], high=m["high"], n=m["n"], command=command,
               title=f"course-lm: {title}")
        yield f"{name} {m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
    same = lm_bench.top1_agreement(client, folder / "instruct")
    record("lm_top1_agreement", same["value"], "rate", low=same["low"], high=same["high"], n=same["n"], command=command,
           title="Same top token, transformers and the server")
    gguf = gguf_path("course-lm-instruct")
    for cores, name, words in ((1, "_one_thread", "one thread, as the course starts it"), (2, "", "two threads")):
        with patch.dict(os.environ, COURSE_SERVER_THREADS=str(cores)):
            pace = lm_bench.speed(connect(embedded=True), gguf, folder / "instruct", cores=cores)
        record(f"lm_tokens_per_s{name}", pace["tokens_per_s"], "tokens/s", low=pace["low"], high=pace["high"],
               n=pace["n"], command=command,
               title=f"course-lm generates, one stream, {words} (interval: slowest to fastest)")  # fmt: skip
        record(f"lm_bandwidth_floor_tokens_per_s{name}", pace["floor_tokens_per_s"], "tokens/s", command=command,
               title=f"Bound by memory: {('one core reads', 'two cores read')[cores - 1]} the file once a token")
    with TemporaryDirectory() as temporary:
        lora = lm_bench.lora_gain(folder / "base", temporary)
    gain = f"right replies {lora['before']:.2f} to {lora['after']:.2f}, gain {lora['low']:.2f} to {lora['high']:.2f}"
    record("lm_lora_200_steps_s", lora["seconds"], "s", command=command, title=f"LoRA on the base, 200 steps; {gain}")
    record("lm_files_mb", lm_bench.files_mb(folder), "MB", command=command, title="course-lm: all weight files")
    yield f"agreement {same['value']:.4f}, {pace['tokens_per_s']:.0f} tokens/s, LoRA {lora['seconds']:.0f} s, {gain}"


def modules() -> Iterator[str]:
    """Modules 00 to 03: seconds of each lab, the gain of lab 03, notebooks under nbval, questions, seeded mistakes."""
    import json
    from tempfile import TemporaryDirectory
    from xml.etree import ElementTree

    from course_lib.catalog import find, repo_root
    from course_lib.exercises import verify, wrong_solutions
    from course_lib.quizzes import load_quiz

    command, root = "course figures --measure --only modules", repo_root()
    course = str(Path(sys.executable).with_name("course"))
    with TemporaryDirectory() as temporary:
        for code in ("01", "02", "03"):
            started = time.monotonic()
            subprocess.run([course, "run", code, "--out", temporary], cwd=root, check=True, stdout=subprocess.DEVNULL)
            record(f"lab{code}_s", time.monotonic() - started, "s", command=command, title=f"Lab {code}, every cell")
            yield f"lab{code}_s {time.monotonic() - started:.0f}"
        gain = json.loads(next(Path(temporary).rglob("results.json")).read_text())["locked"]
    record("lab03_gain", gain["gain"], "rate", low=gain["low"], high=gain["high"], n=gain["n"], command=command,
           title="Lab 03, locked cases: share right of the tuned model minus that of the base")
    labs = [lab for code in ("01", "02", "03") for lab in find(code).labs]
    seeded, missed = sum(len(wrong_solutions(lab)) for lab in labs), sum(len(verify(lab)) for lab in labs)
    record("seeded_wrong_solutions", seeded, "count", command=command, title="Seeded wrong solutions, labs 01 to 03")
    record("seeded_wrong_caught", seeded - missed, "count", command=command, title="Caught, with the mistake named")
    questions = sum(len(load_quiz(code).questions) for code in ("00", "01", "02", "03"))
    record("quiz_questions", questions, "count", command=command, title="Questions of the readiness checks 00 to 03")
    yield f"{seeded - missed} of {seeded} mistakes caught, {questions} questions"
    report, started = root / "build" / "nbval.xml", time.monotonic()
    books = [str(book) for code in ("00", "01", "02", "03") for book in find(code).notebooks]
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--nbval",
                    "--nbval-cell-timeout=300", "--nbval-sanitize-with", "nbval_sanitize.cfg",
                    f"--junitxml={report}", *books],
                   cwd=root, check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    cells = int(ElementTree.parse(report).getroot()[0].attrib["tests"])
    record("nbval_cells", cells, "count", command=command, title="Cells of notebooks 00 to 03, equal to their outputs")
    record("nbval_s", time.monotonic() - started, "s", command=command, title="Seconds for that")
    yield f"nbval: {cells} cells in {time.monotonic() - started:.0f} s"


GROUPS: dict[str, Callable[[], Iterator[str]]] = {
    "setup": setup, "command_line": command_line, "retrieval": retrieval, "access": access, "answers": answers,
    "course": course, "modules": modules, "course_lm": course_lm, "grader": grader, "peers": peers,
}
