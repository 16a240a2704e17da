"""What lab 03 needs around TRL and PEFT: its cases and rows, greedy answers, a record of the machine, a served file.

Training itself stands in the lab, in the field's own libraries.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.errors import ModelError, UsageError
from course_lib.strict import json_rows

if TYPE_CHECKING:
    import anthropic

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "tokenizers", "safetensors", "gguf", "xllamacpp")
Case = dict[str, Any]


def data_folder() -> Path:
    """``data/evals/finetuning``: the locked cases, and the rows that may be trained on."""
    from course_lib.catalog import repo_root

    return repo_root() / "data" / "evals" / "finetuning"


def load_cases(which: str = "") -> list[Case]:
    """The lab's cases of one set (``locked``, ``general``, ``refusal``), or all, in the order of the file.

    Keys: ``id``, ``set``, ``messages`` (system and user) or, where ``set`` is general, ``text``; ``reply``: what is
    right; ``demands``: what hostile sentences in the sources want to be said.
    """
    rows = json_rows(data_folder() / "cases.jsonl")
    return [row for row in rows if which in ("", row["set"])]


def load_rows(folder: Path | str = "") -> list[dict[str, Any]]:
    """Rows of a lab-02 submission's ``splits/train.jsonl``; without a folder, the small set that comes with the lab."""
    return json_rows(Path(folder) / "splits" / "train.jsonl" if folder else data_folder() / "compliance.jsonl")


def load_pool() -> list[dict[str, Any]]:
    """The course's own rows for training, in the same form."""
    return json_rows(data_folder() / "pool.jsonl")


def write_rows(path: Path | str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    Path(path).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_page(path: Path | str, title: str, sections: dict[str, str]) -> None:
    """Write a page of markdown: a title, then each section under its heading."""
    parts = [f"# {title}", *(f"## {heading}\n\n{text}" for heading, text in sections.items())]
    Path(path).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def prompt_text(tokenizer: Any, case: Case) -> str:
    """The text that the model continues: the turns of a case through the chat template, or its plain text."""
    if "text" in case:
        return str(case["text"])
    return str(tokenizer.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=True))


def ask(
    model: Any, tokenizer: Any, cases: Sequence[Case], *, max_new_tokens: int = 56, batch: int = 32
) -> list[dict[str, Any]]:
    """The greedy answer to each case: {id, set, tokens, ended, answer}, in the order of ``cases``.

    Prompts of like length share a batch. The same cases in the same order give the same answers, bit for bit, on one
    machine with one number of threads; another batch can flip a near tie.
    """
    prompts = [tokenizer.encode(prompt_text(tokenizer, case), add_special_tokens=False) for case in cases]
    order = sorted(range(len(cases)), key=lambda i: (len(prompts[i]), i))
    said: dict[int, list[int]] = {}
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        said |= dict(zip(part, _continue(model, tokenizer, [prompts[i] for i in part], max_new_tokens), strict=True))
    end = tokenizer.eos_token_id
    rows = []
    for number, case in enumerate(cases):
        ids = said[number]
        tokens = ids[: ids.index(end)] if end in ids else ids
        rows.append({"id": case["id"], "set": case["set"], "tokens": tokens, "ended": end in ids,
                     "answer": tokenizer.decode(tokens, skip_special_tokens=True).strip()})  # fmt: skip
    return rows


def _continue(model: Any, tokenizer: Any, prompts: list[list[int]], most: int) -> list[list[int]]:
    import torch

    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=most,
                             pad_token_id=pad, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    model.train(was_training)
    return [row[longest:] for row in out.tolist()]


def environment(seed: int) -> dict[str, Any]:
    """Where a run happens: device, Python, system, processors, torch's threads, memory, and versions."""
    from importlib.metadata import version

    import psutil
    import torch

    gpu = torch.cuda.is_available()
    return {"lab": "03", "seed": seed, "device": torch.cuda.get_device_name() if gpu else "cpu",
            "python": sys.version.split()[0], "system": f"{platform.system()} {platform.machine()}",
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            "threads": torch.get_num_threads(), "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "versions": {name: version(name) for name in PACKAGES}}  # fmt: skip


def serve(gguf: Path | str, name: str) -> anthropic.Anthropic:
    """A client of the embedded server that serves this file under ``name``. Raises ModelError when it cannot start."""
    from course_lib.models import connect
    from course_lib.server import ServerConfig, ensure

    endpoint = ensure(ServerConfig(Path(gguf), name))
    return connect(base_url=endpoint.base_url, api_key=endpoint.api_key)


def save_adapter(model: Any, folder: Path | str, base: str) -> None:
    """Write the adapter of a PEFT model: ``adapter_model.safetensors`` and a configuration that names ``base``.

    Equal runs write equal bytes: PEFT keeps target modules as a set, whose order changes from process to process.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        model.save_pretrained(made, save_embedding_layers=False)
        config = json.loads(Path(made, "adapter_config.json").read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": base, "target_modules": sorted(config["target_modules"])}
        text = json.dumps(config, indent=1, sort_keys=True) + "\n"
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
        weights = "adapter_model.safetensors"
        (folder / weights).write_bytes(Path(made, weights).read_bytes())


def quantised_base(model: Path | str, *, rank: int, targets: Sequence[str], seed: int, max_length: int = 1024) -> Any:
    """A checkpoint (folder or hub id) in 4 bits with a fresh LoRA of alpha 2 x rank, by unsloth: QLoRA for NVIDIA GPUs.

    Raises ModelError that says what is missing. Not yet run on a GPU: the tests put a stand-in in unsloth's place.
    """
    import torch

    if not torch.cuda.is_available():
        raise ModelError("tier gpu needs an NVIDIA GPU, and torch sees none", where="tier=gpu",
                         fix="run with tier=cpu, or on a machine with a GPU and its driver")
    try:
        from unsloth import FastLanguageModel
    except ImportError as error:
        raise ModelError("tier gpu needs unsloth, which is not installed", where="tier=gpu",
                         fix="pip install 'llm-course[gpu]'") from error
    plain, _ = FastLanguageModel.from_pretrained(str(model), max_seq_length=max_length, load_in_4bit=True)
    return FastLanguageModel.get_peft_model(plain, r=rank, lora_alpha=2 * rank, target_modules=list(targets),
                                            lora_dropout=0.0, bias="none", random_state=seed)  # fmt: skip


def check_tier(tier: str) -> str:
    """``cpu`` or ``gpu``, as given. Raises UsageError for anything else."""
    if tier not in ("cpu", "gpu"):
        raise UsageError(f"there is no tier {tier!r}", where="the parameter tier", fix="use cpu or gpu")
    return tier
