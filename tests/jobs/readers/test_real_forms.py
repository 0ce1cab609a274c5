"""Forms and values that real systems print, each with what the record truly says."""

import json
from typing import Any

import pandas as pd
import pytest

from jobs.readers import ReadError
from jobs.schema import derive_fields, leave_out_bad_fields, split_valid
from jobs.store.merging import merge_repeated, separate_recycled
from jobs.transfers import TRANSFER, derive_transfer_fields

MIB, GIB = 1024.0**2, 1024.0**3


@pytest.fixture
def stored(read_text):
    """What would be stored of a text: the jobs by id, the rejects and the notes."""

    def read(text: str | bytes, **options: Any) -> tuple[dict[str, dict[str, Any]], list[str], Any]:
        outcome = read_text(text, **options)
        jobs, left_out = leave_out_bad_fields(outcome.jobs, outcome.record)
        derive = derive_transfer_fields if outcome.record is TRANSFER else derive_fields
        jobs, refused = split_valid(derive(jobs), record=outcome.record)
        jobs = jobs.reset_index(drop=True)
        named = separate_recycled(jobs, jobs.iloc[:0], record=outcome.record)
        jobs = merge_repeated(named, outcome.record)
        rows = {
            row[outcome.record.identity[1]]: {
                name: value for name, value in row.items() if not pd.isna(value)
            }
            for row in jobs.to_dict("records")
        }
        reasons = [reject.reason for reject in outcome.rejects] + refused.tolist()
        return rows, reasons, outcome.notes + left_out

    return read


SACCT = "JobID|JobName|State|Submit|Start|End|ElapsedRaw|AllocCPUS|ReqMem|TimelimitRaw|WorkDir\n"
RAN = "2024-03-01T10:00:00|2024-03-01T10:01:00|2024-03-01T10:11:00|600|1|4G|60"
AGAIN = "2024-03-01T10:12:00|2024-03-01T10:13:00|2024-03-01T10:33:00|1200|1|4G|60"


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (f"1|tail log | grep x|COMPLETED|{RAN}|/x", "tail log | grep x"),
        (f"1|a\nb|COMPLETED|{RAN}|/x", "a\nb"),
        (f"1|a|b\nc|d|COMPLETED|{RAN}|/x|y\n/z", "a|b\nc|d"),
        (f"1|2|3|COMPLETED|{RAN}|/x", "2|3"),
        (f"1|a|COMPLETED|{RAN}|/x\n/more 1|2\nand more", "a"),
        (f"1|COMPLETED|COMPLETED|{RAN}|", "COMPLETED"),
    ],
)
def test_bars_and_line_feeds_in_free_texts_move_no_typed_column(stored, row, name):
    rows, rejects, _ = stored(SACCT + row + f"\n2|plain|FAILED|{AGAIN}|/y\n")
    assert rejects == []
    assert (rows["1"]["job_name"], rows["1"]["walltime"], rows["1"]["status"]) == (
        name,
        600.0,
        "completed",
    )
    assert (rows["2"]["job_name"], rows["2"]["walltime"], rows["2"]["status"]) == (
        "plain",
        1200.0,
        "failed",
    )


def test_constraints_with_slurms_own_or_and_a_comment_in_json(stored):
    header = "Constraints|AdminComment|JobID|State|Submit|Start|End|AllocCPUS\n"
    row = (
        'a|b|{"x": "1|2"}|7|COMPLETED|2024-03-01T10:00:00|2024-03-01T10:01:00|2024-03-01T10:11:00|4'
    )
    rows, rejects, _ = stored(header + row + "\n")
    assert rejects == []
    assert (rows["7"]["walltime"], rows["7"]["cores"]) == (600.0, 4.0)


def test_commas_between_columns_and_in_lists(stored):
    header = "JobID,NodeList,ReqTRES,State,Submit,Start,End,AllocCPUS\n"
    rest = "COMPLETED,2024-03-01T10:00:00,2024-03-01T10:01:00,2024-03-01T10:11:00,4\n"
    text = header + f"7,n[1,3-5],cpu=4,mem=8G,node=2,{rest}" + f'8,"n[1,3]",cpu=4,{rest}'
    rows, rejects, _ = stored(text)
    assert rejects == []
    assert [row["walltime"] for row in rows.values()] == [600.0, 600.0]
    assert [row["cores"] for row in rows.values()] == [4.0, 4.0]


def test_a_job_of_a_thousand_steps_is_read_whole(stored):
    steps = sacct_json()["steps"]
    many = [
        steps[0] | {"step": {"id": {"step_id": str(n)}, "name": "x" * 2000}} for n in range(999)
    ]
    rows, rejects, _ = stored(json.dumps({"jobs": [sacct_json(steps=many)]}))
    assert rejects == []
    assert (rows["9"]["walltime"], rows["9"]["read_bytes"]) == (60.0, 77.0 * 999)


def test_a_bad_row_after_a_row_that_ends_in_free_text_is_rejected_and_not_swallowed(stored):
    bad = f"2|b|FAILED|{RAN}|/y\n".replace("2024-03-01T10:01:00", "a while")
    rows, rejects, _ = stored(SACCT + f"1|a|COMPLETED|{RAN}|/x\n{bad}3|c|COMPLETED|{RAN}|/z\n")
    assert list(rows) == ["1", "3"]
    assert rejects == ["start is not a time: a while"]


def test_a_cut_row_does_not_take_the_next_with_it(stored):
    rows, rejects, _ = stored(SACCT + f"1|a|COMPLETED|2024\n2|b|FAILED|{RAN}|/y\n")
    assert list(rows) == ["2"]
    assert len(rejects) == 1


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("2147486448Mn", 8 * 2800 * MIB),  # 0x80000000 + 2800 MB a CPU
        ("2147486448M", 8 * 2800 * MIB),
        ("9223372036854778608M", 8 * 2800 * MIB),  # 2^63 + 2800
        ("4294967294M", None),
        ("4294967295Mn", None),
        ("18446744073709551615M", None),
        ("9223372036854775807M", None),
        ("2.00Pc", None),
        ("0c", None),
        ("0n", None),
        ("2T", 2048 * GIB),
        ("2G", 2 * GIB),
    ],
)
def test_slurms_flags_and_no_values_are_no_memory(stored, asked, expected):
    header = "JobID|State|Submit|Start|End|ReqCPUS|NNodes|ReqMem\n"
    row = "1|COMPLETED|2024-03-01T10:00:00|2024-03-01T10:01:00|2024-03-01T10:11:00|8|1|"
    rows, _, _ = stored(header + row + asked + "\n")
    assert rows["1"].get("requested_memory") == expected


@pytest.mark.parametrize("limit", ["4294967295", "4294967294", "2147483647", "UNLIMITED", "0"])
def test_slurms_no_limit_is_no_walltime(stored, limit):
    rows, rejects, _ = stored(SACCT + f"1|a|COMPLETED|{RAN.removesuffix('60')}{limit}|/x\n")
    assert rejects == []
    assert "requested_walltime" not in rows["1"]
    assert rows["1"]["walltime"] == 600.0


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("lost", ["PREEMPTED", "NODE_FAIL", "REQUEUED", "FAILED"])
def test_the_last_run_of_a_requeued_job_is_its_outcome(stored, lost, order):
    runs = [f"1|a|{lost}|{RAN}|/x\n", f"1|a|COMPLETED|{AGAIN}|/x\n"][::order]
    rows, _, _ = stored(SACCT + "".join(runs))
    assert (rows["1"]["status"], rows["1"]["walltime"]) == ("completed", 1200.0)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("state", "times", "status"),
    [
        ("PENDING", "2024-03-01T10:11:00|Unknown|Unknown|0", "waiting"),
        ("RUNNING", "2024-03-01T10:11:00|2024-03-01T10:13:00|Unknown|60", "running"),
    ],
)
def test_a_job_that_was_requeued_has_no_outcome_until_its_last_run_ends(
    stored, state, times, status, order
):
    runs = [f"1|a|NODE_FAIL|{RAN}|/x\n", f"1|a|{state}|{times}|1|4G|60|/x\n"][::order]
    rows, _, _ = stored(SACCT + "".join(runs))
    assert rows["1"]["status"] == status
    assert not {"ended_at", "walltime"} & set(rows["1"])


def test_a_recycled_id_is_another_job(stored):
    later = AGAIN.replace("2024", "2025")
    rows, _, _ = stored(SACCT + f"1|a|COMPLETED|{RAN}|/x\n1|b|FAILED|{later}|/y\n")
    assert {name: row["job_name"] for name, row in rows.items()} == {"1": "a", "1@2025-03-01": "b"}


@pytest.mark.parametrize(
    ("job", "step", "status"),
    [
        ("FAILED|1:0", "OUT_OF_MEMORY|0:125", "out_of_memory"),
        ("FAILED|0:125", "FAILED|1:0", "out_of_memory"),
        ("FAILED|1:0", "FAILED|1:0", "failed"),
        ("COMPLETED|0:0", "OUT_OF_MEMORY|0:125", "completed"),
        ("TIMEOUT|0:15", "OUT_OF_MEMORY|0:125", "timeout"),
    ],
)
def test_a_step_that_ran_out_of_memory_says_why_its_job_failed(stored, job, step, status):
    header = "JobID|State|ExitCode|Submit|Start|End\n"
    times = "2024-03-01T10:00:00|2024-03-01T10:01:00|2024-03-01T10:11:00"
    rows, _, _ = stored(header + f"1|{job}|{times}\n1.0|{step}|{times}\n")
    assert rows["1"]["status"] == status


def test_a_row_of_a_whole_heterogeneous_job_is_no_job_beside_its_components(stored):
    header = "JobID|State|Submit|Start|End|AllocCPUS\n"
    rest = "|COMPLETED|2024-03-01T10:00:00|2024-03-01T10:01:00|2024-03-01T10:11:00|4\n"
    rows, _, notes = stored(header + "".join(name + rest for name in ("20", "20+0", "20+1", "21")))
    assert sorted(rows) == ["20+0", "20+1", "21"]
    assert notes["heterogeneous job, of which each component is a job, skipped"] == 1


def sacct_json(**changes: Any) -> dict[str, Any]:
    """A job as sacct --json of Slurm 21.08 writes it."""
    job = {
        "account": "acc",
        "cluster": "c1",
        "job_id": 9,
        "name": "n|m\nx",
        "partition": "p",
        "user": "ann",
        "required": {"CPUs": 4, "memory": 4096},
        "state": {"current": "COMPLETED", "reason": "None"},
        "array": {"job_id": 0, "task_id": None, "task": None},
        "time": {
            "elapsed": 60,
            "eligible": 1700000000,
            "end": 1700000070,
            "start": 1700000010,
            "submission": 1700000000,
            "limit": 60,
            "total": {"seconds": 50, "microseconds": 500000},
        },
        "tres": {
            "allocated": [
                {"type": "cpu", "name": None, "id": 1, "count": 4},
                {"type": "node", "name": None, "id": 4, "count": 2},
            ]
        },
        "steps": [
            {
                "step": {"id": {"job_id": 9, "step_id": "batch"}, "name": "batch"},
                "state": "COMPLETED",
                "tasks": {"count": 1},
                "tres": {
                    "requested": {
                        "max": [{"type": "mem", "name": None, "count": 1000, "node": "n"}],
                        "total": [
                            {"type": "mem", "name": None, "count": 3 * 2**20},
                            {"type": "fs", "name": "disk", "count": 77},
                        ],
                    },
                    "consumed": {"total": [{"type": "fs", "name": "disk", "count": 78}]},
                },
            }
        ],
    }
    return job | changes


def number(value: int | None) -> dict[str, Any]:
    return {"set": value is not None, "infinite": False, "number": value or 0}


def test_sacct_json_of_every_age(stored):
    old = {"meta": {"Slurm": {}}, "jobs": [sacct_json()]}
    new = {
        "jobs": [
            sacct_json(
                state={"current": ["COMPLETED"], "reason": "None"},
                required={
                    "CPUs": 4,
                    "memory_per_cpu": number(1024),
                    "memory_per_node": number(None),
                },
                time=sacct_json()["time"] | {"limit": number(60), "elapsed": 60},
                array={"job_id": 0, "task_id": number(None), "task": ""},
            )
        ],
        "meta": {"slurm": {"version": {"major": "25"}}},
        "errors": [],
    }
    for answer in (old, new):
        rows, rejects, _ = stored(json.dumps(answer, indent=1))
        assert rejects == []
        assert rows["9"] | {"queue": "p"} == {
            "job_id": "9",
            "source": "c1",
            "user": "ann",
            "project": "acc",
            "job_name": "n|m\nx",
            "queue": "p",
            "site": "c1",
            "requested_walltime": 3600.0,
            "requested_cores": 4.0,
            "requested_memory": 4 * GIB,
            "requested_nodes": 2.0,
            "submitted_at": pd.Timestamp(1700000000, unit="s", tz="UTC"),
            "started_at": pd.Timestamp(1700000010, unit="s", tz="UTC"),
            "ended_at": pd.Timestamp(1700000070, unit="s", tz="UTC"),
            "status": "completed",
            "cores": 4.0,
            "walltime": 60.0,
            "cpu_time": 50.5,
            "peak_memory": 3 * MIB,
            "read_bytes": 77.0,
            "written_bytes": 78.0,
            "nodes": 2.0,
        }


def test_sacct_json_tells_gpus_priority_and_energy(stored):
    def tres(**counts: int) -> list[dict[str, Any]]:
        """A list of trackable resources, of which a name has two parts (``gres__gpu``)."""
        return [
            {"type": kind.partition("__")[0], "name": kind.partition("__")[2], "count": count}
            for kind, count in counts.items()
        ]

    requested = tres(cpu=4, mem=8192, node=2, gres__gpu=4)
    requested.append({"type": "gres", "name": "gpu:h100", "id": 1002, "count": 4})
    (step,) = sacct_json()["steps"]
    step = step | {
        "time": {"elapsed": 50, "total": {"seconds": 1, "microseconds": 0}},
        "statistics": {"energy": {"consumed": number(70_000)}},
        "tres": {"requested": {"total": tres(gres__gpuutil=200, gres__gpumem=2**33)}},
    }
    job = sacct_json(
        qos="high",
        constraints="h100&ib",
        reservation={"id": 3, "name": "spring"},
        priority=number(4_294_901),
        submit_line="sbatch --exclusive --gpus=h100:4 run.sh",
        tres={"requested": requested, "allocated": [*requested, *tres(energy=90_000)]},
        steps=[step],
    )
    rows, rejects, _ = stored(json.dumps({"jobs": [job], "meta": {"slurm": {}}}))
    assert rejects == []
    facts = {
        "requested_gpus": 4.0,
        "gpu_type": "h100",
        "requested_nodes": 2.0,
        "nodes": 2.0,
        "qos": "high",
        "reservation": "spring",
        "constraint": "h100&ib",
        "priority": 4_294_901.0,
        "exclusive": 1.0,
        "energy": 90_000.0,
        "gpu_time": 100.0,
        "peak_gpu_memory": 2.0**33,
    }
    assert {name: rows["9"].get(name) for name in facts} == facts


def test_sacct_json_names_array_tasks_and_follows_one_answer_with_the_next(stored):
    array = {"job_id": 4, "task_id": number(3), "task": ""}
    infinite = sacct_json()["time"] | {"limit": {"set": True, "infinite": True, "number": 0}}
    answers = [
        {"jobs": [sacct_json(array=array, time=infinite)], "meta": {}},
        {"jobs": [sacct_json(job_id=10)], "meta": {}},
    ]
    rows, rejects, _ = stored("\n".join(map(json.dumps, answers)))
    assert rejects == []
    assert set(rows) == {"4_3", "10"}
    assert rows["4_3"]["task_id"] == "4"
    assert "requested_walltime" not in rows["4_3"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "       JobID      State    Elapsed\n------------ ---------- ----------\n  1  COMPLETED 00:01:00\n",
            ("fixed width", "--parsable2"),
        ),
        ("7|b101|rule|00:01:31|1\n7.batch|batch||00:01:31|1\n", ("header", "--noheader")),
        (json.dumps({"jobs": [{"job_id": 5, "job_state": ["RUNNING"]}]}), ("squeue", "--json")),
        ("JobId=5 JobName=a\n   UserId=u(1) GroupId=g(1)\n", ("scontrol", "--parsable2")),
        (" ID      OWNER          SUBMITTED  RUN_TIME\n1.0 ann 11/14 22:13\n", ("-json",)),
        ("000 (001.000.000) 11/14 22:13:20 Job submitted from host: <1>\n...\n", ("-json",)),
        ("Job Id: 1.s\n    Job_Name = x\n    Job_Owner = a@b\n", ("qstat", "accounting")),
        ("Oct-09 15:49:02.707 [main] DEBUG nextflow.cli.Launcher - $> run\n", ("-with-trace",)),
        ('"JOB_FINISH" "10.1" 1700000000 7 1000\n', ("LSF", "--map")),
    ],
)
def test_other_forms_are_refused_with_the_option_to_use(read_text, text, words):
    with pytest.raises(ReadError) as refusal:
        read_text(text)
    assert all(word in str(refusal.value) for word in words), refusal.value


AD: dict[str, Any] = {
    "Owner": "ann",
    "Cmd": "/h/run.sh",
    "RequestCpus": 1,
    "JobUniverse": 5,
    "ClusterId": 1,
    "ProcId": 0,
    "QDate": 1700000000,
    "JobStartDate": 1700000050,
    "JobCurrentStartDate": 1700000100,
    "CompletionDate": 1700000200,
    "JobStatus": 4,
    "ExitCode": 0,
}


@pytest.mark.parametrize(
    ("changes", "walltime"),
    [
        ({}, 100.0),
        ({"LastRemoteWallClockTime": 101.0, "CommittedTime": 73}, 101.0),
        ({"CommittedTime": 73, "RemoteWallClockTime": 5000.0}, 100.0),
        (
            {"JobStatus": 3, "LastJobStatus": 1, "CompletionDate": 0, "CommittedTime": 73}
            | {"EnteredCurrentStatus": 1700009000},
            73.0,
        ),
    ],
)
def test_condors_walltime_is_that_of_the_last_run(stored, changes, walltime):
    rows, _, _ = stored(json.dumps([AD | changes]))
    assert rows["1.0"]["walltime"] == walltime


def test_a_held_run_gives_way_to_the_one_that_completed(stored):
    held = AD | {"JobStatus": 5, "HoldReasonCode": 34, "CompletionDate": 0}
    held["EnteredCurrentStatus"] = 1700000150
    again = AD | {"JobCurrentStartDate": 1700000300, "CompletionDate": 1700000500}
    for reports in ([held, again], [again, held]):
        rows, _, _ = stored(json.dumps(reports))
        assert (rows["1.0"]["status"], rows["1.0"]["walltime"]) == ("completed", 200.0)


def test_condors_jobs_on_the_access_point_are_skipped(stored):
    ads = [AD | {"ProcId": proc, "JobUniverse": n} for proc, n in enumerate((5, 7, 12))]
    rows, _, notes = stored(json.dumps(ads))
    assert list(rows) == ["1.0"]
    assert notes == {
        "job of the scheduler universe skipped": 1,
        "job of the local universe skipped": 1,
    }


def new_classad(ad: dict[str, Any], end: str) -> str:
    return "[" + end + end.join(f"{k} = {json.dumps(v)};" for k, v in ad.items()) + end + "]\n"


def condor_xml(ad: dict[str, Any]) -> str:
    cells = "".join(
        f'<a n="{name}"><s>{value}</s></a>'
        if isinstance(value, str)
        else f'<a n="{name}"><i>{value}</i></a>'
        for name, value in ad.items()
    )
    return f'<c>{cells}<a n="X"><e>1 + 1</e></a><a n="ExitBySignal"><b v="f"/></a></c>\n'


@pytest.mark.parametrize("form", ["new", "line", "xml", "hits", "source", "monit", "ms"])
def test_every_form_of_condors_history(stored, form):
    ads = [AD, AD | {"ProcId": 1, "Cmd": '/h/a;b]"[x'}]
    text = {
        "new": lambda: "".join(new_classad(ad, "\n") for ad in ads),
        "line": lambda: "".join(new_classad(ad, " ") for ad in ads),
        "xml": lambda: (
            '<?xml version="1.0"?>\n<!DOCTYPE classads SYSTEM "classads.dtd">\n<classads>\n'
            + "".join(map(condor_xml, ads))
            + "</classads>\n"
        ),
        "hits": lambda: json.dumps({"took": 1, "hits": {"hits": [{"_source": ad} for ad in ads]}}),
        "source": lambda: "\n".join(json.dumps({"_id": "x", "_source": ad}) for ad in ads),
        "monit": lambda: "\n".join(
            json.dumps({"metadata": {"producer": "x"}, "data": ad}) for ad in ads
        ),
        "ms": lambda: json.dumps(
            [
                {name: value * 1000 if "Date" in name else value for name, value in ad.items()}
                for ad in ads
            ]
        ),
    }[form]()
    rows, rejects, _ = stored(text)
    assert rejects == []
    assert {name: row["walltime"] for name, row in rows.items()} == {"1.0": 100.0, "1.1": 100.0}
    assert rows["1.0"]["submitted_at"] == pd.Timestamp(1700000000, unit="s", tz="UTC")
    assert rows["1.0"]["program"] == "run.sh"


def pbs(job: str, rest: str, start: int = 1510709028, end: int = 1510709033) -> str:
    return (
        f"11/15/2017 01:23:53;E;{job};user=ann ctime=1510709028 start={start} end={end}"
        f" Exit_status=0 resources_used.walltime={end - start} {rest}\n"
    )


@pytest.mark.parametrize(
    ("rest", "cores"),
    [
        ("exec_host=login1/0 Resource_List.ncpus=1 Resource_List.mppwidth=512", 512.0),
        ("exec_host=login1/0 Resource_List.mppwidth=64 Resource_List.mppdepth=8", 512.0),
        ("exec_host=n1/0*4+n2/0*4 Resource_List.select=2:ncpus=4", 8.0),
    ],
)
def test_the_cores_of_a_cray_are_those_of_its_compute_nodes(stored, rest, cores):
    rows, _, _ = stored(pbs("1.s", rest))
    assert (rows["1.s"]["cores"], rows["1.s"]["requested_cores"]) == (cores, cores)


def test_pbs_arrays_zeros_and_sentinels(stored):
    rest = (
        "resources_used.mem=0kb resources_used.cput=596523:14:07 Resource_List.walltime=2147483647"
    )
    rows, rejects, notes = stored(
        pbs("4[].s", "")
        + pbs("4[1].s", rest)
        + pbs("1.s", "Resource_List.mem=9223372036854775807b")
    )
    assert rejects == []
    assert sorted(rows) == ["1.s", "4[1].s"]
    assert not {"peak_memory", "cpu_time", "requested_walltime"} & set(rows["4[1].s"])
    assert "requested_memory" not in rows["1.s"]
    assert notes["record of an array, whose jobs have their own, not used"] == 1


def test_the_last_run_of_a_rerun_pbs_job_is_its_outcome(stored):
    first = pbs("1.s", "run_count=1").replace("Exit_status=0", "Exit_status=-11")
    rows, _, _ = stored(first + pbs("1.s", "run_count=2", start=1510709128, end=1510709138))
    assert (rows["1.s"]["status"], rows["1.s"]["walltime"]) == ("completed", 10.0)


TRACE = "task_id\thash\tnative_id\tname\tstatus\texit\tsubmit\tduration\trealtime\t%cpu\tpeak_rss\n"
TASK = "1\tcb/c73296\t72563\t{name}\t{status}\t0\t2025-10-09 15:49:02.707\t{duration}\t{realtime}\t50%\t{rss}\n"


def task(**changes: str) -> str:
    values = {"name": "A (x)", "status": "COMPLETED", "duration": "29.5s", "realtime": "14s"}
    return TASK.format(**values | {"rss": "8.9 MB"} | changes)


@pytest.mark.parametrize(
    ("changes", "ended", "walltime"),
    [
        ({}, "15:49:32.207", 14.0),
        ({"duration": "29500", "realtime": "14000"}, "15:49:32.207", 14.0),
        ({"status": "CACHED"}, "15:49:32.207", 14.0),
        ({"status": "FAILED", "realtime": "-"}, "15:49:32.207", None),
        ({"status": "SUBMITTED", "realtime": "-"}, None, None),
        ({"duration": "-3ms", "realtime": "-6ms"}, "15:49:02.707", 0.0),
        ({"duration": "-3", "realtime": "-6"}, "15:49:02.707", 0.0),
    ],
)
def test_a_default_trace_says_when_a_task_ended(stored, changes, ended, walltime):
    rows, rejects, _ = stored(TRACE + task(**changes))
    assert rejects == []
    row = rows["cb/c73296"]
    assert row.get("ended_at") == (ended and pd.Timestamp(f"2025-10-09 {ended}", tz="UTC"))
    assert row.get("walltime") == walltime


@pytest.mark.parametrize(
    ("exit_code", "rss", "status"),
    [("137", "-", "out_of_memory"), ("1", "-", "failed"), ("137", "1 GB", "failed")],
)
def test_a_killed_task_ran_out_of_memory_unless_it_used_little(stored, exit_code, rss, status):
    row = task(status="FAILED", rss=rss).rstrip("\n").replace("FAILED\t0", f"FAILED\t{exit_code}")
    rows, _, _ = stored(TRACE.rstrip("\n") + "\tmemory\n" + row + "\t4 GB\n")
    assert rows["cb/c73296"]["status"] == status


@pytest.mark.parametrize("name", ["A (x\ty)", "A (x\ny)", "A (x\n1\ty)"])
def test_tabs_and_line_feeds_in_a_task_name_move_no_typed_column(stored, name):
    rows, rejects, _ = stored(TRACE + task(name=name) + task().replace("cb/c73296", "cb/c73297"))
    assert rejects == []
    assert {row["walltime"] for row in rows.values()} == {14.0}
    assert len(rows) == 2


def test_a_trace_with_commas_is_read_with_and_without_quotes(stored):
    plain = (TRACE + task(name="A (x")).replace("\t", ",").replace("A (x", "A (x,y)")
    quoted = "\n".join(
        ",".join(f'"{cell}"' for cell in line.split("\t"))
        for line in (TRACE + task(name="A (x,y)")).splitlines()
    )
    for text in (plain, quoted + "\n"):
        rows, rejects, _ = stored(text)
        assert rejects == []
        assert rows["cb/c73296"]["walltime"] == 14.0


PANDA = {
    "pandaid": 6,
    "jeditaskid": 30,
    "jobstatus": "finished",
    "computingsite": "CERN",
    "corecount": 8,
    "creationtime": "2023-03-13 10:31:05",
    "starttime": "2023-03-13 11:31:05",
    "endtime": "2023-03-13 12:31:05",
}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"hits": {"hits": [{"_source": PANDA}]}}),
        json.dumps({"metadata": {}, "data": PANDA}),
        "\x1e" + json.dumps(PANDA) + "\n",
        json.dumps(PANDA) + "\x04",
        json.dumps({"selectionsummary": [], "jobs": [PANDA], "errsByCount": []}),
        json.dumps([PANDA | {"creationtime": 1678703465000, "starttime": 1678707065000000}]),
        json.dumps([PANDA | {"creationtime": "2023-03-13 10:31:05 UTC", "maxrss": "NULL"}]),
        json.dumps([PANDA | {"creationtime": "2023-3-13 10:31:5", "hs06": "NaT"}]),
        json.dumps([PANDA | {"maxwalltime": 2147483647, "minramcount": -1}]),
        json.dumps([PANDA | {"jobstatus": "failed", "endtime": "2023-03-13 11:41:05"}, PANDA]),
    ],
)
def test_pandas_envelopes_times_and_sentinels(stored, text):
    rows, rejects, _ = stored(text)
    assert rejects == []
    assert (rows["6"]["walltime"], rows["6"]["status"]) == (3600.0, "completed")
    assert rows["6"]["submitted_at"] == pd.Timestamp("2023-03-13 10:31:05", tz="UTC")
    assert not {"requested_walltime", "requested_memory", "peak_memory"} & set(rows["6"])


SWF = "; Version: 2.2\n; UnixStartTime: 1296514800\n"


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        ("1 10 5 100 8 -1 -1 8 2147483647 -1 1 1 1 1 1 1 -1 -1", {"requested_walltime"}),
        ("1 10 5 100 8 -1 -1 8 738738720 -1 1 1 1 1 1 1 -1 -1", {"requested_walltime"}),
        ("1 10 5 100 8 -1 4294967295 8 60 4294967295 1 1 1 1 1 1 -1 -1", {"requested_memory"}),
        ("1 10 5 100 8 -1 n/a 8 60 -1 1 1 1 1 1 1 -1 -1", {"peak_memory"}),
        ("1 10 5 100 2147483647 -1 5 8 60 -1 1 1 1 1 1 1 -1 -1", {"cores", "peak_memory"}),
    ],
)
def test_swfs_sentinels_and_bad_fields_take_no_run_time_with_them(stored, row, missing):
    rows, rejects, _ = stored(SWF + row + "\n")
    assert rejects == []
    assert rows["1"]["walltime"] == 100.0
    assert not missing & set(rows["1"])


FTS: dict[str, Any] = {
    "tr_id": "a1",
    "endpnt": "fts3",
    "timestamp_tr_st": "1467151077270",
    "timestamp_tr_comp": "1467151193118",
    "t_final_transfer_state": "Ok",
    "f_size": "2616563698",
    "tr_timestamp_start": "1467151075183.000000",
}


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        (json.dumps(FTS) + "\x04" + json.dumps(FTS) + "\x04", 115.848),
        (json.dumps({"metadata": {}, "data": FTS}), 115.848),
        (json.dumps({"hits": {"hits": [{"_source": {"data": FTS}}]}}), 115.848),
        (json.dumps(FTS | {"timestamp_tr_st": 1467151077, "timestamp_tr_comp": 1467151193}), 116.0),
        (json.dumps(FTS | {"timestamp_tr_comp": "1467151077260"}), 0.0),
        (json.dumps(FTS | {"nstreams": "many", "tcp_buf_size": -1}), 115.848),
    ],
)
def test_ftss_separators_envelopes_and_clocks(stored, text, duration):
    rows, rejects, _ = stored(text)
    assert rejects == []
    assert rows["a1"]["duration"] == pytest.approx(duration)
    assert rows["a1"]["bytes"] == 2616563698.0


def test_gridftps_microseconds_have_no_padding(stored):
    line = (
        "[24775] Thu Jul 27 12:59:42 2023 :: Transfer stats: DATE=20230727165942.5 HOST=a.org"
        " NL.EVNT=FTP_INFO START=20230727165926.169723 FILE=/data/my file [1].csv NBYTES=2"
        " TYPE=RETR CODE=226\n"
    )
    ((_, row),) = stored(line)[0].items()
    assert row["duration"] == pytest.approx(15.830282)


def test_rucios_payload_as_a_text(stored):
    payload = {
        "request-id": "r1",
        "src-rse": "CERN",
        "dst-rse": "BNL",
        "bytes": 1,
        "submitted_at": "2024-01-07 10:00:00",
        "started_at": "2024-01-07 10:01:00",
        "transferred_at": "2024-01-07 10:02:00",
    }
    rows, _, _ = stored(json.dumps({"event_type": "transfer-done", "payload": json.dumps(payload)}))
    assert rows["r1"]["duration"] == 60.0


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("0 days 12:44:28", 45868.0),
        ("1 days 00:00:00.500000", 86400.5),
        ("1 day, 2:03:04", 93784.0),
        ("1-02:03:04", 93784.0),
    ],
)
def test_timedeltas_of_pandas_and_python(stored, cell, seconds):
    row = f'7,2024-01-01,2024-01-02,"{cell}"\n'
    rows, rejects, _ = stored("job_id,submitted_at,started_at,walltime\n" + row, name="a.csv")
    assert rejects == []
    assert rows["7"]["walltime"] == seconds


@pytest.mark.parametrize(
    ("started", "ended", "walltime"),
    [
        ("2024-01-01 10:00:00.500", "2024-01-01 10:00:10", 9.5),
        ("2024-01-01 10:00:00", "2024-01-01 10:00:10", 9.5),  # half a second before submission
        ("2024-01-01 10:00:10.005", "2024-01-01 10:00:10", 0.0),
        ("1704103201000", "1704103210000000", 9.0),
        ("1970-01-01 00:00:00", "2024-01-01 10:00:10", None),
    ],
)
def test_skewed_clocks_epochs_of_any_unit_and_the_first_second_of_1970(
    stored, started, ended, walltime
):
    row = f"7,2024-01-01 10:00:00.500,{started},{ended}\n"
    rows, rejects, _ = stored("job_id,submitted_at,started_at,ended_at\n" + row, name="a.csv")
    assert rejects == []
    assert rows["7"].get("walltime") == walltime


def test_times_out_of_order_by_more_than_a_clocks_skew_are_no_job(stored):
    row = "7,2024-01-01 10:00:00,2024-01-01 09:59:50,2024-01-01 10:00:10\n"
    rows, rejects, _ = stored("job_id,submitted_at,started_at,ended_at\n" + row, name="a.csv")
    assert (rows, rejects) == ({}, ["started_at is before submitted_at"])
