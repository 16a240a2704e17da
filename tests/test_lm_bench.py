"""Benchmarks return sane numbers; their values are figures, not tests."""

from __future__ import annotations

from course_lib import measurements
from course_lib.models import connect, gguf_path, model_folder
from course_lm import bench as lm_bench
from course_lm.card import BARS

FOLDER = model_folder()


def test_server_and_transformers_name_the_same_next_tokens() -> None:
    same = lm_bench.top1_agreement(connect(embedded=True), FOLDER / "instruct", positions=120)
    assert same["n"] == 120 and same["value"] >= 0.95  # the bar of 0.99 is measured over 2,000 positions


def test_speed_is_reported_beside_the_floor_of_this_file() -> None:
    gguf = gguf_path("course-lm-instruct")
    pace = lm_bench.speed(connect(embedded=True), gguf, FOLDER / "instruct", tokens=24, repeats=2)
    assert 0 < pace["low"] <= pace["tokens_per_s"] <= pace["high"]
    assert pace["floor_tokens_per_s"] == pace["bandwidth_bytes_per_s"] / gguf.stat().st_size


def test_published_files_stay_under_the_limit() -> None:
    assert 10 < lm_bench.files_mb(FOLDER) < 60


def test_every_figure_of_quality_is_a_metric_of_the_card() -> None:
    for part, metric, _ in measurements._LM_RATES.values():
        assert metric in {key for key, *_ in BARS[part]}
