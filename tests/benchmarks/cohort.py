"""How fast a cohort is graded, and whether a killed run loses anything. Prints JSON; run it on an idle machine.

    python tests/benchmarks/cohort.py [--size 300] [--again 200] [--kills 50] [--workers 2] [--keep FOLDER]

The cohort is made of the exemplars of lab 06. Each copy gets a README and a notebook cell of its own, and asks two
questions in words of its own, searched for real: what a grader can share between learners is the corpus, not the work.
``static_300_s`` is the whole command with --static in a new process, imports and pages included, on an empty gradebook.
``rerun_200_s`` is the command again on an unchanged cohort of 200.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import cohort_kit
import exemplars
from graded import edit, edit_row, rows


def vary(base: Path, folder: Path, number: int, index: object) -> None:
    """A copy that another learner could have handed in."""
    shutil.copytree(base, folder)
    name = f"learner {number}"
    with (folder / "README.md").open("a") as stream:
        stream.write(f"\n## Notes of {name}\n\nI asked two questions of my own, {number} and {number + 1}.\n")
    code = "".join(f"def step_{k}(rows):\n    return [row for row in rows if len(row) > {number + k} and row[{k}]]\n"
                   for k in range(number % 7 + 3))  # fmt: skip

    def add(notebook: dict[str, object]) -> None:
        cells = notebook["cells"]
        assert isinstance(cells, list)
        cells.append({"cell_type": "code", "id": f"own{number}", "metadata": {}, "source": code, "outputs": [],
                      "execution_count": max(c.get("execution_count") or 0 for c in cells) + 1})  # fmt: skip

    edit(folder, "lab.ipynb", add)
    try:
        cases = rows(folder, "rag_eval_cases.jsonl")
    except ValueError:
        return
    for line in (0, 1):
        question = f"{cases[line]['question'].rstrip('?')}, asks {name}?"
        found = index.search(question, cases[line]["user"]).chunk_ids  # type: ignore[attr-defined]
        edit_row(folder, "rag_eval_cases.jsonl", line, lambda row, q=question: row.update(question=q))
        if base.name != "malformed_jsonl":
            edit_row(folder, "rag_eval_rows.jsonl", line, lambda row, f=found: row.update(retrieved=list(f)))


def make(folder: Path, size: int) -> Path:
    """``size`` submissions, varied from all exemplars in turn."""
    from course_lib.corpus import load_corpus
    from course_lib.embeddings import default_embedder
    from course_lib.retrieval import Index

    made = exemplars.build_all(folder / "exemplars")
    index = Index.build(load_corpus(), default_embedder(), 90, 15, audit_key=b"benchmark")
    names = sorted(made)
    for number in range(size):
        vary(made[names[number % len(names)]], folder / "cohort" / f"learner-{number:03d}", number, index)
    index.close()
    return folder / "cohort"


def timed(folder: Path, out: Path, workers: int) -> float:
    """Seconds of ``course grade`` in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", "from course_lib.cli import main; main()", "grade", str(folder),
                           "--out", str(out), "--workers", str(workers), "--json", "--static"],
                          capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"course grade failed: {done.stderr}{done.stdout[-500:]}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("size", 300), ("again", 200), ("kills", 50), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--keep", type=Path, help="Leave cohort and gradebooks here.")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = wanted.keep or Path(temporary)
        result: dict[str, float] = {}
        if wanted.size:
            folder = work / "cohort" if (work / "cohort").exists() else make(work, wanted.size)
            shutil.rmtree(work / "all", ignore_errors=True)
            result[f"static_{wanted.size}_s"] = round(timed(folder, work / "all", wanted.workers), 2)
            some = work / "some"
            shutil.rmtree(some, ignore_errors=True)
            for path in sorted(folder.iterdir())[: wanted.again]:
                shutil.copytree(path, some / path.name)
            shutil.rmtree(work / "again", ignore_errors=True)
            timed(some, work / "again", wanted.workers)
            result[f"rerun_{wanted.again}_s"] = round(timed(some, work / "again", wanted.workers), 2)
        if wanted.kills:
            folder = cohort_kit.cohort(Path(temporary) / "forty", 40)
            result |= cohort_kit.kill_and_resume(folder, Path(temporary) / "kills", wanted.kills)
        print(json.dumps({**result, "workers": wanted.workers}, indent=1))


if __name__ == "__main__":
    main()
