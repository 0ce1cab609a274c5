"""The page of ``gridcast monitor``: what moved, the alarms, and that it loads nothing."""

import re
from pathlib import Path

import pandas as pd

from monitoring.decay.champion import DecayReport
from monitoring.decay.detection import Alarm
from monitoring.decay.page import write_page
from monitoring.drift.report import DriftReport
from monitoring.drift.windows import Finding

MEDIANS: dict[str, object] = {"current_median": 300.0, "reference_median": 100.0}


def test_the_page_shows_what_moved_and_the_alarms_and_loads_nothing(tmp_path: Path) -> None:
    findings = (
        Finding("drift", "walltime", "", 0.5, 0.2, MEDIANS),
        Finding("drift", "events", "", 0.1, 0.2, MEDIANS),
        Finding("drift", "walltime", "user=<a>", 0.9, 0.3, MEDIANS),
    )
    drift = DriftReport(
        "drift", "Recent jobs differ.", ("walltime",), findings, (tmp_path / "e.html",)
    )
    alarm = Alarm(0, "worse", "user a", 0.0, 0.1)
    decay = DecayReport("Decay of gridcast-3.", 900, (alarm,))
    moments = pd.date_range("2026-03-01", periods=5, tz="UTC")
    measured = pd.concat(
        pd.DataFrame({"measured_at": moments, "name": f"walltime {name}", "value": value})
        for name, value in (("mae", 3600.0), ("baseline_mae", 7200.0), ("coverage_90", 0.9))
    )
    text = write_page(tmp_path / "new/m.html", "gridcast-3", drift, decay, measured).read_text()
    assert "Drift and decay of gridcast-3" in text
    assert text.count('<p class="lead">') == 2 and text.count("<svg ") == 3
    assert not re.search(r"https?://|<script|src=", text)
    moved = re.findall(r"<td>([^<]*) has median 300 instead of 100", text)
    assert moved == ["user=‹a› walltime", "walltime"]
    assert f"<td>{alarm}</td>" in text
    assert f"<td>{tmp_path / 'e.html'}</td>" in text


def test_before_anything_was_measured_there_are_no_charts(tmp_path: Path) -> None:
    nothing = pd.DataFrame({"measured_at": [], "name": pd.Series(dtype=str), "value": []})
    page = write_page(
        tmp_path / "m.html",
        "gridcast-1",
        DriftReport("unknown", "Too few jobs to tell."),
        DecayReport("Too few answers."),
        nothing,
    )
    assert "<svg" not in page.read_text() and page.read_text().count("<td colspan") == 2
