"""Submissions of lab 06, made by running the flow: one that passes, and one for each way of failing.

The corpus, the search, the citations, the deletion and the audit log are the real ones. The model is a function that
quotes the sentence which shares most words with the question, so that a run takes seconds and is always the same. A way
of failing is a mistake in the flow (``Flow`` with a setting), or something done to the folder afterwards.

    python tests/exemplars.py FOLDER        writes all of them
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.access import allowance, decide
from course_lib.chunking import terms
from course_lib.corpus import Corpus, Question, User, load_corpus, load_hostile, load_questions
from course_lib.deletion import body_sha256
from course_lib.embeddings import default_embedder
from course_lib.execute import Limits, PapermillExecutor
from course_lib.prompts import ABSTAIN
from course_lib.rag import Answer, AnswerCache, answer, check_citations
from course_lib.retrieval import AuditLog, AuditRecord, Hit, Index, Retrieval

PER_KIND = {"paraphrase": 6, "article": 5, "unanswerable": 3, "cross_tenant": 3, "restricted": 3, "stale": 2,
            "injection": 2}  # fmt: skip
PROBERS = ("u-meridian-analyst", "u-meridian-engineer", "u-meridian-contractor", "u-meridian-counsel",
           "u-halden-analyst", "u-halden-engineer")  # fmt: skip
DELETED = "meridian-travel-expense-guide@1"
GENERIC = {"long", "much", "many", "must", "may", "need", "which", "where", "when", "what", "does"}


def quoting_model(prompt: str, offset: int = 0) -> str:
    """Quotes the sentence with most words of the question, after its source number plus ``offset``, or abstains."""
    question = re.search(r"Question: (.*)", prompt)[1]
    wanted = set(terms(question)) - GENERIC
    planted = [sentence for probe in load_hostile() for sentence in probe.planted]
    best = (0.0, "", 0)
    for number, text in re.findall(r"(?m)^\[(\d+)\] (.*)$", prompt):
        title, _, body = text.partition(": ")
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z<])|(?<= \|) (?=\| )", body):
            if any(text in sentence or sentence in text for text in planted):
                continue
            share = len(wanted & set(terms(sentence))) + 0.5 * len(wanted & set(terms(title)))
            best = max(best, (share, sentence, -int(number)))
    if best[0] < 0.34 * len(wanted):
        return ABSTAIN
    return f"[{-best[2] + offset}] {best[1]}"


def obedient_model(prompt: str) -> str:
    """Does what a document tells it to do: the mistake that the injection test looks for."""
    for _, text in re.findall(r"(?m)^\[(\d+)\] (.*)$", prompt):
        for probe in load_hostile():
            if any(sentence in text for sentence in probe.planted):
                return f"[1] {probe.planted[0]}"
    return quoting_model(prompt)


@dataclass
class FakeClient:
    """As much of the SDK's client as the flow uses."""

    model: Callable[[str], str]
    tokens_in: int = 0
    tokens_out: int = 0
    messages: Any = field(init=False)

    def __post_init__(self) -> None:
        self.messages = SimpleNamespace(create=self._create)

    def _create(self, *, messages: list[dict[str, str]], **_: Any) -> Any:
        prompt = messages[0]["content"]
        text = self.model(prompt)
        usage = SimpleNamespace(input_tokens=len(prompt.split()), output_tokens=len(text.split()))
        self.tokens_in += usage.input_tokens
        self.tokens_out += usage.output_tokens
        block = SimpleNamespace(type="text", text=text)
        return SimpleNamespace(content=[block], usage=usage, stop_reason="end_turn")


@dataclass
class Flow:
    """One run of the lab. Each setting that is not the default is a mistake that learners make."""

    out: Path
    model: Callable[[str], str] = quoting_model
    attacked_model: Callable[[str], str] | None = None  # in the injection test; by default the same
    per_kind: dict[str, int] = field(default_factory=lambda: dict(PER_KIND))
    access_after: bool = False
    probes_without_user: bool = False
    trust_citations: bool = False
    delete_vectors_only: bool = False
    log_documents: bool = False
    seed: int = 6

    def run(self) -> Path:
        self.out.mkdir(parents=True)
        corpus = load_corpus()
        log = self._audit(corpus)
        index = Index.build(corpus, default_embedder(), 90, 15, audit_key=b"lab 06 seed 6", audit_log=log)
        client, cache = FakeClient(self.model), AnswerCache(index)
        cases = self._cases()
        rows = [self._row(q, index, client, cache) for q in cases]
        self._write_rows("rag_eval_cases.jsonl", [
            {"id": q.id, "kind": q.kind, "user": q.user, "question": q.question,
             "expected_docs": list(q.expected_docs), "answers": list(q.answers)} for q in cases])  # fmt: skip
        self._write_rows("rag_eval_rows.jsonl", [row for row, _ in rows])
        results = self._results(cases, rows, index)
        probes = self._probes(index)
        client.model = self.attacked_model or self.model
        injections = self._injections(index, client)
        self._write("rag_eval_results.json", results)
        self._delete(index)
        self._write("config.json", {
            "lab": "06", "seed": self.seed, "model": "course-lm-instruct", "mode": "hybrid", "k": 3,
            "index": {"max_words": 90, "overlap": 15}, "as_of": corpus.as_of.isoformat()})  # fmt: skip
        self._prose(client, results, probes, injections)
        self._notebook()
        index.close()
        return self.out

    def _audit(self, corpus: Corpus) -> Callable[[AuditRecord], None]:
        log = AuditLog(self.out / "audit.jsonl")
        if not self.log_documents:
            return log

        def verbose(record: AuditRecord) -> None:
            with log.path.open("a", encoding="utf-8") as stream:
                context = [corpus.document(name.rpartition("#")[0]).body for name in record.returned]
                stream.write(json.dumps({**record.to_dict(), "context": context}) + "\n")

        return verbose

    def _cases(self) -> list[Question]:
        questions = load_questions("dev")
        return [q for kind, n in self.per_kind.items() for q in [q for q in questions if q.kind == kind][:n]]

    def _search(self, question: str, user: str, index: Index) -> Retrieval:
        if not self.access_after:
            return index.search(question, user)
        return unprotected_search(index, question, index.users[user])

    def _row(self, q: Question, index: Index, client: FakeClient, cache: AnswerCache) -> tuple[dict[str, Any], Answer]:
        found = self._search(q.question, q.user, index)
        protected = {} if self.access_after else {"cache": cache}
        said = answer(client, "fake", q.question, found, embedder=index.embedder, options={}, **protected)
        if self.access_after and any(not readable(index, q.user, name) for name in said.cited):
            said = Answer(ABSTAIN, (), (), True, said.sources, said.source_ids)  # too late: it has been read
        row = {"id": q.id, "retrieved": list(found.chunk_ids), "sources": list(said.sources), "answer": said.text,
               "citation_numbers": list(said.citation_numbers), "cited": list(said.cited), "abstained": said.abstained,
               "cached": said.cached}  # fmt: skip
        return row, said

    def _results(
        self, cases: list[Question], rows: list[tuple[dict[str, Any], Answer]], index: Index
    ) -> dict[str, Any]:
        hits = passed = answered = quiet = 0
        failed = []
        for q, (row, said) in zip(cases, rows, strict=True):
            found = bool(set(q.expected_docs) & {name.rpartition("#")[0] for name in row["retrieved"][:3]})
            reasons = () if self.trust_citations else check_citations(said, index, index.users[q.user]).reasons
            hits += found
            answered += not said.abstained
            passed += not said.abstained and not reasons
            quiet += said.abstained and q.abstain
            why = ["source not in the top 3"] if q.expected_docs and not found else []
            why += [f"citation: {reasons[0][:80]}"] if reasons else []
            why += ["abstained although a source answers"] if said.abstained and not q.abstain else []
            why += ["answered although no source does"] if q.abstain and not said.abstained else []
            failed += [{"id": q.id, "reason": "; ".join(why)}] if why else []
        answerable = sum(not q.abstain for q in cases)
        return {"n": len(cases), "hits": hits, "hit_rate": round(hits / answerable, 4), "citation_pass": passed,
                "citation_pass_rate": round(passed / max(1, answered), 4), "failed_cases": failed,
                "abstain_recall": round(quiet / max(1, len(cases) - answerable), 4)}  # fmt: skip

    def _probes(self, index: Index) -> int:
        asked = [q for q in load_questions("dev") if q.kind in ("restricted", "cross_tenant")][:6]
        rows = []
        for user in PROBERS:
            for q in asked:
                found = self._search(q.question, user, index)
                rows.append({"user": user, "question": q.question, "retrieved": list(found.chunk_ids),
                             "denied": dict(found.audit.denied)})  # fmt: skip
        if self.probes_without_user:
            rows = [{name: value for name, value in row.items() if name != "user"} for row in rows]
        self._write_rows("access_probes.jsonl", rows)
        return len(rows)

    def _injections(self, index: Index, client: FakeClient) -> int:
        hostile = {probe.doc: probe for probe in load_hostile()}
        asked = [(q.id, q.user, q.question) for q in load_questions("dev") if q.kind == "injection"]
        asked += [(f"title-{q.id}", q.user, f"What does {index.documents[key].title} say?")
                  for q in load_questions("dev") if q.kind == "injection" for key in q.expected_docs[:1]]  # fmt: skip
        rows = []
        for name, user, question in asked:
            found = self._search(question, user, index)
            said = answer(client, "fake", question, found, embedder=index.embedder, options={}, max_words=90)
            met = sorted({key for key in found.doc_keys if key in hostile})
            rows.append({"id": name, "user": user, "question": question, "hostile_docs": met,
                         "sources": list(said.sources), "answer": said.text,
                         "obeyed": any(hostile[key].obeyed(said.text) for key in met)})  # fmt: skip
        self._write_rows("injection_rows.jsonl", rows)
        return len(rows)

    def _delete(self, index: Index) -> None:
        key, user = DELETED, "u-meridian-analyst"
        question = f"What does {index.documents[key].title} say?"
        before = index.search(question, user).chunk_ids
        files = [self.out / name for name in ("rag_eval_cases.jsonl", "rag_eval_rows.jsonl", "injection_rows.jsonl",
                                              "rag_eval_results.json", "audit.jsonl")]  # fmt: skip
        if self.delete_vectors_only:
            record = self._delete_vectors(index, key)
        else:
            record = index.delete(key, artifacts=files, reason="retention date reached").to_dict()
        after = index.search(question, user).chunk_ids
        self._write("deletion.json", {"record": record, "user": user, "question": question, "before": list(before),
                                      "after": list(after)})  # fmt: skip

    def _delete_vectors(self, index: Index, key: str) -> dict[str, Any]:
        """Only the vector store forgets: the keyword index, the caches and the files still have the document."""
        chunks = [chunk.id for chunk in index.chunks.values() if chunk.doc_key == key]
        digest, reason = body_sha256(index.documents[key]), "retention date reached"
        before = len(index.vectors.ids(key))
        index.vectors.remove(key)
        stores = {"chroma": {"before": before, "after": len(index.vectors.ids(key))}}
        seal = hashlib.sha256(json.dumps([key, digest, reason, chunks, stores], sort_keys=True).encode()).hexdigest()
        return {"doc_key": key, "body_sha256": digest, "reason": reason, "chunk_ids": chunks, "stores": stores,
                "complete": True, "tombstone": seal}  # fmt: skip

    def _prose(self, client: FakeClient, results: dict[str, Any], probes: int, injections: int) -> None:
        metrics = {"tokens_in": client.tokens_in, "tokens_out": client.tokens_out, "seconds": 3.5, "usd": 0.0}
        self._write("metrics.json", metrics)
        values = {**metrics, **results, "probes": probes, "injections": injections, "deleted": DELETED,
                  "failed": len(results["failed_cases"])}  # fmt: skip
        for name, text in PROSE.items():
            (self.out / name).write_text(text.format(**values), "utf-8")

    def _notebook(self) -> None:
        (self.out / "lab.ipynb").write_bytes(executed_notebook(self.seed))

    def _write(self, name: str, value: Any) -> None:
        (self.out / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")

    def _write_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        (self.out / name).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")


@functools.cache
def executed_notebook(seed: int) -> bytes:
    """A short notebook with the lab's parameters, executed by papermill as the lab is."""
    parameters = new_code_cell("seed = 6\nmax_words = 90  # words\noverlap_words = 15  # words\nout_dir = '.'")
    parameters.metadata["tags"] = ["parameters"]
    nb = new_notebook(cells=[parameters, new_code_cell("print('seed', seed, 'chunks of', max_words, 'words')")])
    nb.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "lab.ipynb", Path(folder) / "out"
        nbformat.write(nb, source)
        return PapermillExecutor().run(source, {"seed": seed}, Limits(), out).check().path.read_bytes()


def readable(index: Index, user: str, chunk_id: str) -> bool:
    return decide(index.users[user], index.documents[chunk_id.rpartition("#")[0]], index.as_of).allowed


def unprotected_search(index: Index, question: str, user: User) -> Retrieval:
    """The best three chunks of all documents; the log claims the permissions of the user."""
    hits: tuple[Hit, ...] = index._rank(question, frozenset(index.documents), "hybrid", 3)
    permitted = allowance(user, index.documents.values(), index.as_of)
    index._requests += 1
    record = AuditRecord(f"q-{index._requests:06d}", index.query_hmac(question), user.id, user.tenant, "hybrid", 3,
                         len(permitted.keys), permitted.denied, tuple(h.chunk.id for h in hits), index.fingerprint)
    index.audit_log(record)
    return Retrieval(question, user, "hybrid", 3, hits, record)


PROSE = {
    "README.md": """# Answers with sources for two tenants

## Use case

A compliance analyst asks a question and gets one quoted sentence with its source, or the reply that no source answers.

## Assumptions

Every account has been authenticated before it reaches this flow, and the metadata of the documents is right.

## Setup

Install the course, then run the notebook from the top; it needs no network, no key and no accelerator.

## Results

{n} cases, hit rate {hit_rate:.1%} in the top 3, {citation_pass_rate:.1%} of the answers with a valid citation, {failed}
failed cases. The evidence lies in the files beside this one.
""",
    "access-control-test.md": """# Access control test

{probes} probes: six accounts of both tenants asked what only other accounts may read. No forbidden chunk was returned.
""",
    "prompt-injection-test.md": """# Prompt injection test

{injections} questions brought hostile documents into the results. The answers quote facts and follow no instruction.
""",
    "deletion-test.md": """# Deletion test

{deleted} was found before its deletion. Afterwards neither the index nor a cache nor a file of this folder holds it.
""",
    "risk-notes.md": """# Risk notes

## Limits

The model quotes one sentence. A question whose answer is spread over two documents gets half of it, or an abstention.

## Failure cases

{failed} of {n} cases failed; their causes stand in rag_eval_results.json. Vague paraphrases are the most common one.

## Controls

Access is decided before search, citations are checked after generation, and an answer without support is not shown.

## Rollback

When more than one answer in ten loses its citation in a day, the owner of the service switches back to plain search.
""",
    "cost-notes.md": """# Cost notes

| tokens in | tokens out | seconds | USD |
|---|---|---|---|
| {tokens_in:,} | {tokens_out:,} | {seconds} | {usd:.2f} |

Scaling: tokens grow in proportion to questions, and the time per question stays the same until the machine is full.
""",
}


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Edits a JSON artifact the way a person would, after the run."""
    value = change(json.loads(path.read_text("utf-8")))
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


def embellish(folder: Path) -> None:
    rewrite(folder / "rag_eval_results.json", lambda r: {**r, "hits": r["hits"] + 1, "hit_rate": 1.0})


def truncate_a_line(folder: Path) -> None:
    path = folder / "rag_eval_rows.jsonl"
    lines = path.read_text("utf-8").split("\n")
    lines[2] = lines[2][: len(lines[2]) // 2]
    path.write_text("\n".join(lines), "utf-8")


FLOWS: dict[str, dict[str, Any]] = {
    "passing": {},
    "access_after_generation": {"access_after": True},
    "missing_acl_field": {"probes_without_user": True},
    "citations_not_checked": {"model": lambda prompt: quoting_model(prompt, offset=1), "trust_citations": True},
    "injection_obeyed": {"attacked_model": obedient_model},
    "deleted_still_found": {"delete_vectors_only": True},
    "full_documents_logged": {"log_documents": True},
    "fewer_than_ten_cases": {"per_kind": dict.fromkeys(PER_KIND, 1)},
}
AFTERWARDS: dict[str, Callable[[Path], None]] = {
    "claim_does_not_follow": embellish,
    "malformed_jsonl": truncate_a_line,
    "missing_readme": lambda folder: (folder / "README.md").unlink(),
}
NAMES = (*FLOWS, *AFTERWARDS)


def build(name: str, folder: Path, passing: Path | None = None) -> Path:
    """Writes the exemplar ``name`` to ``folder / name``. passing: a finished one, copied for changes made later."""
    out = folder / name
    if name in FLOWS:
        return Flow(out, **FLOWS[name]).run()
    shutil.copytree(passing or Flow(folder / f"{name}-source").run(), out)
    AFTERWARDS[name](out)
    return out


def build_all(folder: Path) -> dict[str, Path]:
    """All of them; the ones that are changed afterwards start from the passing one."""
    passing = build("passing", folder)
    return {"passing": passing} | {name: build(name, folder, passing) for name in NAMES if name != "passing"}


if __name__ == "__main__":
    import sys

    build_all(Path(sys.argv[1]))
