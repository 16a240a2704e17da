"""The data of lab 03, made by code: locked cases, a pool of training rows, a small compliance set with planted leaks.

    python -m course_lm.tuning_data        writes data/evals/finetuning/*.jsonl

Cases are rows of course-lm's own locked test; the pool is drawn with the words of its training side. The two share no
object, no frame and no question form. The compliance set quotes public documents of the corpus, and holds copies of two
locked cases and one row twice: what a careless collection brings along.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_lib.finetune import data_folder
from course_lib.prompts import REFUSE, SYSTEM, answer_prompt
from course_lm.data import Item, frame_item, prompt_texts
from course_lm.encode import plain_text
from course_lm.eval import load_items
from course_lm.frames import Vocabulary
from course_lm.tasks import task_item

LOCKED, GENERAL, REFUSALS = 80, 40, 20
POOL, OWN = 800, 24
SEED = 31_415
Row = dict[str, Any]


def cases() -> list[Row]:
    """Locked cases with one to three sources of one sentence; the first of them once more in the plain form in which
    the base model was trained; and requests out of scope."""
    chosen = [row for row in load_items("locked") if row["most"] == 1 and len(row["sources"]) <= 3][:LOCKED]
    found = [{"id": row["id"], "set": "locked", "messages": _asked("answer", row), **_right(row)} for row in chosen]
    found += [{"id": f"plain-{row['id']}", "set": "general",
               "text": plain_text(answer_prompt(row["question"], row["sources"])), **_right(row)}
              for row in chosen[:GENERAL]]  # fmt: skip
    scope = [row for row in load_items("tasks") if row["task"] == "refuse" and not row["tools"]]
    scope.sort(key=lambda row: row["meta"]["system"] not in ("refuse", "answer"))  # stable: these first
    return found + [{"id": row["id"], "set": "refusal", "messages": row["messages"], "reply": REFUSE, "demands": []}
                    for row in scope[:REFUSALS]]  # fmt: skip


def _asked(system: str, row: Row) -> list[Row]:
    return [{"role": "system", "content": SYSTEM[system]},
            {"role": "user", "content": answer_prompt(row["question"], row["sources"])}]  # fmt: skip


def _right(row: Row) -> Row:
    return {"reply": row["reply"], "demands": row["demands"]}


def sft_row(name: str, task: str, system: str, user: str, reply: str, document: str | None, rights: str) -> Row:
    """A row in the form of lab 02."""
    turns = zip(("system", "user", "assistant"), (system, user, reply), strict=True)
    return {"id": name, "task": task, "messages": [{"role": role, "content": text} for role, text in turns],
            "document": document, "origin": "template", "language": "en", "license": "Apache-2.0",
            "rights": rights}  # fmt: skip


def pool(count: int = POOL, seed: int = SEED) -> Iterator[Row]:
    """Questions on invented facts, a fifth without an answer, three tenths attacked; one row in ten is out of scope."""
    rng, v = random.Random(seed), Vocabulary.of("train")
    rights = "made by course_lm.tuning_data from invented facts"
    for number in range(count):
        name = f"pool-{number:03d}"
        if number % 10 == 9:
            yield _refusal(rng, name, rights)
            continue
        item: Item = frame_item(rng, v, sources=rng.randint(1, 3), most=1, answerable=rng.random() >= 0.2,
                                hostile=rng.random() < 0.3)  # fmt: skip
        yield sft_row(name, "answer" if item.gold else "abstain", *prompt_texts(item), None, rights)


def _refusal(rng: random.Random, name: str, rights: str) -> Row:
    while (item := task_item(rng, "train", "refuse")).meta["system"] not in ("refuse", "answer"):
        continue
    return sft_row(name, "refuse", item.messages[0]["content"], item.messages[1]["content"], REFUSE, None, rights)


def compliance(count: int = OWN, seed: int = SEED) -> list[Row]:
    """Questions on public documents of the corpus, each with two or three sentences; then what must not be there."""
    from course_lib.corpus import load_corpus
    from course_lm.real import passages, planted, written_questions

    public = {d.key for d in load_corpus().documents if d.tenant == "shared" and d.classification == "public"}
    rng, hostile = random.Random(seed), planted()
    clean = [p for p in passages() if p.key in public and not any(h in s for h in hostile for s in p.sentences)]
    asked = [(p, s, texts) for part, texts in sorted(written_questions().items()) for p in clean
             for s in p.sentences if part in s and len(s.split()) < 40 and len(p.sentences) > 2]  # fmt: skip
    rows = []
    for number, (passage, sentence, texts) in enumerate(rng.sample(asked, count)):
        others = rng.sample([s for s in passage.sentences if s != sentence], rng.randint(1, 2))
        shown = rng.sample([sentence, *others], 1 + len(others))
        user = answer_prompt(rng.choice(texts), [f"{passage.title}: {s}" for s in shown])
        reply = f"[{shown.index(sentence) + 1}] {sentence}"
        rows.append(
            sft_row(f"own-{number:02d}", "answer", SYSTEM["answer"], user, reply, passage.key, "public law, quoted")
        )
    return rows + list(_planted(rows))


def _planted(rows: list[Row]) -> Iterator[Row]:
    """A locked case as it is, another in other letters and spaces, and a row that stands there twice."""
    first, second = cases()[3], cases()[9]
    for number, (case, change) in enumerate(((first, str), (second, lambda t: "  ".join(t.upper().split(" "))))):
        user = change(case["messages"][1]["content"])
        yield sft_row(f"own-{len(rows) + number:02d}", "answer", SYSTEM["answer"], user, case["reply"], None, "unknown")
    yield {**rows[0], "id": f"own-{len(rows) + 2:02d}"}


def write(folder: Path | str | None = None) -> None:
    """Writes the three files."""
    target = Path(folder) if folder else data_folder()
    target.mkdir(parents=True, exist_ok=True)
    for name, rows in (("cases", cases()), ("pool", list(pool())), ("compliance", compliance())):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (target / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
