"""The checkers of lab 01 in the order of its report, each with the rules that it decides.

They recompute: facts, costs and dates from the registry and the stated workload, percentiles and right answers from the
rows, scores by the stated bands, the ranking and its sensitivity from the stated weights, and the note from the files.
"""

from __future__ import annotations

from course_lib.checks import select_decision, select_options, select_packet, select_prose, select_rows
from course_lib.checks.common import Checker

CHECKERS: tuple[Checker, ...] = (
    Checker(select_packet.check_files, ("select.files",)),
    Checker(select_packet.check_agreement, ("select.files_agree",)),
    Checker(select_options.check_options, ("select.option_count", "select.registry_facts")),
    Checker(select_options.check_costs, ("select.cost_follows",)),
    Checker(select_rows.check_rows, ("select.latency_rows",)),
    Checker(select_rows.check_latency, ("select.latency_follows", "select.unmeasured_marked")),
    Checker(select_rows.check_answers, ("select.answers_follow",)),
    Checker(select_options.check_lifecycle, ("select.lifecycle", "select.chosen_lives")),
    Checker(select_options.check_privacy, ("select.privacy",)),
    Checker(select_decision.check_weights, ("select.weights_first",)),
    Checker(select_decision.check_scores, ("select.scores_follow",)),
    Checker(select_decision.check_ranking, ("select.ranking_follows",)),
    Checker(select_decision.check_sensitivity, ("select.sensitivity",)),
    Checker(select_packet.check_notebook, ("select.notebook",)),
    Checker(select_prose.check_note, ("select.note_numbers",)),
    Checker(select_packet.check_readme, ("select.readme",)),
    Checker(select_packet.check_risks, ("select.risk_notes",)),
    Checker(select_prose.check_costs, ("select.cost_notes",)),
)
