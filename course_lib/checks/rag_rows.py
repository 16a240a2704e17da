"""Lab 06, measurement: the cases, the rows that were retrieved and answered for them, and the numbers claimed from both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import get_args

from course_lib.artifacts import Deletion, RagCase, RagConfig, RagResults, RagRow
from course_lib.checks.common import Context, doc_of, fail, flat, listed, ok, percent, short, verdict
from course_lib.chunking import Chunk
from course_lib.corpus import Kind
from course_lib.deletion import REDACTED
from course_lib.errors import ArtifactError
from course_lib.submission import Incomplete, Row, Submission
from course_lib.types import Finding

TOP = 3
ROUNDING = 0.0051  # a claimed share may be rounded to two decimals


@dataclass(frozen=True, slots=True)
class Pair:
    """A case and the row for it. where: file and line of the row. redacted: a deletion took the answer away."""

    case: RagCase
    row: RagRow
    where: str
    redacted: bool = False

    @property
    def answerable(self) -> bool:
        return bool(self.case.expected_docs)

    @property
    def claimed_hit(self) -> bool:
        return hit(self.case.expected_docs, self.row.retrieved)


def hit(expected: Iterable[str], retrieved: Iterable[str]) -> bool:
    """Whether an expected document stands in the first three results."""
    return bool(set(expected) & {doc_of(name) for name in list(retrieved)[:TOP]})


def load_config(submission: Submission) -> RagConfig:
    return submission.json("config.json", RagConfig)


def known_user(context: Context, name: str, where: str) -> None:
    """Raises Incomplete for an account that does not exist: then nobody can say what it may read."""
    if context.user(name) is None:
        raise Incomplete(f"The account {short(name)!r} does not exist, so access cannot be judged.", where=where,
                         fix="Use the id of an account of users.yaml.")


def load_cases(submission: Submission, context: Context) -> list[Row[RagCase]]:
    cases = submission.jsonl("rag_eval_cases.jsonl", RagCase)
    seen: set[str] = set()
    for case in cases:
        known_user(context, case.value.user, case.where)
        if case.value.id in seen:
            raise Incomplete(f"The case {short(case.value.id)} stands twice.", where=case.where, fix="Keep one of them.")
        seen.add(case.value.id)
    return cases


def load_pairs(submission: Submission, context: Context) -> list[Pair]:
    """Cases with their rows, in the order of the cases. Raises Incomplete when a row is missing, doubled or foreign."""
    cases = load_cases(submission, context)
    rows = {}
    for row in submission.jsonl("rag_eval_rows.jsonl", RagRow):
        if row.value.id in rows:
            raise Incomplete(f"The row {short(row.value.id)} stands twice.", where=row.where, fix="Write one row per case.")
        rows[row.value.id] = row
    foreign = sorted(rows.keys() - {case.value.id for case in cases})
    if foreign:
        raise Incomplete(f"The row {short(foreign[0])} has no case.", where=rows[foreign[0]].where,
                         fix="Write rows for the cases that you hand in.")
    for case in cases:
        if case.value.id not in rows:
            raise Incomplete(f"The case {short(case.value.id)} has no row.", where=case.where,
                             fix="Run every case, also those that you expect to fail.")
    deleted = deleted_key(submission)
    return [_pair(case.value, rows[case.value.id], deleted) for case in cases]


def _pair(case: RagCase, row: Row[RagRow], deleted: str) -> Pair:
    """An answer counts as cleaned only where the deleted document was among the results."""
    redacted = REDACTED in row.value.answer and deleted in map(doc_of, row.value.retrieved)
    return Pair(case, row.value, row.where, redacted)


def deleted_key(submission: Submission) -> str:
    """The document that deletion.json says is gone; empty when the file cannot be read, which is judged elsewhere."""
    try:
        return submission.json("deletion.json", Deletion).record.doc_key
    except ArtifactError:
        return ""


def check_cases(submission: Submission, context: Context) -> list[Finding]:
    """rag.case_count and rag.case_kinds."""
    cases = load_cases(submission, context)
    least = int(context.threshold("rag.case_count"))
    distinct = len({flat(case.value.question) for case in cases})
    answerable = sum(bool(case.value.expected_docs) for case in cases)
    count = verdict(
        "rag.case_count", distinct >= least and 2 * answerable >= least,
        f"{distinct} different cases, {answerable} of them answerable.",
        problem=f"{distinct} different cases, {answerable} of them answerable: too few to measure anything.",
        expected=f"at least {least}, half of that number answerable", actual=f"{distinct}, {answerable} answerable",
        where="rag_eval_cases.jsonl", fix="Add cases of your own; repeated questions count once.",
    )  # fmt: skip
    missing = sorted(set(get_args(Kind)) - {case.value.kind for case in cases})
    unsound = [(row.where, reason) for row in cases if (reason := _unsound(row.value, context))]
    problem = f"No case of kind {listed(missing)}." if missing else ""
    if unsound:
        problem = f"{len(unsound)} cases do not hold against the corpus: {unsound[0][1]}. {problem}".strip()
    kinds = verdict(
        "rag.case_kinds", not missing and not unsound, "Every kind of question is there, and each expectation holds.",
        problem=problem, expected="all kinds: " + ", ".join(get_args(Kind)),
        actual=", ".join(sorted({short(case.value.kind, 20) for case in cases})),
        where=unsound[0][0] if unsound else "rag_eval_cases.jsonl",
        fix="Expected documents must exist, be readable by the user, and contain the expected answers word for word.",
        unsound=[f"{where}: {reason}" for where, reason in unsound[:5]],
    )  # fmt: skip
    return [count, kinds]


def _unsound(case: RagCase, context: Context) -> str:
    """Why a case cannot be what it says: documents, permissions, answers, or a course question that was changed."""
    for key in case.expected_docs:
        denied = context.denial(context.user(case.user), key)
        if denied:
            return f"{case.user} may not read the expected document {short(key)} ({denied})"
    bodies = [flat(context.document(key).body) for key in case.expected_docs]
    for answer in case.answers:
        if answer.strip() != REDACTED and not any(flat(answer) in body for body in bodies):
            return f"the answer {short(answer, 40)!r} stands in no expected document"
    for question in context.questions:
        same = question.user == case.user and flat(question.question) == flat(case.question)
        if same and set(question.expected_docs) != set(case.expected_docs):
            return f"{case.id} expects other documents than the question of the course that it repeats"
    return ""


def check_retrieval(submission: Submission, context: Context) -> list[Finding]:
    """rag.hit_rate and rag.retrieval_recomputed: every case is searched again, under its own user."""
    config, pairs = load_config(submission), load_pairs(submission, context)
    own = {pair.case.id: context.search(config, pair.case.user, pair.case.question).chunk_ids for pair in pairs}
    answerable = [pair for pair in pairs if pair.answerable]
    hits = [pair for pair in answerable if hit(pair.case.expected_docs, own[pair.case.id])]
    least = context.threshold("rag.hit_rate")
    actual = percent(len(hits), len(answerable))
    missed = [pair for pair in answerable if pair not in hits]
    rate = verdict(
        "rag.hit_rate", bool(answerable) and len(hits) >= least * len(answerable),
        f"Searched again: an expected document in the top {TOP} for {actual}.",
        problem=f"Searched again: an expected document in the top {TOP} for {actual} only.",
        expected=f"at least {least:.0%} of answerable cases", actual=actual,
        where=missed[0].where if missed else "rag_eval_cases.jsonl",
        fix="Look at the missed cases: wrong chunk size, wrong mode, or vocabulary that the documents do not use.",
        value=len(hits) / len(answerable) if answerable else 0.0, missed=[short(pair.case.id) for pair in missed[:10]],
    )  # fmt: skip
    different = [pair for pair in pairs if tuple(pair.row.retrieved) != tuple(own[pair.case.id])]
    share = context.threshold("rag.retrieval_recomputed")
    equal = percent(len(pairs) - len(different), len(pairs))
    example = different[0] if different else None
    same = verdict(
        "rag.retrieval_recomputed", bool(pairs) and len(pairs) - len(different) >= share * len(pairs),
        f"Our own search with config.json returns the same chunks in the same order for {equal}.",
        problem=f"Our own search with config.json returns the same chunks for {equal} only.",
        expected=listed(own[example.case.id]) or "no chunk" if example else f"at least {share:.0%} equal",
        actual=listed(example.row.retrieved) or "no chunk" if example else equal, where=example.where if example else "",
        fix="Write what Index.search returned for the case's own user, and record the settings you really used. If nothing "
        "matches, the run was made with another version of the course: run it again.",
        different=[pair.where for pair in different[:10]],
    )  # fmt: skip
    return [rate, same]


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer looked up again. reasons: why its citations do not hold; empty for an abstention as well."""

    pair: Pair
    abstained: bool
    reasons: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """What the lab calls a failed case: a source not found, a citation that does not hold, an answerable case not
        answered, or an unanswerable one answered."""
        missed = self.pair.answerable and not self.pair.claimed_hit
        return missed or bool(self.reasons) or self.abstained == self.pair.answerable


def judge(pair: Pair, config: RagConfig, context: Context) -> Judged:
    """Abstention, citation numbers, permissions and quoted words, from the answer's text alone and not from claims."""
    from course_lib.rag import Answer, check_citations, is_abstention, parse_citations

    row = pair.row
    if is_abstention(row.answer):
        return Judged(pair, True, ())
    found = context.search(config, pair.case.user, pair.case.question)
    numbers = parse_citations(row.answer, min(len(row.sources), len(row.retrieved)))
    cited = tuple(row.retrieved[number - 1] for number in numbers.valid)
    answer = Answer(row.answer, cited, numbers.valid, False, tuple(row.sources), found.chunk_ids,
                    invalid_citations=numbers.invalid)  # fmt: skip
    reasons = list(check_citations(answer, context.index(config), context.user(pair.case.user)).reasons)
    if list(cited) != row.cited or list(numbers.valid) != row.citation_numbers:
        reasons.append(f"claims to cite {listed(row.cited) or 'nothing'}, and the text cites {listed(cited) or 'nothing'}")
    return Judged(pair, False, tuple(reasons))


def judge_all(submission: Submission, context: Context) -> list[Judged]:
    config = load_config(submission)
    return list(map(partial(judge, config=config, context=context), load_pairs(submission, context)))


def check_citations(submission: Submission, context: Context) -> list[Finding]:
    """rag.citation_rate and rag.sources_shown."""
    judged = judge_all(submission, context)
    answers = [j for j in judged if not j.abstained and not j.pair.redacted]
    good = [j for j in answers if not j.reasons]
    broken = [j for j in answers if j.reasons]
    least, actual = context.threshold("rag.citation_rate"), percent(len(good), len(answers))
    rate = verdict(
        "rag.citation_rate", bool(answers) and len(good) >= least * len(answers),
        f"{actual} of the answers cite an approved, retrieved source that says what they quote.",
        problem=f"Only {actual} of the answers cite an approved, retrieved source that says what they quote.",
        expected=f"at least {least:.0%}", actual=actual, where=broken[0].pair.where if broken else "rag_eval_rows.jsonl",
        fix=f"First problem: {short(broken[0].reasons[0], 160)}." if broken else "Answer at least one case.",
        value=len(good) / len(answers) if answers else 0.0,
        broken=[f"{j.pair.where}: {short(j.reasons[0], 160)}" for j in broken[:5]],
    )  # fmt: skip
    config = load_config(submission)
    chunks = context.index(config).chunks
    deleted = deleted_key(submission)
    wrong = [(j.pair, reason) for j in judged if (reason := _shown(j.pair.row, chunks, deleted))]
    shown = verdict(
        "rag.sources_shown", not wrong, "Every text shown to the model stands in the chunk that it is said to come from.",
        problem=f"{len(wrong)} rows show the model a text that its chunk does not hold: {wrong[0][1] if wrong else ''}.",
        expected="sentences of the retrieved chunks", actual=wrong[0][1] if wrong else "",
        where=wrong[0][0].where if wrong else "", fix="Write the sources exactly as they went into the prompt.",
        wrong=[f"{pair.where}: {reason}" for pair, reason in wrong[:5]],
    )  # fmt: skip
    return [rate, shown]


def _shown(row: RagRow, chunks: dict[str, Chunk], deleted: str) -> str:
    if len(row.sources) > len(row.retrieved):
        return f"{len(row.sources)} sources for {len(row.retrieved)} retrieved chunks"
    for number, (source, name) in enumerate(zip(row.sources, row.retrieved, strict=False), 1):
        if name not in chunks or not stands_in(source, chunks[name], deleted):
            return f"source {number} is not from {short(name)}"
    return ""


def stands_in(source: str, chunk: Chunk, deleted: str = "") -> bool:
    """Whether a source is made of whole sentences, or of one run of words, of the chunk; its title may come first.

    Words that a deletion took away are accepted for the document ``deleted`` only.
    """
    if REDACTED in source:
        if chunk.doc_key != deleted:
            return False
        source = source.replace(REDACTED, " ")
        if not source.strip():
            return True
    text, title = flat(source), flat(chunk.title)
    text = text[len(title) - 1 :] if text.startswith(title) else text
    if text in flat(chunk.text):
        return bool(text.strip()) or chunk.doc_key == deleted
    for sentence in sorted(map(flat, chunk.sentences), key=len, reverse=True):
        text = text.replace(sentence, "  ", 1)
    return not text.strip()


def check_results(submission: Submission, context: Context) -> list[Finding]:
    """rag.results_follow and rag.failed_cases: the claimed numbers, derived again from the rows."""
    claimed = submission.json("rag_eval_results.json", RagResults)
    judged = judge_all(submission, context)
    open_rows = {j.pair.case.id for j in judged if j.pair.redacted}
    differences = [f"{name}: claimed {claim}, from the rows {own}" for name, claim, own in _compare(claimed, judged)]
    follow = verdict(
        "rag.results_follow", not differences, "Every number in rag_eval_results.json follows from the rows.",
        problem=f"Claimed numbers do not follow from the rows. {differences[0] if differences else ''}.",
        expected="; ".join(d.partition(", ")[2].replace("from the rows", d.partition(":")[0]) for d in differences),
        actual="; ".join(d.partition(",")[0] for d in differences), where="rag_eval_results.json",
        fix="Compute the file from the rows, last, and do not edit it.", differences=differences,
    )  # fmt: skip
    own = {j.pair.case.id for j in judged if j.failed}
    named = {case.id for case in claimed.failed_cases}
    silent, extra = sorted(own - named - open_rows), sorted(named - own - open_rows)
    if not silent and not extra and all(case.reason.strip() for case in claimed.failed_cases):
        return [follow, ok("rag.failed_cases", f"The {len(named)} failed cases are those that failed, each with a reason.",
                           str(len(own)), str(len(named)))]
    problem = f"Not named: {listed(silent)}. " if silent else ""
    problem += f"Named without having failed: {listed(extra)}. " if extra else ""
    return [follow, fail("rag.failed_cases", f"The list of failed cases is not what the rows show. "
                         f"{problem or 'A reason is empty.'}".strip(), listed(sorted(own)) or "none",
                         listed(sorted(named)) or "none", "rag_eval_results.json", "Name every failed case and its cause.")]


def _compare(claimed: RagResults, judged: list[Judged]) -> list[tuple[str, object, object]]:
    """(name, claim, own value) of every claim that differs. Rows cleaned by a deletion may have counted either way."""
    answerable = [j for j in judged if j.pair.answerable]
    unanswerable = [j for j in judged if not j.pair.answerable]
    answers = [j for j in judged if not j.abstained and not j.pair.redacted]
    unknown = sum(j.pair.redacted for j in judged)
    hits = sum(j.pair.claimed_hit for j in answerable)
    passed = sum(not j.reasons for j in answers)
    quiet = sum(j.abstained for j in unanswerable)
    ranges = [
        ("n", claimed.n, len(judged), len(judged), 0.0),
        ("hits", claimed.hits, hits, hits, 0.0),
        ("hit_rate", claimed.hit_rate, *[hits / max(1, len(answerable))] * 2, ROUNDING),
        ("citation_pass", claimed.citation_pass, passed, passed + unknown, 0.0),
        ("citation_pass_rate", claimed.citation_pass_rate, passed / max(1, len(answers) + unknown),
         (passed + unknown) / max(1, len(answers) + unknown), ROUNDING),
    ]  # fmt: skip
    if claimed.abstain_recall is not None:
        ranges.append(("abstain_recall", claimed.abstain_recall, *[quiet / max(1, len(unanswerable))] * 2, ROUNDING))
    return [(name, claim, round(low, 4)) for name, claim, low, high, slack in ranges if not low - slack <= claim <= high + slack]
