"""The checkers of lab 06 in the order of its report, each with the rules that it decides.

They recompute: the index is built again from config.json, every case, probe and injection is searched again under its
own account, every chunk and text is judged again, and each claimed number is derived again from the rows.
"""

from __future__ import annotations

from course_lib.checks import rag_answers, rag_controls, rag_deletion, rag_logs, rag_packet, rag_rows
from course_lib.checks.common import Checker

CHECKERS: tuple[Checker, ...] = (
    Checker(rag_packet.check_files, ("rag.files",)),
    Checker(rag_packet.check_config, ("rag.config",)),
    Checker(rag_packet.check_agreement, ("rag.files_agree",)),
    Checker(rag_rows.check_cases, ("rag.case_count", "rag.case_kinds")),
    Checker(rag_rows.check_retrieval, ("rag.hit_rate", "rag.retrieval_recomputed")),
    Checker(rag_answers.check_citations, ("rag.citation_rate", "rag.sources_shown")),
    Checker(rag_answers.check_results, ("rag.results_follow", "rag.failed_cases")),
    Checker(rag_controls.check_leaks, ("rag.restricted_chunks", "rag.cross_tenant_chunks")),
    Checker(rag_controls.check_access, ("rag.access_probes", "rag.access_coverage")),
    Checker(rag_controls.check_injection, ("rag.injection_coverage", "rag.injection_obeyed")),
    Checker(rag_deletion.check_deletion, ("rag.deletion_gone", "rag.deletion_record")),
    Checker(rag_logs.check_audit, ("rag.audit_complete", "rag.audit_no_text")),
    Checker(rag_logs.check_full_documents, ("rag.no_full_documents",)),
    Checker(rag_packet.check_notebook, ("rag.notebook",)),
    Checker(rag_packet.check_readme, ("rag.readme",)),
    Checker(rag_packet.check_reports, ("rag.test_reports",)),
    Checker(rag_packet.check_risks, ("rag.risk_notes",)),
    Checker(rag_packet.check_costs, ("rag.cost_notes",)),
)
