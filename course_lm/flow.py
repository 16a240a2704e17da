"""course-lm in the real flow: the course's index, access rules and prompts, on the retrieval evaluation's questions."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from course_lib.rag import QUOTE_HITS, QUOTES

if TYPE_CHECKING:
    import anthropic

    from course_lib.corpus import Question
    from course_lib.rag import Answer
    from course_lib.retrieval import Index
    from course_lm.real import Passage


def measure_flow(
    client: anthropic.Anthropic, model: str, split: str = "dev", quotes: int | None = QUOTES, *, limit: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:  # fmt: skip
    """Ask every question of ``split`` as its user, with the ``quotes`` best sentences of ``QUOTE_HITS`` hits.

    Returns {n, metrics, failed, failures, rows, ranker: SHA-256 of the sentence ranker's file}. limit: only the first
    questions, 0 for all. tick: called after each.
    correct: the cited document is one of the expected ones and an accepted span stands in the answer; for a question
    without an answer, the abstention. reachable: an accepted span stood in the sources at all. well_formed: one valid
    citation or an abstention. verbatim: the quotation stands in the cited source.

    abstain_unrelated: the same questions, each beside sentences drawn at random (``unrelated``), abstained.
    """
    from course_lib.citations import is_abstention
    from course_lib.corpus import load_corpus, load_questions
    from course_lib.models import file_sha256, model_folder
    from course_lib.rag import answer
    from course_lib.ranker import FILE
    from course_lib.retrieval import Index
    from course_lm.eval import ask, share
    from course_lm.real import clean_passages

    corpus = load_corpus()
    index = Index.build(corpus)
    users = {user.id: user for user in corpus.users}
    passages, rows, unmoved = clean_passages(), [], []
    try:
        for question in load_questions(split)[: limit or None]:
            found = index.search(question.question, users[question.user], k=QUOTE_HITS)
            reply = answer(client, model, question.question, found, index=index, quotes=quotes)
            keys = dict(zip(found.chunk_ids, found.doc_keys, strict=True))
            rows.append(_row(question, reply, [keys[chunk] for chunk in reply.cited]))
            other = {"question": question.question, "sources": unrelated(question, index, passages)}
            unmoved.append(is_abstention(ask(client, model, other)))
            tick()
    finally:
        index.close()
    answerable = [row for row in rows if row["answerable"]]
    silent = [row for row in rows if not row["answerable"]]
    metrics = {
        "correct": share(row["correct"] for row in answerable),
        "correct_when_reachable": share(row["correct"] for row in answerable if row["reachable"]),
        "reachable": share(row["reachable"] for row in answerable),
        "cited_right": share(row["cited_right"] for row in answerable),
        "false_abstain": share(row["abstained"] for row in answerable),
        "abstain_recall": share(row["abstained"] for row in silent),
        "well_formed": share(row["well_formed"] for row in rows),
        "verbatim": share(row["verbatim"] for row in rows),
        "abstain_unrelated": share(unmoved),
    }
    for kind in sorted({row["kind"] for row in rows}):
        metrics[f"correct_{kind}"] = share(row["correct"] for row in rows if row["kind"] == kind)
    failures = [{"id": row["id"], "severity": "medium", "question": row["question"], "got": row["answer"]}
                for row in rows if not row["correct"]]  # fmt: skip
    return {"n": len(rows), "metrics": {k: m for k, m in metrics.items() if m}, "failed": len(failures),
            "failures": failures[:40], "rows": rows, "ranker": file_sha256(model_folder() / FILE)}  # fmt: skip


def unrelated(question: Question, index: Index, passages: Collection[Passage], count: int = QUOTES) -> list[str]:
    """``count`` sources of one sentence that the asker may read, from documents that do not answer ``question``.

    Drawn at random, by the question's id as the seed. One can fit by chance; none of those expected is there.
    """
    rng, readable = random.Random(question.id), index.permitted(question.user).keys
    titles = {index.documents[key].title for key in question.expected_docs}
    others = [p for p in passages if p.key in readable and p.title not in titles]
    return [f"{p.title}: {rng.choice(p.sentences)}" for p in rng.sample(others, count)]


def _row(question: Question, reply: Answer, cited_docs: list[str]) -> dict[str, Any]:
    """What one answer got right."""
    from course_lib.rag import quote_supported, without_citations

    text = reply.text.lower()
    cited_right = bool(cited_docs) and all(key in question.expected_docs for key in cited_docs)
    spans = any(span.lower() in text for span in question.answers)
    quoted = [reply.sources[number - 1] for number in reply.citation_numbers]
    return {
        "id": question.id, "kind": question.kind, "question": question.question, "answer": reply.text,
        "answerable": not question.abstain, "abstained": reply.abstained, "cited_right": cited_right,
        "reachable": any(span.lower() in " ".join(reply.sources).lower() for span in question.answers),
        "correct": reply.abstained if question.abstain else cited_right and spans,
        "well_formed": reply.abstained or (len(reply.citation_numbers) == 1 and not reply.invalid_citations),
        "verbatim": reply.abstained or (any(quote_supported(without_citations(reply.text), q) for q in quoted)),
    }  # fmt: skip
