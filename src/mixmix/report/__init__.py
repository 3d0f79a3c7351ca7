"""Results of a run: an HTML page, tables in the terminal, a JSON record."""

from __future__ import annotations

from mixmix.report.page import ReportRun, write_page
from mixmix.report.record import benchmark_record, describe_machine, describe_versions
from mixmix.report.sensitivity import print_sensitivity
from mixmix.report.table import print_results

__all__ = [
    "ReportRun",
    "benchmark_record",
    "describe_machine",
    "describe_versions",
    "print_results",
    "print_sensitivity",
    "write_page",
]
