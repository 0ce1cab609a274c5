"""HTCondor histories, by numbers worked out by hand."""

import json

import pandas as pd
import pytest

MIB = 1024.0**2
JOB = {
    "ClusterId": 5,
    "ProcId": 2,
    "GlobalJobId": "ap1.example.org#5.2#1700000000",
    "Owner": "ann",
    "AcctGroup": "group_phys",
    "x509UserProxyVOName": "atlas",
    "ProjectName": "higgs",
    "JobBatchName": "scan",
    "Cmd": "/home/ann/bin/run.sh",
    "QDate": 1700000000,
    "JobStartDate": 1700000010,
    "JobCurrentStartDate": 1700000100,
    "CompletionDate": 1700003700,
    "EnteredCurrentStatus": 1700003701,
    "JobStatus": 4,
    "ExitCode": 0,
    "ExitBySignal": False,
    "RemoteWallClockTime": 3690.0,
    "CommittedTime": 3600,
    "RemoteUserCpu": 3000.0,
    "RemoteSysCpu": 60.5,
    "MemoryUsage": "\\/Expr(((ResidentSetSize + 1023) / 1024))\\/".replace("\\/", "/"),
    "ResidentSetSize": 1250000,
    "ResidentSetSize_RAW": 1000000,
    "RequestCpus": 2,
    "RequestMemory": 2048,
    "RequestDisk": 4000000,
    "TransferInputSizeMB": 3,
    "BytesRecvd": 2000.0,
    "BytesSent": 1000.0,
    "LastRemoteHost": "slot1_2@node7.example.org",
    "MATCH_EXP_JOB_GLIDEIN_Site": "T2_CH_CERN_HLT",
    "DESIRED_Sites": "CERN",
    "DAGManJobId": 4,
    "AllowedJobDuration": 7200,
}
EXPECTED = {
    "job_id": "5.2",
    "task_id": "5",
    "request_id": "4",
    "source": "ap1.example.org",
    "user": "ann",
    "group": "atlas",
    "project": "higgs",
    "program": "run.sh",
    "job_name": "scan",
    "site": "CERN",
    "host": "node7.example.org",
    "requested_walltime": 7200.0,
    "requested_cores": 2.0,
    "requested_memory": 2048 * MIB,
    "input_bytes": 3 * MIB,
    "submitted_at": pd.Timestamp(1700000000, unit="s", tz="UTC"),
    "started_at": pd.Timestamp(1700000100, unit="s", tz="UTC"),
    "ended_at": pd.Timestamp(1700003700, unit="s", tz="UTC"),
    "status": "completed",
    "cores": 2.0,
    "walltime": 3600.0,
    "cpu_time": 3060.5,
    "peak_memory": 1000000 * 1024.0,
    "read_bytes": 2000.0,
    "written_bytes": 1000.0,
}


def long_form(job: dict[str, object]) -> str:
    """A job as ``condor_history -long`` prints it."""

    def literal(value: object) -> str:
        if isinstance(value, str):
            return (
                value[6:-2] if value.startswith("/Expr(") else '"' + value.replace('"', '\\"') + '"'
            )
        return json.dumps(value)

    return "".join(f"{name} = {literal(value)}\n" for name, value in job.items())


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([JOB]),
        json.dumps([JOB], indent=2),
        json.dumps(JOB) + "\n",
        long_form(JOB),
        long_form(JOB) + "\n\n",
    ],
)
def test_every_attribute_in_its_unit_in_both_forms(read_text, text):
    outcome = read_text(text)
    assert outcome.row("5.2") == EXPECTED
    assert outcome.lines == [1]


def one(read_text, **changes):
    job = {name: value for name, value in {**JOB, **changes}.items() if value is not None}
    in_json, in_long = read_text(json.dumps([job])).row("5.2"), read_text(long_form(job)).row("5.2")
    assert in_json == in_long
    return in_json


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"ExitCode": 3}, "failed"),
        ({"ExitBySignal": True, "ExitCode": None}, "failed"),
        ({"JobStatus": 3, "CompletionDate": 0}, "cancelled"),
        ({"JobStatus": 3, "CompletionDate": 0, "LastHoldReasonCode": 34}, "out_of_memory"),
        ({"JobStatus": 3, "CompletionDate": 0, "LastHoldReasonCode": 46}, "timeout"),
        ({"JobStatus": 5, "CompletionDate": 0, "HoldReasonCode": 47}, "timeout"),
        ({"JobStatus": 17}, "unknown"),
    ],
)
def test_how_a_job_ended(read_text, changes, status):
    assert one(read_text, **changes)["status"] == status


@pytest.mark.parametrize(
    ("code", "status"), [(1, "waiting"), (2, "running"), (5, "waiting"), (7, "running")]
)
def test_a_job_that_has_not_ended_has_no_outcome(read_text, code, status):
    row = one(read_text, JobStatus=code, CompletionDate=0)
    assert row["status"] == status
    assert not {"ended_at", "walltime", "cpu_time", "peak_memory", "read_bytes"} & set(row)


def test_where_a_job_ran_is_no_site_that_it_asked_for(read_text):
    assert "site" not in one(read_text, DESIRED_Sites=None)
    assert "site" not in one(read_text, DESIRED_Sites="CERN,FNAL")


def test_a_removed_job_ended_when_it_was_removed_and_took_its_last_run(read_text):
    row = one(read_text, JobStatus=3, CompletionDate=0, CommittedTime=0)
    assert row["ended_at"] == pd.Timestamp(1700003701, unit="s", tz="UTC")
    assert row["walltime"] == 3601.0


def test_a_job_removed_while_it_was_idle_has_the_time_of_its_runs(read_text):
    for last_status in (1, 5):
        row = one(
            read_text, JobStatus=3, CompletionDate=0, CommittedTime=0, LastJobStatus=last_status
        )
        assert row["walltime"] == 3690.0


def test_an_unreadable_optional_attribute_takes_no_outcome_with_it(read_text):
    assert one(read_text, RequestCpus="many") == {
        name: value for name, value in EXPECTED.items() if name not in ("requested_cores", "cores")
    }


def test_a_literal_memory_usage_is_in_mib_and_an_expression_is_missing(read_text):
    assert one(read_text, ResidentSetSize_RAW=None, MemoryUsage=900)["peak_memory"] == 900 * MIB
    assert one(read_text, ResidentSetSize_RAW=None)["peak_memory"] == 1250000 * 1024.0
    assert "requested_memory" not in one(read_text, RequestMemory="/Expr(2 * MemoryUsage)/")


def test_the_banners_of_a_history_file_part_its_records(read_text):
    banner = (
        '*** Offset = 1234 ClusterId = 5 ProcId = 2 Owner = "ann" CompletionDate = 1700003700\n'
    )
    outcome = read_text(long_form(JOB) + banner + long_form({**JOB, "ProcId": 3}) + banner)
    assert outcome.jobs["job_id"].tolist() == ["5.2", "5.3"]
    assert outcome.lines == [1, len(JOB) + 2]


def test_quotes_and_non_ascii_names_survive(read_text):
    assert one(read_text, Owner='Jörg "J" Müller')["user"] == 'Jörg "J" Müller'


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"QDate": None}, "QDate is missing"),
        ({"ClusterId": None}, "ClusterId is missing"),
        ({"ProcId": 1.5}, "ProcId is not a whole number: 1.5"),
        ({"JobStatus": "over"}, "JobStatus is not a number: over"),
        ({"QDate": 10**18}, "QDate is a time that no calendar holds: 1e+18"),
    ],
)
def test_a_record_without_what_it_needs_is_rejected_by_name(read_text, changes, reason):
    bad = {name: value for name, value in {**JOB, **changes}.items() if value is not None}
    for text in (
        json.dumps([JOB, bad, {**JOB, "ProcId": 9}]),
        long_form(JOB) + "\n" + long_form(bad) + "\n" + long_form({**JOB, "ProcId": 9}),
    ):
        outcome = read_text(text)
        assert outcome.jobs["job_id"].tolist() == ["5.2", "5.9"]
        assert [reject.reason for reject in outcome.rejects] == [reason]


def test_a_record_that_is_cut_off_does_not_take_the_next_with_it(read_text):
    records = [json.dumps({**JOB, "ProcId": n}, indent=1) for n in range(4)]
    records[1] = records[1][:300]  # no closing brace, within a string
    outcome = read_text("[\n" + "\n,\n".join(records) + "\n]\n")
    assert outcome.jobs["job_id"].tolist() == ["5.0", "5.2", "5.3"]
    assert len(outcome.rejects) == 1


def test_a_long_array_is_streamed_in_bounded_batches(tmp_path):
    from jobs.readers import ReadOptions, detect

    path = tmp_path / "history.json"
    with path.open("w") as file:
        file.write(
            "[\n" + "\n,\n".join(json.dumps({**JOB, "ProcId": n}) for n in range(2000)) + "\n]\n"
        )
    sizes = [len(batch.jobs) for batch in detect(path).read(path, ReadOptions(batch_rows=300))]
    assert sizes == [300] * 6 + [200]


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        (
            {
                "RequestGPUs": 2,
                "GPUsProvisioned": 2,
                "GPUsUsage": 1.25,
                "GPUsMemoryUsage": 242.0,
                "JobPrio": -5,
            },
            {
                "requested_gpus": 2.0,
                "gpu_time": 1.25 * 3600,
                "peak_gpu_memory": 242 * MIB,
                "priority": -5.0,
            },
        ),
        (
            {"GPUsProvisioned": 1, "GPUsAverageUsage": 0.5},
            {"requested_gpus": 1.0, "gpu_time": 1800.0},
        ),
        (
            {"JobUniverse": 11, "MaxHosts": 3, "RequestGPUs": 1},
            {"requested_gpus": 3.0, "requested_nodes": 3.0, "nodes": 3.0},
        ),
        # What a machine must be is no list of features.
        ({"Requirements": '(TARGET.Arch == "X86_64")', "RequestGPUs": 0}, {"requested_gpus": 0.0}),
    ],
)
def test_gpus_and_priority(read_text, changes, facts):
    row = one(read_text, **changes)
    names = ("requested_gpus", "gpu_time", "peak_gpu_memory", "priority", "requested_nodes")
    names += ("nodes", "constraint")
    assert {name: row[name] for name in names if name in row} == facts
