"""Submissions of lab 03: one that passes, made by running the lab, and one for each way of failing.

Training takes a minute, so the lab runs once. Every other folder is a copy of that run in which code did what a learner
with this mistake, or with this intention, would have done; each function says what. ``reseal`` writes the hashes of the
chain anew with the times as they were: the forger who knows about the chain and not about the rest.

    python tests/exemplars_tuning.py FOLDER        writes all of them
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graded import change_copies, edit, replace_text, rows
from lab_runs import first_run

from course_lib.evidence import CHAIN, START, sha256
from course_lib.measure import wilson

ADAPTER, CONFIG = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
ROWS = ("baseline_rows.jsonl", "tuned_rows.jsonl", "rollback_rows.jsonl")
Json = dict[str, Any]


def write(folder: Path, name: str, entries: list[Json]) -> None:
    (folder / name).write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in entries), "utf-8")


def reseal(folder: Path) -> None:
    """Results that name plan and adapter as they are now, and a chain with the old times and new hashes."""
    raw, plan = (folder / ADAPTER).read_bytes(), (folder / "plan.json").read_bytes()
    edit(folder, "results.json", lambda r: r.update(plan_sha256=sha256(plan),
                                                    adapter={"sha256": sha256(raw), "bytes": len(raw)}))  # fmt: skip
    chain([(e["step"], e["file"], e["at"]) for e in rows(folder, CHAIN)], folder)


def chain(links: list[tuple[str, str, str]], folder: Path) -> None:
    """A chain of (step, file, time) over the files as they are."""
    lines, previous = [], START
    for step, file, at in links:
        line = json.dumps({"step": step, "file": file, "sha256": sha256((folder / file).read_bytes()), "at": at,
                           "previous": previous})  # fmt: skip
        lines.append(line)
        previous = sha256(line.encode())
    (folder / CHAIN).write_text("\n".join(lines) + "\n")


def recount(folder: Path) -> None:
    """Tokens in metrics and cost notes as rows and log give them now."""
    old = json.loads((folder / "metrics.json").read_text())
    made = sum(len(row["tokens"]) for name in ROWS for row in rows(folder, name))
    new = old | {"tokens_out": made, "tokens_in": int(rows(folder, "training_log.jsonl")[-1]["num_tokens"])}
    (folder / "metrics.json").write_text(json.dumps(new) + "\n")
    for name in ("tokens_in", "tokens_out"):
        replace_text(folder, "cost-notes.md", f"{old[name]}", f"{new[name]}")


def edit_thresholds(folder: Path) -> None:
    """The results are known, and the gate is made easier in plan.json."""
    edit(folder, "plan.json", lambda p: p["thresholds"].update(least_gain=0.05))


def edit_and_reseal(folder: Path) -> None:
    """As before, and the whole chain is written anew in one go, with fresh times and fitting hashes everywhere."""
    edit_thresholds(folder)
    reseal(folder)
    links = [(e["step"], e["file"], f"2026-11-25T09:00:00.00{n}000+00:00") for n, e in enumerate(rows(folder, CHAIN))]
    chain(links, folder)


def baseline_last(folder: Path) -> None:
    """Trained first, and the base asked when somebody remembered it."""
    kept = {e["step"]: e for e in rows(folder, CHAIN)}
    order = ("plan", "training_log", "adapter", "tuned", "baseline", "results")
    times = sorted(e["at"] for e in kept.values())
    chain([(step, kept[step]["file"], at) for step, at in zip(order, times, strict=True)], folder)


def silence_the_base(folder: Path) -> None:
    """Answers of the base that are wrong anyway are handed in as empty: asking it was not worth the time."""
    for name in ("baseline_rows.jsonl", "rollback_rows.jsonl"):
        write(folder, name, [row if row["right"] else {**row, "tokens": [], "answer": "", "ended": True}
                             for row in rows(folder, name)])  # fmt: skip
    recount(folder)
    listed = {r["id"]: r for r in rows(folder, "regressions.jsonl")}
    said = {row["id"]: row["answer"] for row in rows(folder, "baseline_rows.jsonl")}
    write(folder, "regressions.jsonl", [{**r, "before": said[r["id"]]} for r in listed.values()])
    reseal(folder)


def another_adapter(folder: Path) -> None:
    """The matrices of a run that learnt something else: as large as these, and about nothing of this lab."""
    import torch
    from safetensors.torch import load_file, save_file

    chance = torch.Generator().manual_seed(1)
    found = load_file(str(folder / ADAPTER))
    other = {name: torch.randn(t.shape, generator=chance) * t.std() for name, t in found.items()}
    save_file(other, str(folder / ADAPTER), {"format": "pt"})
    reseal(folder)


def other_rank(folder: Path) -> None:
    """A configuration of another try beside the matrices of this one."""
    edit(folder, CONFIG, lambda c: c.update(r=8, lora_alpha=16))


def pickled(folder: Path) -> None:
    """The adapter as a pickle that would run a command when somebody loads it."""
    (folder / ADAPTER).write_bytes(pickle.dumps(_Bomb()))
    reseal(folder)


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, ("opened",)  # type: ignore[return-value]


def kind_judge(folder: Path) -> None:
    """Three wrong answers are called right, "because they are nearly right"."""
    changed, left = rows(folder, "tuned_rows.jsonl"), 3
    for row in changed:
        if row["set"] == "locked" and not row["right"] and left:
            row["right"], left = True, left - 1
    write(folder, "tuned_rows.jsonl", changed)
    reseal(folder)


def unpaired(folder: Path) -> None:
    """The interval of two separate groups, as if base and tuned had answered different cases; the report quotes it."""
    def change(results: Json) -> None:
        found = results["locked"]
        before, after = (wilson(found[name], found["n"]) for name in ("base_right", "tuned_right"))
        new = {"low": round(after[0] - before[1], 4), "high": round(after[1] - before[0], 4)}
        for name in ("experiment-report.md", "README.md"):
            replace_text(folder, name, f"interval {found['low']:.4f} to {found['high']:.4f}",
                         f"interval {new['low']:.4f} to {new['high']:.4f}")  # fmt: skip
        found.update(new)

    edit(folder, "results.json", change)
    reseal(folder)


def hard_ones_left_out(folder: Path) -> None:
    """Ten locked cases that the tuned model gets wrong are not in its rows any more."""
    changed, left = [], 10
    for row in rows(folder, "tuned_rows.jsonl"):
        if row["set"] == "locked" and not row["right"] and left:
            left -= 1
            continue
        changed.append(row)
    write(folder, "tuned_rows.jsonl", changed)
    recount(folder)
    reseal(folder)


def leak(folder: Path) -> None:
    """Three locked cases among the training rows, one of them in capitals."""
    from course_lib.finetune import load_cases

    found = rows(folder, "training_data.jsonl")
    for number, (case, change) in enumerate(zip(load_cases("locked"), (str, str.upper, str), strict=False)):
        found[number]["messages"][1]["content"] = change(case["messages"][1]["content"])
        found[number]["messages"][2]["content"] = case["reply"]
    write(folder, "training_data.jsonl", found)


def hide_the_damage(folder: Path) -> None:
    """The regressions are left out of the list, and two harmless failures stand in it."""
    list_harmless(folder, 2)


def list_harmless(folder: Path, count: int) -> None:
    """Regressions replaced by locked cases that were wrong before and still are, in the list and in the report."""
    from course_lib.checks.tuning import severity
    from course_lib.finetune import load_cases

    cases = {case["id"]: case for case in load_cases("locked")}
    before, after = ({r["id"]: r for r in rows(folder, name)} for name in ROWS[:2])
    wrong = [n for n in cases if not after[n]["right"] and not before[n]["right"]][:count]
    write(folder, "regressions.jsonl", [
        {"id": n, "set": "locked", "kind": "remaining", "severity": severity(cases[n], after[n]["answer"]),
         "expected": cases[n]["reply"], "before": before[n]["answer"], "after": after[n]["answer"],
         "cause": "the model is still small", "fix": "a larger model may help"} for n in wrong])  # fmt: skip
    text = "".join(f"\n- {n}: the model is still small." for n in wrong)
    mark = "were right before and are wrong now."
    replace_text(folder, "experiment-report.md", mark, f"{mark}{text}")


def never_rolled_back(folder: Path) -> None:
    """The rollback rows are the tuned answers: the adapter was never taken off, and the report says that it was."""
    shutil.copyfile(folder / "tuned_rows.jsonl", folder / "rollback_rows.jsonl")
    recount(folder)


def released_anyway(folder: Path) -> None:
    """A strict threshold, sealed in time, is not met; the decision is to release all the same."""
    edit(folder, "plan.json", lambda p: p["thresholds"].update(least_gain=0.95))
    replace_text(folder, "lab.ipynb", '\\"least_gain\\": 0.20', '\\"least_gain\\": 0.95')
    reseal(folder)


def no_spot_checks(folder: Path) -> None:
    """Only the locked cases were asked; the other sets are nowhere, and refusals are simply claimed."""
    for name in ROWS:
        write(folder, name, [row for row in rows(folder, name) if row["set"] == "locked"])
    edit(folder, "plan.json", lambda p: p["cases"].update(general=[], refusal=[]))
    recount(folder)
    count, nothing = len(rows(folder, ROWS[0])), {"n": 0, "before": 0, "after": 0, "lost": 0, "won": 0}
    edit(folder, "results.json", lambda r: r.update(general=nothing, refusal=nothing,
                                                    rollback={"asked": count, "equal": count}))  # fmt: skip
    list_harmless(folder, 3)
    reseal(folder)


def cut_the_log(folder: Path) -> None:
    """The log ends where the loss looked best."""
    write(folder, "training_log.jsonl", rows(folder, "training_log.jsonl")[:10])
    recount(folder)
    last = rows(folder, "training_log.jsonl")[-1]
    text = (folder / "experiment-report.md").read_text("utf-8")
    begin, rest = text.split("## Training", 1)
    body, end = rest.split("## ", 1)
    body = body.rstrip() + f" Last record: loss {last['loss']:.4f} at step {last['step']}.\n\n"
    (folder / "experiment-report.md").write_text(f"{begin}## Training{body}## {end}", "utf-8")
    reseal(folder)


def anonymous_machine(folder: Path) -> None:
    """Versions were not worth writing down."""
    edit(folder, "environment.json", lambda e: e.update(versions={"torch": "2"}))


def cut_a_row(folder: Path) -> None:
    """Half a line in the tuned rows, as after a full disk; sealed as it is."""
    path = folder / "tuned_rows.jsonl"
    lines = path.read_text("utf-8").split("\n")
    lines[2] = lines[2][: len(lines[2]) // 2]
    path.write_text("\n".join(lines), "utf-8")
    reseal(folder)


CHANGES: dict[str, Callable[[Path], Any]] = {
    "thresholds_edited": edit_thresholds,
    "thresholds_edited_and_resealed": edit_and_reseal,
    "baseline_after_training": baseline_last,
    "baseline_silenced": silence_the_base,
    "another_adapter": another_adapter,
    "other_rank": other_rank,
    "pickled_adapter": pickled,
    "kind_judge": kind_judge,
    "unpaired_interval": unpaired,
    "hard_cases_left_out": hard_ones_left_out,
    "leaked_rows": leak,
    "damage_hidden": hide_the_damage,
    "never_rolled_back": never_rolled_back,
    "released_anyway": released_anyway,
    "no_spot_checks": no_spot_checks,
    "log_cut": cut_the_log,
    "no_versions": anonymous_machine,
    "malformed_rows": cut_a_row,
    "missing_report": lambda folder: (folder / "experiment-report.md").unlink(),
}
NAMES = ("passing", *CHANGES)


def build_all(folder: Path) -> dict[str, Path]:
    """All of them; each changed one starts from the passing one."""
    made = {"passing": Path(shutil.copytree(first_run("03"), folder / "passing"))}
    return change_copies(made, folder, CHANGES)


if __name__ == "__main__":
    import sys

    build_all(Path(sys.argv[1]).resolve())
