"""Lab 06, answers: abstentions, citations and quotations read from the text, and the numbers claimed about them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from course_lib.artifacts import RagConfig, RagResults, RagRow
from course_lib.checks.common import Context, fail, first, flat, listed, ok, percent, place, short, verdict
from course_lib.checks.rag_rows import SLACK, Pair, deleted_key, load_config, load_pairs
from course_lib.chunking import Chunk
from course_lib.deletion import REDACTED
from course_lib.submission import Submission
from course_lib.types import Finding

MIN_ANSWERS = 3
ROUNDING = 0.0051  # a claimed share may be rounded to two decimals


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


def origins(row: RagRow) -> list[str]:
    """The chunk of each source: as the row says, else in the order of what was retrieved."""
    return list(row.retrieved if row.source_ids is None else row.source_ids)


def judge(pair: Pair, config: RagConfig, context: Context) -> Judged:
    """Abstention, citation numbers, permissions and quoted words, from the answer's text alone and not from claims."""
    from course_lib.rag import Answer, check_citations, is_abstention, parse_citations

    row = pair.row
    if is_abstention(row.answer):
        return Judged(pair, True, ())
    found = context.search(config, pair.case.user, pair.case.question)
    shown = origins(row)
    numbers = parse_citations(row.answer, min(len(row.sources), len(shown)))
    cited = tuple(shown[number - 1] for number in numbers.valid)
    answer = Answer(row.answer, cited, numbers.valid, False, tuple(row.sources), found.chunk_ids,
                    invalid_citations=numbers.invalid)  # fmt: skip
    reasons = list(check_citations(answer, context.index(config), context.user(pair.case.user)).reasons)
    if list(cited) != row.cited or list(numbers.valid) != row.citation_numbers:
        reasons.append(f"claims to cite {listed(row.cited) or 'nothing'}, the text cites {listed(cited) or 'nothing'}")
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
    problem = short(broken[0].reasons[0], 160) if broken else "too few answers; abstaining always shows nothing"
    rate = verdict(
        "rag.citation_rate", len(answers) >= MIN_ANSWERS and len(good) + SLACK >= least * len(answers),
        f"{actual} of the answers cite an approved, retrieved source that says what they quote.",
        problem=f"Only {actual} of the answers cite an approved, retrieved source that says what they quote.",
        expected=f"at least {100 * least:.0f} % of at least {MIN_ANSWERS} answers", actual=actual,
        where=broken[0].pair.where if broken else "rag_eval_rows.jsonl",
        fix=f"First problem: {problem}.",
        value=len(good) / len(answers) if answers else 0.0,
        broken=[f"{j.pair.where}: {short(j.reasons[0], 160)}" for j in broken[:5]],
    )  # fmt: skip
    config = load_config(submission)
    chunks = context.index(config).chunks
    deleted = deleted_key(submission)
    wrong = [f"{j.pair.where} {reason}" for j in judged if (reason := _shown(j.pair.row, chunks, deleted))]
    shown = verdict(
        "rag.sources_shown", not wrong, "Every text shown to the model stands in the chunk that it is said to be from.",
        problem=f"{len(wrong)} rows show the model a text that its chunk does not hold. First: {first(wrong)}.",
        expected="sentences of the retrieved chunks", actual=f"{len(wrong)} rows with others", where=place(wrong),
        fix="Write the sources exactly as they went into the prompt.", wrong=wrong[:5],
    )  # fmt: skip
    return [rate, shown]


def _shown(row: RagRow, chunks: dict[str, Chunk], deleted: str) -> str:
    shown = origins(row)
    if len(row.sources) > len(shown) or (row.source_ids is not None and len(row.sources) != len(shown)):
        return f"{len(row.sources)} sources for {len(shown)} chunks"
    for number, (source, name) in enumerate(zip(row.sources, shown, strict=False), 1):
        if name not in row.retrieved or name not in chunks or not stands_in(source, chunks[name], deleted):
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
        problem=f"Claimed numbers do not follow from the rows. {first(differences)}.",
        expected="; ".join(d.partition(", ")[2].replace("from the rows", d.partition(":")[0]) for d in differences),
        actual="; ".join(d.partition(",")[0] for d in differences), where="rag_eval_results.json",
        fix="Compute the file from the rows, last, and do not edit it.", differences=differences,
    )  # fmt: skip
    own = {j.pair.case.id for j in judged if j.failed}
    named = {case.id for case in claimed.failed_cases}
    silent, extra = sorted(own - named - open_rows), sorted(named - own - open_rows)
    if not silent and not extra and all(case.reason.strip() for case in claimed.failed_cases):
        message = f"The {len(named)} failed cases are those that failed, each with a reason."
        return [follow, ok("rag.failed_cases", message, str(len(own)), str(len(named)))]
    problem = f"Not named: {listed(silent)}. " if silent else ""
    problem += f"Named without having failed: {listed(extra)}. " if extra else ""
    message = f"The list of failed cases is not what the rows show. {problem or 'A reason is empty.'}".strip()
    return [follow, fail("rag.failed_cases", message, listed(sorted(own)) or "none", listed(sorted(named)) or "none",
                         "rag_eval_results.json", "Name every failed case and its cause.")]  # fmt: skip


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
    return [(name, claim, round(low, 4)) for name, claim, low, high, slack in ranges
            if not low - slack <= claim <= high + slack]  # fmt: skip
