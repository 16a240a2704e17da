"""The commands ``course model …``. Prints; the work is done in other modules."""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from course_lib.errors import UsageError

app = typer.Typer(help="Train, export, check and measure course-lm.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Folder = Annotated[Path | None, typer.Option(help="Model folder. Default: data/models/course-lm.")]
DPO_ITEMS = 2000  # that the checkpoint answers, to learn from what it says wrongly
SETS = ("locked", "corpus", "tasks", "flow")


@app.command()
def train(
    stage: Annotated[str, typer.Option(help="pretrain, sft or dpo.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint; a started run in it goes on.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    start: Annotated[Path | None, typer.Option(help="Checkpoint to begin from; sft and dpo need one.")] = None,
    minutes: Annotated[float, typer.Option(help="Stop after so many minutes of training; 0: by steps alone.")] = 0.0,
    steps: Annotated[int, typer.Option(help="Optimiser steps at most; 0: the stage's default.")] = 0,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="NAME=VALUE of the training plan.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Train one stage with progress, a JSON log, and the loss curve as a picture beside it."""
    from course_lm import dpo as lm_dpo
    from course_lm.card import loss_picture
    from course_lm.plan import check_settings, checked_plan

    if stage not in ("pretrain", "sft", "dpo"):
        raise UsageError(f"unknown stage {stage!r}", fix="use pretrain, sft or dpo")
    if stage != "pretrain" and start is None:
        raise UsageError(f"stage {stage} needs a checkpoint", fix="course model train --start FOLDER, from pretrain")
    if start is not None and not (start / "config.json").is_file():
        raise UsageError(f"{start} holds no checkpoint", fix="name a folder that course model train wrote")
    settings = dict(setting(text) for text in parameter or [])
    settings |= ({"minutes": minutes} if minutes else {}) | ({"steps": steps} if steps else {})
    if stage == "dpo":
        check_settings(settings, {**lm_dpo.defaults(), "items": DPO_ITEMS})
    else:
        checked_plan(stage, settings, out)
    with _progress(quiet=json) as report:
        if start is not None and stage == "dpo":
            _train_dpo(out, device, start, settings, report)
        else:
            _train_own(stage, out, device, start, settings, report)
    picture = loss_picture(out / "log.jsonl")
    _say({"checkpoint": str(out), "log": str(out / "log.jsonl"), "picture": str(picture)}, json)


def _train_own(stage: str, out: Path, device: str, start: Path | None, settings: dict[str, Any], report: Any) -> None:
    from course_lm import tokenizer as lm_tokenizer
    from course_lm import train as lm_train

    fresh = start is None and not (out / "state.pt").exists()
    tokenizer = lm_tokenizer.train(_tokenizer_texts()) if fresh else None
    settings |= {"tasks": 0.4} if stage == "sft" and "tasks" not in settings else {}
    total = _total(settings, lm_train.Plan().steps)
    lm_train.train(stage, out, device=device, start=start, tokenizer=tokenizer, real=_corpus_items(),
                   report=lambda record: report(record, total), **settings)  # fmt: skip


def _tokenizer_texts() -> Iterator[str]:
    """What the tokenizer learns from: prompts and replies of every task, and the corpus three times."""
    import random

    from course_lib.corpus import load_corpus
    from course_lm.data import plain_texts
    from course_lm.tasks import task_item

    rng = random.Random(1)
    yield from plain_texts(6000, 1)
    for _ in range(3000):
        item = task_item(rng, "train")
        yield "\n".join([*(m["content"] for m in item.messages), *map(jsonlib.dumps, item.tools), item.reply])
    for document in load_corpus().documents:
        yield document.body * 3


def _corpus_items() -> Any:
    """Maker of items on corpus text, most of them beside the sentences that a retriever finds for the question."""
    from course_lm import neighbours
    from course_lm import real as lm_real

    return lm_real.maker(retrieve=neighbours.nearest(lm_real.clean_passages()))


def _train_dpo(out: Path, device: str, start: Path, settings: dict[str, Any], report: Any) -> None:
    """Pairs from the checkpoint's own mistakes, and as many again by rule; then DPO."""
    import random

    from course_lm import curriculum as lm_curriculum
    from course_lm import dpo as lm_dpo
    from course_lm import tokenizer as lm_tokenizer

    made, count = None, settings.pop("items", DPO_ITEMS)
    if not (out / "pairs.jsonl").exists():
        rng, draw = random.Random(settings.get("seed", 1)), lm_curriculum.sampler(real=_corpus_items(), tasks=0.4)
        items = [draw(rng, lm_curriculum.LEVELS - 1, "sft") for _ in range(count)]
        own = lm_dpo.own_pairs(start, items, device=device, tick=lambda done: report({"step": done}, (len(items), 0)))
        by_rule = lm_dpo.pairs(lm_tokenizer.load(start), lambda r: draw(r, lm_curriculum.LEVELS - 1, "sft"), len(own),
                               seed=settings.get("seed", 1))  # fmt: skip
        made = [*own, *by_rule]
        rng.shuffle(made)
    total = _total(settings, lm_dpo.defaults()["steps"])
    lm_dpo.train(start, out, made=made, device=device, report=lambda record: report(record, total), **settings)


def _total(settings: dict[str, Any], steps: int) -> tuple[int, float]:
    """Steps and seconds at which a run ends, whichever comes first; 0 seconds for no limit."""
    return int(settings.get("steps", steps)), 60 * float(settings.get("minutes", 0))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A trained checkpoint folder.")],
    name: Annotated[str, typer.Option(help="base or instruct.")] = "instruct",
    kind: Annotated[list[str] | None, typer.Option(help="f16, q8_0, q4_k_m, q4_1 or q2_k; repeat for more.")] = None,
    to: Folder = None, json: Json = False,
) -> None:  # fmt: skip
    """Publish a checkpoint as safetensors and GGUF, and refresh the manifest."""
    from course_lib.models import model_folder
    from course_lm import export as lm_export

    made = lm_export.export(checkpoint, to or model_folder(), name=name, kinds=tuple(kind or ("f16",)))
    _say({path.name: f"{path.stat().st_size / 1e6:.1f} MB" for path in made}, json)


@app.command()
def average(
    first: Annotated[Path, typer.Argument(help="A trained checkpoint folder.")],
    second: Annotated[Path, typer.Argument(help="Another one of the same lineage.")],
    out: Annotated[Path, typer.Option(help="Folder for the mean of the two.")],
    share: Annotated[float, typer.Option(help="Share of the second, 0 to 1.")] = 0.5, json: Json = False,
) -> None:  # fmt: skip
    """Average the weights of two checkpoints, one of which was trained on from the other."""
    from course_lm.export import average as averaged

    _say({"checkpoint": str(averaged(first, second, out, share))}, json)


@app.command()
def ranker(to: Folder = None, json: Json = False) -> None:
    """Train the sentence ranker of the real flow on the written questions; refresh the manifest."""
    from course_lib.checksums import write_checksums
    from course_lib.embeddings import default_embedder
    from course_lib.models import model_folder
    from course_lib.ranker import FILE
    from course_lm import rank, real

    path = (to or model_folder()) / FILE
    sentences = list(real.sentences(real.clean_passages()))
    with _progress(quiet=json) as report:
        made = rank.train(default_embedder(), sentences,
                          tick=lambda step: report({"step": step}, (rank.STEPS, 0)))  # fmt: skip
    made.save(path)
    write_checksums(path.parent)
    _say({path.name: f"{path.stat().st_size / 1e6:.1f} MB"}, json)


@app.command()
def verify(folder: Folder = None, json: Json = False) -> None:
    """Check every model file against the SHA-256 manifest."""
    from course_lm.export import verify as problems_of

    problems = problems_of(folder)
    _say({"ok": not problems, "problems": problems}, json)
    raise typer.Exit(1 if problems else 0)


@app.command()
def card(folder: Folder = None, json: Json = False) -> None:
    """Render the model card and the release-gate report from the evaluation files."""
    from course_lib.checksums import write_checksums
    from course_lm.card import write_card

    path = write_card(folder)
    write_checksums(path.parent)
    _say({"card": str(path), "gate": str(path.with_name("RELEASE_GATE.md"))}, json)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Option(help="base, instruct, or a GGUF file.")] = "instruct",
    sets: Annotated[list[str] | None, typer.Option("--set", help="locked, corpus, tasks or flow; repeat.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the result files.")] = Path("build/model"),
    limit: Annotated[int, typer.Option(help="Only the first rows of each set, for a quick look.")] = 0,
    record: Annotated[bool, typer.Option("--record", help="Put the results into the model folder.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Measure a model on the embedded server, greedy; each metric with a 95 % interval."""
    from course_lib.models import connect, default_model, file_sha256, gguf_path
    from course_lm import card as lm_card

    chosen = sets or ["locked"]
    if unknown := set(chosen) - set(SETS):
        raise UsageError(f"there is no set {min(unknown)!r}", fix=f"use {', '.join(SETS)}")
    if limit and record:
        raise UsageError("part of a set is no result to record", fix="leave out --limit")
    label = _select(model)
    client = connect(embedded=True, model="course-lm-base" if model == "base" else None)
    served, results = default_model(client), {}
    for name in chosen:
        with _progress(quiet=json) as report:
            results[name] = _measure(client, served, name, limit, model == "base", report)
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{label}-{name}.json"
        path.write_text(jsonlib.dumps(results[name], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if record:
            lm_card.record(label, name, results[name], machine=f"{platform.machine()}, {os.cpu_count()} cores",
                           weights=file_sha256(gguf_path(served)))  # fmt: skip
    if json:
        typer.echo(jsonlib.dumps(results, ensure_ascii=False))
        return
    for name, result in results.items():
        typer.echo(f"{label}, {name}: {result['n']} rows, {result['failed']} wrong, {out / f'{label}-{name}.json'}")
        for metric, m in result["metrics"].items():
            typer.echo(f"  {metric:28} {m['value']:.3f}  [{m['low']:.3f}, {m['high']:.3f}]  n = {m['n']}")


def _select(model: str) -> str:
    """Points the embedded server at a GGUF file where one is named; returns the label of the results."""
    if model in ("base", "instruct"):
        os.environ.pop("COURSE_LM_GGUF", None)  # else that file would be measured under this name
        return model
    if not Path(model).is_file():
        raise UsageError(f"{model} is no GGUF file", fix="name base, instruct, or a file that course model export made")
    os.environ["COURSE_LM_GGUF"] = str(Path(model).resolve())
    return Path(model).stem


def _measure(client: Any, model: str, name: str, limit: int, plain: bool, report: Any) -> dict[str, Any]:
    from course_lib.corpus import load_questions
    from course_lm import eval as lm_eval
    from course_lm import flow as lm_flow
    from course_lm import task_eval as lm_task_eval

    if name == "flow":
        rows: Any = load_questions("locked_test")[: limit or None]
    else:
        rows = lm_eval.load_items(name)[: limit or None]
    done = iter(range(1, len(rows) + 1))

    def tick() -> None:
        report({"step": next(done)}, (len(rows), 0))

    if name == "flow":
        return lm_flow.measure_flow(client, model, "locked_test", limit=limit, tick=tick)
    if name == "tasks":
        return lm_task_eval.evaluate(client, model, rows, tick=tick)
    return lm_eval.evaluate(client, model, rows, plain=plain, tick=tick)


def _progress(quiet: bool) -> Any:
    """A context whose value takes (record, (steps, seconds)) and shows what is done and how much time is left."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    @contextmanager
    def show() -> Any:
        columns = (BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn(), TextColumn("left"),
                   TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.description}"))  # fmt: skip
        with Progress(*columns, disable=quiet, speed_estimate_period=600) as bar:
            task = bar.add_task("starting", total=1.0)

            def report(record: dict[str, Any], total: tuple[int, float]) -> None:
                steps, seconds = total
                done = record["step"] / max(1, steps)
                done = max(done, record.get("seconds", 0) / seconds) if seconds else done
                shown = {k: v for k, v in record.items() if k in ("step", "level", "reply", "exact", "cited", "loss")}
                bar.update(task, completed=min(1.0, done), description=" ".join(f"{k} {v}" for k, v in shown.items()))

            yield report

    return show()


def setting(text: str, example: str = "lr=8e-4") -> tuple[str, Any]:
    """NAME=VALUE as a pair; the value is JSON or a number where it can be, else text."""
    name, sign, value = text.partition("=")
    if not sign:
        raise UsageError(f"-p {text!r} is not NAME=VALUE.", fix=f"-p {example}")
    for read in (jsonlib.loads, float):  # ``.5`` is no JSON
        with contextlib.suppress(ValueError):
            return name, read(value)
    return name, value


def _say(values: dict[str, Any], json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps(values, ensure_ascii=False))
        return
    for name, value in values.items():
        typer.echo(f"{name}: {value}")
