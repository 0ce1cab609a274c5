"""PanDA job records, by numbers worked out by hand."""

import csv
import io
import json

import pandas as pd
import pytest

JOB = {
    "pandaid": 6000000001,
    "jeditaskid": 33000000,
    "parent_tid": 32999999,
    "reqid": 41000,
    "produsername": "Ann Other",
    "workinggroup": "AP_HIGG",
    "processingtype": "simul",
    "prodsourcelabel": "managed",
    "project": "mc23",
    "transformation": "Sim_tf.py",
    "computingsite": "CERN-PROD",
    "computingelement": "ce503.cern.ch",
    "modificationhost": "slot1_1@b7s01.cern.ch",
    "cpuconsumptiontime": 27000,
    "cpuconsumptionunit": "s+Intel Xeon",
    "maxrss": 9000000,
    "maxpss": 8000000,
    "minramcount": 2000,
    "corecount": 8,
    "actualcorecount": 8,
    "maxwalltime": 86400,
    "creationtime": "2023-03-13T10:00:00",
    "starttime": "2023-03-13T10:10:00",
    "endtime": "2023-03-13T11:10:00",
    "jobstatus": "finished",
    "ninputdatafiles": 2,
    "inputfilebytes": 5000000000,
    "outputfilebytes": 700,
    "nevents": 1990,
    "assignedpriority": -500,
    "currentpriority": 320,
    "totrbytes": 6000000000,
    "totwbytes": 1000000000,
    "hs06": 11.5,
    "jobparameters": "--inputEVNTFile=EVNT.1 --maxEvents=2000 --randomSeed=7",
}
EXPECTED = {
    "job_id": "6000000001",
    "task_id": "33000000",
    "after_task_id": "32999999",
    "request_id": "41000",
    "source": "panda",
    "user": "Ann Other",
    "group": "AP_HIGG",
    "project": "mc23",
    "program": "Sim_tf.py",
    "job_name": "simul",
    "site": "CERN-PROD",
    "host": "b7s01.cern.ch",
    "host_power": 11.5,
    "requested_walltime": 86400.0,
    "requested_cores": 8.0,
    "requested_memory": 8 * 2000 * 1024.0**2,
    "priority": -500.0,
    "input_bytes": 5e9,
    "input_files": 2.0,
    "events": 2000.0,
    "submitted_at": pd.Timestamp("2023-03-13 10:00", tz="UTC"),
    "started_at": pd.Timestamp("2023-03-13 10:10", tz="UTC"),
    "ended_at": pd.Timestamp("2023-03-13 11:10", tz="UTC"),
    "status": "completed",
    "cores": 8.0,
    "cpu_time": 27000.0,
    "peak_memory": 8000000 * 1024.0,
    "read_bytes": 6e9,
    "written_bytes": 1e9,
}


def as_csv(*jobs: dict[str, object]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(jobs[0]))
    writer.writeheader()
    writer.writerows(jobs)
    return out.getvalue()


FORMS = {
    "array": json.dumps([JOB]),
    "wrapped": json.dumps(
        {
            "selectionsummary": [{"field": "site", "list": [1]}],
            "jobs": [JOB],
            "errsByCount": [{"error": 1}],
        }
    ),
    "wrapped and pretty": json.dumps({"jobs": [JOB]}, indent=4),
    "lines": json.dumps(JOB) + "\n",
    "upper case": json.dumps([{name.upper(): value for name, value in JOB.items()}]),
    "csv": as_csv(JOB),
    "csv in PanDA's case": as_csv(
        {
            name.replace("pandaid", "PandaID").replace("jobstatus", "jobStatus"): value
            for name, value in JOB.items()
        }
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_field_in_its_unit_in_every_form(read_text, form):
    outcome = read_text(FORMS[form])
    assert outcome.row("6000000001") == EXPECTED
    assert (outcome.rejects, outcome.notes) == ([], {})


@pytest.mark.parametrize(
    ("word", "code", "status"),
    [
        ("finished", 0, "completed"),
        ("failed", 1305, "failed"),
        ("failed", 1213, "timeout"),
        ("failed", 1235, "out_of_memory"),
        ("failed", 1212, "out_of_memory"),
        ("cancelled", 0, "cancelled"),
        ("closed", 0, "cancelled"),
        ("reborn", 0, "unknown"),
    ],
)
def test_how_a_job_ended(read_text, word, code, status):
    assert (
        read_text(json.dumps([{**JOB, "jobstatus": word, "piloterrorcode": code}])).row(
            "6000000001"
        )["status"]
        == status
    )


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("activated", "waiting"),
        ("starting", "waiting"),
        ("running", "running"),
        ("transferring", "running"),
    ],
)
def test_a_job_that_has_not_ended_has_no_outcome(read_text, word, status):
    row = read_text(json.dumps([{**JOB, "jobstatus": word}])).row("6000000001")
    assert row["status"] == status
    assert not {"ended_at", "cpu_time", "peak_memory", "read_bytes", "written_bytes"} & set(row)


def test_what_panda_writes_as_zero_or_null_is_not_known(read_text):
    nothing = {
        "corecount": None,
        "actualcorecount": 0,
        "minramcount": 0,
        "maxpss": 0,
        "hs06": 0,
        "jobparameters": None,
        "maxwalltime": 0,
        "totwbytes": None,
    }
    row = read_text(json.dumps([{**JOB, **nothing}])).row("6000000001")
    assert (row["requested_cores"], row["cores"]) == (1.0, 1.0)
    assert row["peak_memory"] == 9000000 * 1024.0
    assert row["written_bytes"] == 700.0
    assert not {"requested_memory", "host_power", "events", "requested_walltime"} & set(row)


@pytest.mark.parametrize(("parent", "request_"), [(33000000, 0), (0, None), (None, "")])
def test_a_task_that_is_its_own_parent_waits_for_none(read_text, parent, request_):
    row = read_text(json.dumps([{**JOB, "parent_tid": parent, "reqid": request_}])).row(
        "6000000001"
    )
    assert not {"after_task_id", "request_id"} & set(row)


@pytest.mark.parametrize(
    ("parameters", "events"),
    [("--maxEvents 50 -x", 50.0), ("--maxEvents=-1", None), ("--skipEvents=9", None)],
)
def test_events_are_those_asked_for(read_text, parameters, events):
    row = read_text(json.dumps([{**JOB, "jobparameters": parameters}])).row("6000000001")
    assert row.get("events") == events


def test_memory_asked_for_the_whole_job_is_not_multiplied(read_text):
    assert (
        read_text(json.dumps([{**JOB, "minramunit": "MB"}])).row("6000000001")["requested_memory"]
        == 2000 * 1024.0**2
    )


def test_a_users_program_is_the_last_part_of_its_address(read_text):
    job = {**JOB, "transformation": "http://pandaserver.cern.ch:25080/trf/user/runGen-00-00-02"}
    assert read_text(json.dumps([job])).row("6000000001")["program"] == "runGen-00-00-02"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pandaid": None}, "pandaid is missing"),
        ({"creationtime": None}, "creationtime is missing"),
        ({"starttime": "yesterday"}, "starttime is not a time: yesterday"),
    ],
)
def test_a_bad_record_is_rejected_by_name(read_text, changes, reason):
    jobs = [{**JOB, "pandaid": 1}, {**JOB, "pandaid": 2, **changes}, {**JOB, "pandaid": 3}]
    for text in (json.dumps(jobs), as_csv(*jobs)):
        outcome = read_text(text)
        assert outcome.jobs["job_id"].tolist() == ["1", "3"]
        assert [reject.reason for reject in outcome.rejects] == [reason]


def test_an_unreadable_memory_takes_no_outcome_with_it(read_text):
    for text in (json.dumps([{**JOB, "maxpss": "much"}]), as_csv({**JOB, "maxpss": "much"})):
        outcome = read_text(text)
        expected = read_text(json.dumps([JOB])).row(str(JOB["pandaid"]))
        row = outcome.row(str(JOB["pandaid"]))
        # maxrss stands in for maxpss.
        assert row.pop("peak_memory") == JOB["maxrss"] * 1024
        del expected["peak_memory"]
        assert row == expected
        assert outcome.rejects == []
        assert outcome.notes == {"maxpss cannot be read: left out": 1}


def test_text_that_is_no_json_between_the_lines_is_rejected(read_text):
    lines = [json.dumps({**JOB, "pandaid": n}) for n in (1, 2)]
    outcome = read_text(f"{lines[0]}\nERROR: server busy\n{lines[1]}\n")
    assert outcome.jobs["job_id"].tolist() == ["1", "2"]
    assert [(reject.line, reject.reason, reject.raw) for reject in outcome.rejects] == [
        (2, "the text is no JSON object", "ERROR: server busy")
    ]
