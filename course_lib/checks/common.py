"""What every checker shares: the context it judges in, findings in one form, and one place where errors are caught."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from course_lib.access import Allowance, allowed_documents, decide
from course_lib.chunking import sections
from course_lib.errors import ArtifactError, CourseError
from course_lib.registry import Registry, registry
from course_lib.submission import Malformed, Submission
from course_lib.types import Finding, Outcome

if TYPE_CHECKING:
    from course_lib.artifacts import RagConfig
    from course_lib.corpus import Corpus, Document, HostileProbe, Question, User
    from course_lib.embeddings import Embedder
    from course_lib.retrieval import Index, Retrieval

SHINGLE = 6
KEPT_INDEXES = 6
KEPT_SEARCHES = 20_000
KEPT_TEXTS = 8_192
SHORT = 4_096  # characters of a text that is worth keeping
NEAR = 1e-4
NEAR_FUSED = 6e-4  # two ranks swapped in one of the two fused rankings move a score by 1/61 - 1/62 each
NEAR_RANKS = 5
Fact = TypeVar("Fact")
_WORD = re.compile(r"\d+(?:[.,]\d+)*|\w+")


@dataclass
class Context:
    """What the grader knows and the learner does not control. It reads no clock and writes nothing but its own caches.

    hidden: questions that every account asks beside the learner's own. thresholds: from the rubric, by rule.
    """

    corpus: Corpus
    embedder: Embedder
    hostile: Sequence[HostileProbe] = ()
    questions: Sequence[Question] = ()
    hidden: Sequence[Question] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    _indexes: dict[tuple[Any, ...], Index] = field(default_factory=dict, repr=False)
    _found: dict[tuple[Any, ...], Retrieval] = field(default_factory=dict, repr=False)
    _permitted: dict[str, Allowance] = field(default_factory=dict, repr=False)
    _shingles: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)
    _quoted: dict[str, Counter[frozenset[str]]] = field(default_factory=dict, repr=False)
    _sizes: dict[str, int] = field(default_factory=dict, repr=False)
    _facts: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Any, make: Callable[[], Fact]) -> Fact:
        """A fact about the corpus alone, worked out for the first submission and kept for the others."""
        if key not in self._facts:
            self._facts[key] = make()
        return self._facts[key]

    def threshold(self, rule: str) -> float:
        """The rubric's number for a rule; a rubric without it is a mistake of ours, never of the learner."""
        if rule not in self.thresholds:
            raise CourseError(f"The rubric has no threshold for {rule}.", where="rubric", fix="Add it.")
        return self.thresholds[rule]

    @property
    def models(self) -> Registry:
        """The course's registry of models: ids, limits, dates and prices."""
        return registry()

    def user(self, name: str) -> User | None:
        return self.once("users", lambda: {user.id: user for user in self.corpus.users}).get(name)

    def document(self, key: str) -> Document | None:
        return self.once("documents", lambda: {document.key: document for document in self.corpus.documents}).get(key)

    def index(self, config: RagConfig, without: str | None = None) -> Index:
        """The course's own index with the chunking of ``config``, also as if one document had never been there."""
        from course_lib.retrieval import Index

        key = (config.index.max_words, config.index.overlap, without)
        if key not in self._indexes:
            while len(self._indexes) >= KEPT_INDEXES:
                oldest = next(iter(self._indexes))
                self._indexes.pop(oldest).close()
                for stale in [known for known in self._found if known[0] == oldest]:
                    del self._found[stale]
            kept = tuple(document for document in self.corpus.documents if document.key != without)
            corpus = self.corpus.model_copy(update={"documents": kept})
            self._indexes[key] = Index.build(corpus, self.embedder, *key[:2], audit_key=b"grader", exact=True)
        return self._indexes[key]

    def search(self, config: RagConfig, user: str, question: str, without: str | None = None) -> Retrieval:
        """What the course's own search returns for this account. Raises AccessDenied for an unknown one."""
        index = self.index(config, without)
        key = ((config.index.max_words, config.index.overlap, without), config.mode, config.k, user, question)
        if key not in self._found:
            if len(self._found) >= KEPT_SEARCHES:
                self._found.clear()
            self._found[key] = index.search(question, user, mode=config.mode, k=config.k)
        return self._found[key]

    def same(
        self, config: RagConfig, user: str, question: str, claimed: Sequence[str], without: str | None = None
    ) -> bool:
        """Whether ``claimed`` is what our own search returns, in its order. Chunks whose scores nearly tie may change
        places: embeddings differ by about 1e-6 between machines, and that can swap two neighbouring ranks."""
        found = self.search(config, user, question, without)
        if found.chunk_ids == tuple(claimed):
            return True
        if len(claimed) != len(found.hits) or len(set(claimed)) != len(claimed):
            return False
        deeper = self.index(config, without).search(question, user, mode=config.mode, k=config.k + NEAR_RANKS)
        scores = {hit.chunk.id: hit.score for hit in deeper.hits}
        near = NEAR_FUSED if config.mode == "hybrid" else NEAR
        pairs = zip(claimed, found.hits, strict=True)
        return all(name in scores and abs(scores[name] - hit.score) <= near for name, hit in pairs)

    def permitted(self, user: User) -> Allowance:
        if user.id not in self._permitted:
            self._permitted[user.id] = allowed_documents(user, self.corpus)
        return self._permitted[user.id]

    def denial(self, user: User, doc_key: str) -> str:
        """The rule that keeps the document from this user, ``unknown`` for one that does not exist, else ``""``."""
        document = self.document(doc_key)
        if document is None:
            return "unknown"
        decision = self.once(("decision", user.id, doc_key), lambda: decide(user, document, self.corpus.as_of))
        return "" if decision.allowed else decision.rule

    def quoted(self, text: str) -> Counter[frozenset[str]]:
        """Runs of ``SHINGLE`` words that one sentence of the corpus holds too, counted by the documents there."""
        if text not in self._quoted:
            if len(self._quoted) >= KEPT_TEXTS:
                self._quoted.clear()
            runs = self._runs
            counts = Counter(runs[s] for s in set(shingles(text)) if s in runs)
            if len(text) > SHORT:
                return counts
            self._quoted[text] = counts
        return self._quoted[text]

    @property
    def _runs(self) -> dict[str, frozenset[str]]:
        if not self._shingles:
            found: dict[str, set[str]] = {}
            for document in self.corpus.documents:
                for _, sentences in sections(document.body):
                    for shingle in (s for sentence in sentences for s in shingles(sentence)):
                        found.setdefault(shingle, set()).add(document.key)
            self._shingles.update((shingle, frozenset(keys)) for shingle, keys in found.items())
        return self._shingles

    def sizes(self) -> dict[str, int]:
        """Document -> how many runs of words it holds, so that a share of it can be told."""
        if not self._sizes:
            for document in self.corpus.documents:
                runs = self.quoted(document.body).items()
                self._sizes[document.key] = sum(number for keys, number in runs if document.key in keys)
        return self._sizes

    def leaked(self, user: User, text: str, known: str = "") -> dict[str, str]:
        """Documents that ``user`` may not read and whose words stand in ``text`` -> the rule that denies them.

        Words that also stand in a document that the user may read, or in ``known`` (the question), are no leak.
        """
        own = self.permitted(user).keys
        already = set(self.quoted(known)) if known else set()
        suspects = {min(keys) for keys in self.quoted(text) if not keys & own and keys not in already}
        return {key: self.denial(user, key) for key in sorted(suspects)}


Check = Callable[[Submission, Context], list[Finding]]


@dataclass(frozen=True, slots=True)
class Checker:
    """A check and the rules that it reports: every rule gets a finding, also when the check cannot be completed."""

    check: Check
    rules: tuple[str, ...]

    def run(self, submission: Submission, context: Context) -> list[Finding]:
        """Findings of the check. What was not handed in, or lacks a field, fails; what cannot be read, or a crash of
        ours, is an ERROR for a person to look at. Never raises an Exception."""
        try:
            findings = self.check(submission, context)
        except Malformed as error:
            findings = [unscored(rule, f"Could not score: {error.what}", error.where, error.fix) for rule in self.rules]
        except ArtifactError as error:
            findings = [fail(rule, error.what, where=error.where, fix=error.fix) for rule in self.rules]
        except Exception as error:  # a crash of a checker must never become a verdict about the learner
            what = f"Could not score: the check stopped with {type(error).__name__}."
            fix = "A reviewer must look; this is not your mistake."
            findings = [unscored(rule, what, fix=fix) for rule in self.rules]
        silent = [rule for rule in self.rules if all(finding.rule != rule for finding in findings)]
        return findings + [unscored(rule, "Could not score: the check reported nothing.") for rule in silent]


def ok(rule: str, message: str, expected: str = "", actual: str = "", **evidence: Any) -> Finding:
    return Finding(rule, Outcome.PASS, message, expected, actual, evidence=evidence)


def fail(
    rule: str, message: str, expected: str = "", actual: str = "", where: str = "", fix: str = "", **evidence: Any
) -> Finding:
    return Finding(rule, Outcome.FAIL, message, expected, actual, where, fix, evidence)


def unscored(rule: str, message: str, where: str = "", fix: str = "") -> Finding:
    return Finding(rule, Outcome.ERROR, message, where=where, fix=fix or "A reviewer must look at it.")


def verdict(
    rule: str, good: bool, message: str, *, problem: str, expected: str = "", actual: str = "", where: str = "",
    fix: str = "", **evidence: Any,
) -> Finding:  # fmt: skip
    """PASS with ``message``, or FAIL with ``problem``, and the same evidence either way."""
    if good:
        return ok(rule, message, expected, actual, **evidence)
    return fail(rule, problem, expected, actual, where, fix, **evidence)


def words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def flat(text: str) -> str:
    """Lower-case words between single spaces, with one at either end: ``flat(a) in flat(b)`` compares whole words."""
    return _flat_short(text) if len(text) <= SHORT else f" {' '.join(words(text))} "


@lru_cache(maxsize=KEPT_TEXTS)
def _flat_short(text: str) -> str:
    return f" {' '.join(words(text))} "  # questions and chunks of the corpus are asked for at every case


def shingles(text: str, size: int = SHINGLE) -> Iterator[str]:
    found = words(text)
    return (" ".join(found[i : i + size]) for i in range(len(found) - size + 1))


def doc_of(chunk_id: str) -> str:
    """``ID@VERSION`` of a chunk id ``ID@VERSION#NN``; the text itself when there is no ``#``."""
    return chunk_id.rpartition("#")[0] or chunk_id


def short(text: str, limit: int = 90) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def first(problems: Sequence[str]) -> str:
    """The first problem, written ``PLACE REASON``, or nothing."""
    return problems[0] if problems else ""


def place(problems: Sequence[str]) -> str:
    """Where the first problem is: file, or file and line."""
    return first(problems).split(" ")[0]


def reason(problems: Sequence[str]) -> str:
    """What the first problem is, without its place."""
    return first(problems).partition(" ")[2]


def listed(items: Iterable[str], limit: int = 5) -> str:
    """The first few, and how many more."""
    names = [short(item) for item in items]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def percent(part: int, whole: int) -> str:
    return f"{part} of {whole} = {100 * part / whole:.1f} %" if whole else "0 of 0"
