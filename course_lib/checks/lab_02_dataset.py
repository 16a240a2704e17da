"""The checkers of lab 02 in the order of its report, each with the rules that it decides.

They recompute: rights from the documents, form and grounding of each row, duplicates, the scan for personal data and
secrets, overlap of the splits and their hashes, leaks of the locked tests, counts from the log, the card from the data.
"""

from __future__ import annotations

from course_lib.checks import data_leaks, data_packet, data_quality, data_rows, data_splits
from course_lib.checks.common import Checker

CHECKERS: tuple[Checker, ...] = (
    Checker(data_packet.check_files, ("data.files",)),
    Checker(data_packet.check_agreement, ("data.files_agree",)),
    Checker(data_rows.check_rows, ("data.row_count", "data.rows_valid")),
    Checker(data_rows.check_replies, ("data.replies_hold",)),
    Checker(data_rows.check_tasks, ("data.tasks_mixed",)),
    Checker(data_rows.check_rights, ("data.rights",)),
    Checker(data_leaks.check_privacy, ("data.no_pii", "data.no_secrets")),
    Checker(data_rows.check_duplicates, ("data.duplicates",)),
    Checker(data_leaks.check_leaks, data_leaks.RULES),
    Checker(data_quality.check_sample, ("data.sample_size", "data.sample_good")),
    Checker(data_quality.check_rejections, ("data.rejections",)),
    Checker(data_quality.check_counts, ("data.counts_follow",)),
    Checker(data_splits.check_disjoint, ("data.split_overlap", "data.split_near")),
    Checker(data_splits.check_hashes, ("data.split_hashes",)),
    Checker(data_packet.check_notebook, ("data.notebook",)),
    Checker(data_packet.check_card, ("data.card",)),
    Checker(data_packet.check_report, ("data.report_numbers",)),
    Checker(data_packet.check_readme, ("data.readme",)),
    Checker(data_packet.check_risks, ("data.risk_notes",)),
    Checker(data_packet.check_costs, ("data.cost_notes",)),
)
