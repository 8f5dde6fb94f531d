"""Counts the kills of all tests, on however many workers they ran, and says how many there were."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many processes were killed: those whose exit status says so."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    kills: Counter[str] = Counter()
    for report in reports:
        if isinstance(report, pytest.TestReport) and report.when == "teardown":
            kills.update(dict(report.user_properties).get("kills", {}))
    if kills:
        by_role = ", ".join(f"{role} {count}" for role, count in sorted(kills.items()))
        terminalreporter.write_line(f"processes killed with SIGKILL: {kills.total()} ({by_role})")
