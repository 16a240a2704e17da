"""The checkers of lab 03 in the order of its report, each with the rules that it decides.

They recompute: the chain of hashes and times, right and wrong from the answers' texts, the paired test from the pairs,
the decision from the sealed thresholds, and answers from the weights: the adapter on its base must say what it claims.
"""

from __future__ import annotations

from course_lib.checks import tune_adapter, tune_order, tune_packet, tune_rows
from course_lib.checks.common import Checker

CHECKERS: tuple[Checker, ...] = (
    Checker(tune_packet.check_files, ("tune.files",)),
    Checker(tune_packet.check_agreement, ("tune.files_agree",)),
    Checker(tune_packet.check_environment, ("tune.environment",)),
    Checker(tune_order.check_plan, ("tune.plan_first",)),
    Checker(tune_order.check_baseline, ("tune.baseline_first",)),
    Checker(tune_order.check_cases, ("tune.same_cases",)),
    Checker(tune_order.check_data, ("tune.data_clean",)),
    Checker(tune_packet.check_card, ("tune.data_card",)),
    Checker(tune_packet.check_log, ("tune.training_log",)),
    Checker(tune_adapter.check_adapter, ("tune.adapter_loads",)),
    Checker(tune_adapter.check_answers, ("tune.answers_reproduced",)),
    Checker(tune_adapter.check_baseline, ("tune.baseline_real",)),
    Checker(tune_rows.check_scores, ("tune.scores_follow",)),
    Checker(tune_rows.check_paired, ("tune.paired_test", "tune.gain")),
    Checker(tune_rows.check_spots, ("tune.spot_checks",)),
    Checker(tune_rows.check_regressions, ("tune.regressions",)),
    Checker(tune_rows.check_served, ("tune.served",)),
    Checker(tune_rows.check_rollback, ("tune.rollback",)),
    Checker(tune_rows.check_gate, ("tune.gate_follows",)),
    Checker(tune_packet.check_notebook, ("tune.notebook",)),
    Checker(tune_packet.check_report, ("tune.report",)),
    Checker(tune_packet.check_readme, ("tune.readme",)),
    Checker(tune_packet.check_risks, ("tune.risk_notes",)),
    Checker(tune_packet.check_costs, ("tune.cost_notes",)),
)
