"""sacct listings, by numbers worked out by hand."""

import pandas as pd
import pytest

from jobs.readers import ReadError, ReadOptions, detect

GIB, MIB = 1024.0**3, 1024.0**2

LISTING = """\
JobID|JobIDRaw|User|Account|Group|JobName|Partition|QOS|Cluster|NodeList|State|Submit|Start|End|Elapsed|ElapsedRaw|Timelimit|AllocCPUS|ReqCPUS|\
NNodes|ReqMem|MaxRSS|AveRSS|NTasks|TotalCPU|CPUTimeRAW|MaxDiskRead|MaxDiskWrite
100|100|ann|phys|staff|train|long|normal|lake|n[1-2]|COMPLETED|2024-03-01T10:00:00|2024-03-01T10:05:00|2024-03-02T11:05:00|1-01:00:00|90000|\
2-00:00:00|8|8|2|4Gn||||1-02:30:00|720000||
100.batch|100.batch||phys||batch|||lake|n1|COMPLETED|2024-03-01T10:05:00|2024-03-01T10:05:00|2024-03-02T11:05:00|1-01:00:00|90000||4|4|\
1|4Gn|200M|200M|1|00:30:00|360000|10M|1M
100.0|100.0||phys||mpi|||lake|n[1-2]|COMPLETED|2024-03-01T10:05:10|2024-03-01T10:05:10|2024-03-02T11:05:00|1-00:59:50|89990||8|8|\
2|4Gn|900M||8|1-02:00:00|719920|20M|2M
"""


def test_steps_are_folded_into_their_job(read_text):
    for batch_rows in (1, 2, 50_000):
        outcome = read_text(LISTING, batch_rows=batch_rows)
        assert outcome.lines == [2]
        assert outcome.row("100") == {
            "job_id": "100",
            "source": "lake",
            "user": "ann",
            "group": "staff",
            "project": "phys",
            "job_name": "train",
            "queue": "long",
            "site": "lake",
            "host": "n[1-2]",
            "requested_walltime": 172_800.0,
            "requested_cores": 8.0,
            "requested_memory": 8 * GIB,  # 4 GiB on each of 2 nodes
            "requested_nodes": 2.0,
            "qos": "normal",
            "submitted_at": pd.Timestamp("2024-03-01 10:00", tz="UTC"),
            "started_at": pd.Timestamp("2024-03-01 10:05", tz="UTC"),
            "ended_at": pd.Timestamp("2024-03-02 11:05", tz="UTC"),
            "status": "completed",
            "cores": 8.0,
            "walltime": 90_000.0,
            "cpu_time": 95_400.0,  # 1-02:30:00, not CPUTimeRAW
            "peak_memory": 8
            * 900
            * MIB,  # 8 tasks of step 0 at most 900 MiB each, against 200 MiB of the batch step
            "read_bytes": 10 * MIB + 8 * 20 * MIB,
            "written_bytes": 1 * MIB + 8 * 2 * MIB,
            "nodes": 2.0,
        }


STEPS = "JobID|State|Submit|Start|End|ElapsedRaw|AllocCPUS|MaxRSS|AveRSS|NTasks|TRESUsageInTot|TRESUsageOutTot|TotalCPU\n"
TIMES = "2024-03-01T10:00:00|2024-03-01T10:00:00|2024-03-01T11:00:00|3600|128"


def test_the_sum_over_tasks_is_taken_where_it_is_printed(read_text):
    step = "cpu=01:00:00,energy=0,fs/disk=4096,mem=10G,pages=3,vmem=90G|fs/disk=2K"
    row = read_text(
        STEPS + f"1|COMPLETED|{TIMES}||||||\n1.0|COMPLETED|{TIMES}|4G|1G|128|{step}|01:00:00\n"
    ).row("1")
    assert (row["peak_memory"], row["read_bytes"], row["written_bytes"]) == (
        10 * GIB,
        4096.0,
        2048.0,
    )
    assert row["cpu_time"] == 3600.0


def test_a_large_first_task_is_not_multiplied_where_the_average_is_known(read_text):
    # One task of 64 GiB among 128 that average 2 GiB: 256 GiB in all, not 8 TiB.
    row = read_text(
        STEPS + f"1|COMPLETED|{TIMES}||||||\n1.0|COMPLETED|{TIMES}|64G|2G|128|||\n"
    ).row("1")
    assert row["peak_memory"] == 256 * GIB


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("4Gc", 32 * GIB),
        ("4Gn", 8 * GIB),
        ("4G", 4 * GIB),
        ("4000M", 4000 * MIB),
        ("1000Mc", 8000 * MIB),
        ("0n", None),
        ("", None),
        ("0", None),
    ],
)
def test_requested_memory_a_core_a_node_and_a_job(read_text, asked, expected):
    header = "JobID|State|Submit|Start|End|ElapsedRaw|ReqCPUS|NNodes|ReqMem\n"
    row = read_text(header + f"1|COMPLETED|{TIMES[:-4]}|8|2|{asked}\n").row("1")
    assert row.get("requested_memory") == expected


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("COMPLETED", "completed"),
        ("FAILED", "failed"),
        ("CANCELLED by 123", "cancelled"),
        ("CANCELLED", "cancelled"),
        ("TIMEOUT", "timeout"),
        ("OUT_OF_MEMORY", "out_of_memory"),
        ("NODE_FAIL", "failed"),
        ("BOOT_FAIL", "failed"),
        ("PREEMPTED", "preempted"),
        ("DEADLINE", "cancelled"),
        ("HOVERING", "unknown"),
    ],
)
def test_states_old_and_new(read_text, state, status):
    outcome = read_text(STEPS + f"1|{state}|{TIMES}||||||\n")
    assert outcome.row("1")["status"] == status
    assert outcome.row("1")["walltime"] == 3600.0
    assert outcome.notes == ({"unknown state HOVERING": 1} if status == "unknown" else {})


@pytest.mark.parametrize(
    ("state", "status", "started"),
    [
        ("RUNNING", "running", True),
        ("PENDING", "waiting", False),
        ("REQUEUED", "waiting", False),
        ("SUSPENDED", "running", True),
    ],
)
def test_a_job_that_has_not_ended_has_no_outcome(read_text, state, status, started):
    times = "2024-03-01T10:00:00|2024-03-01T10:00:00|Unknown|1800|4"
    row = read_text(
        STEPS + f"1|{state}|{times}||||||\n1.batch|{state}|{times}|9M|9M|1|||00:10:00\n"
    ).row("1")
    assert row["status"] == status
    assert ("started_at" in row) == started
    assert not {"ended_at", "walltime", "cpu_time", "peak_memory"} & set(row)


@pytest.mark.parametrize(
    "start",
    [
        "Unknown|2024-03-01T11:00:00",
        "None|2024-03-01T11:00:00",
        "2024-03-01T11:00:00|2024-03-01T11:00:00",
    ],
)
def test_a_job_cancelled_in_the_queue_never_ran(read_text, start):
    row = read_text(
        STEPS + f"1|CANCELLED by 7|2024-03-01T10:00:00|{start}|0|0||||||00:00:00\n"
    ).row("1")
    assert row == {
        "job_id": "1",
        "source": "slurm",
        "submitted_at": pd.Timestamp("2024-03-01 10:00", tz="UTC"),
        "ended_at": pd.Timestamp("2024-03-01 11:00", tz="UTC"),
        "status": "cancelled",
    }


def test_array_and_heterogeneous_jobs_belong_to_a_task(read_text):
    jobs = ["123_4", "123_4.batch", "123_[5-9%2]", "200+0", "200+0.batch", "300"]
    outcome = read_text(STEPS + "".join(f"{job}|COMPLETED|{TIMES}|1M|1M|1|||\n" for job in jobs))
    assert dict(zip(outcome.jobs["job_id"], outcome.jobs["task_id"].fillna("-"), strict=True)) == {
        "123_4": "123",
        "200+0": "200",
        "300": "-",
    }
    assert outcome.notes == {"array tasks not started yet, printed as one row, skipped": 1}


def test_limits_in_words_and_minutes(read_text):
    header = "JobID|State|Submit|Timelimit|TimelimitRaw\n"
    rows = "1|PENDING|2024-03-01T10:00:00|UNLIMITED|\n2|PENDING|2024-03-01T10:00:00|Partition_Limit|\n3|PENDING|2024-03-01T10:00:00||90\n"
    limits = read_text(header + rows).jobs["requested_walltime"]
    assert limits.isna().tolist() == [True, True, False]
    assert limits[2] == 5400.0


def test_local_times_over_the_end_of_daylight_saving(read_text):
    # On 27 October 2024 Paris lived through 02:00 to 03:00 twice. Half an hour from 02:45 (summer time) ends at 02:15 (winter time).
    header = "JobID|State|Submit|Start|End|ElapsedRaw\n"
    rows = [
        "1|COMPLETED|2024-10-27T01:30:00|2024-10-27T02:45:00|2024-10-27T02:15:00|1800",
        "2|COMPLETED|2024-10-27T01:30:00|2024-10-27T01:45:00|2024-10-27T03:30:00|9900",
        "3|COMPLETED|2024-10-27T02:10:00|2024-10-27T02:20:00|2024-10-27T02:40:00|1200",
        "4|COMPLETED|2024-07-01T12:00:00|2024-07-01T12:00:00|2024-07-01T13:00:00|3600",
    ]
    jobs = read_text(header + "\n".join(rows) + "\n", timezone="Europe/Paris").jobs
    assert jobs["started_at"].dt.strftime("%H:%M").tolist() == ["00:45", "23:45", "00:20", "10:00"]
    assert ((jobs["ended_at"] - jobs["started_at"]).dt.total_seconds() == jobs["walltime"]).all()
    assert (jobs["started_at"] >= jobs["submitted_at"]).all()


def test_an_offset_or_seconds_since_1970_need_no_zone(read_text):
    header = "JobID|State|Submit|Start|End\n"
    row = read_text(
        header + "1|COMPLETED|2024-03-01T10:00:00+01:00|1709283600|1709287200\n",
        timezone="America/New_York",
    ).row("1")
    assert (row["submitted_at"].hour, row["started_at"].hour, row["ended_at"].hour) == (9, 9, 10)


def test_a_bar_in_the_only_free_text_is_put_back(read_text):
    header = "JobID|JobName|State|Submit\n"
    outcome = read_text(
        header + "1|a|b|c|PENDING|2024-03-01T10:00:00\n2|PENDING|2024-03-01T10:00:00\n"
    )
    assert outcome.row("1")["job_name"] == "a|b|c"
    assert [reject.reason for reject in outcome.rejects] == ["the row has 3 cells, the header 4"]


def test_a_step_alone_and_an_unreadable_time_are_rejected_by_name(read_text):
    outcome = read_text(
        STEPS
        + f"9.batch|COMPLETED|{TIMES}|1M|1M|1|||\n1|COMPLETED|{TIMES}|5X|||||\n2|COMPLETED|never{TIMES[19:]}||||||\n"
    )
    assert {reject.line: reject.reason for reject in outcome.rejects} == {
        2: "a step whose job's own row is not near it",
        4: "submit is not a time: never",
    }
    assert outcome.row("1")["walltime"] == 3600.0
    assert outcome.notes == {"maxrss cannot be read: left out": 1}


def test_a_renamed_job_id_refuses_the_file_by_name(tmp_path):
    path = tmp_path / "renamed.txt"
    path.write_text(STEPS.replace("JobID", "JobNumber") + f"1|COMPLETED|{TIMES}||||||\n")
    with pytest.raises(ReadError, match=r"renamed\.txt has no column JobID"):
        list(detect(path).read(path, ReadOptions()))


@pytest.mark.parametrize(
    ("step", "status"), [("FAILED", "preempted"), ("OUT_OF_MEMORY", "out_of_memory")]
)
def test_a_requeued_run_is_over_and_its_job_waits_from_then_on(read_text, step, status):
    outcome = read_text(
        STEPS + f"1|REQUEUED|{TIMES}||||||\n1.batch|{step}|{TIMES}|9M|9M|1|||00:10:00\n"
    )
    run, waits = outcome.jobs.to_dict("records")
    assert (run["status"], run["walltime"], run["peak_memory"]) == (status, 3600.0, 9 * MIB)
    assert (waits["status"], waits["submitted_at"]) == ("waiting", run["ended_at"])
    assert pd.isna([waits["started_at"], waits["ended_at"], waits["walltime"]]).all()


def test_steps_of_a_rejected_run_are_neither_rejects_nor_another_runs(read_text):
    bad = TIMES.replace("2024-03-01T10:00:00", "yesterday", 1)
    rows = [f"1|COMPLETED|{TIMES}|1G|1G|1|||", f"1|FAILED|{bad}|||1|||"]
    step = f"1.batch|FAILED|{TIMES}|9G|9G|1|||"
    outcome = read_text(STEPS + "".join(f"{row}\n" for row in (*rows, step)))
    assert [reject.line for reject in outcome.rejects] == [3]
    assert outcome.notes == {"step of a rejected job not used": 1}
    assert outcome.row("1")["peak_memory"] == GIB
    # A later sound row of that job is not lost with it.
    outcome = read_text(STEPS + "".join(f"{row}\n" for row in (rows[1], rows[0])))
    assert outcome.row("1")["status"] == "completed" and len(outcome.rejects) == 1


GPU_LISTING = """\
JobID|State|Submit|Start|End|ElapsedRaw|QOS|Reservation|Constraints|Priority|ReqCPUS|NNodes|ReqNodes|ReqMem|\
ReqTRES|AllocTRES|TRESUsageInTot|ConsumedEnergyRaw|ExitCode|JobName
70|COMPLETED|2024-03-01T10:00:00|2024-03-01T10:00:00|2024-03-01T11:00:00|3600|high|spring|intel|amd&ib|4294901|16|2|2|\
8Gn|billing=96,cpu=16,gres/gpu:a100=4,gres/gpu=4,mem=16G,node=2|\
billing=96,cpu=16,energy=5400000,gres/gpu:a100=4,gres/gpu=4,mem=16G,node=2||5400000|0:0|train
70.batch|COMPLETED|2024-03-01T10:00:00|2024-03-01T10:00:00|2024-03-01T11:00:00|3600|||||16|1|1||||\
cpu=00:10:00,energy=5300000,fs/disk=4096,gres/gpumem=21794M,gres/gpuutil=50,mem=2G|5300000|0:0|batch
70.0|COMPLETED|2024-03-01T10:30:00|2024-03-01T10:30:00|2024-03-01T11:00:00|1800|||||16|2|2||||\
cpu=00:10:00,energy=2600000,fs/disk=4096,gres/gpumem=76G,gres/gpuutil=387,mem=2G|2600000|0:0|python
71|PENDING|2024-03-01T10:00:00|Unknown|Unknown|0|normal|||17|1|1|1|4Gc|\
billing=1,cpu=1,mem=4G,node=1||||0:0|cpu only
"""


def test_gpus_nodes_priority_and_energy_of_a_job_and_its_steps(read_text):
    outcome = read_text(GPU_LISTING)
    row = outcome.row("70")
    assert (row["requested_gpus"], row["gpu_type"]) == (4.0, "a100")
    assert (row["requested_nodes"], row["nodes"]) == (2.0, 2.0)
    assert (row["qos"], row["reservation"], row["constraint"]) == ("high", "spring", "intel|amd&ib")
    assert row["job_name"] == "train"
    assert row["priority"] == 4_294_901.0
    assert row["requested_memory"] == 16 * GIB  # 8 GiB on each of 2 nodes
    assert row["energy"] == 5.4e6  # the job's own: its steps overlap
    assert row["gpu_time"] == pytest.approx(0.5 * 3600 + 3.87 * 1800)
    assert row["peak_gpu_memory"] == 76 * GIB
    waiting = outcome.row("71")
    assert (waiting["priority"], waiting["requested_nodes"]) == (17.0, 1.0)
    assert waiting["requested_gpus"] == 0, "ReqTRES is readable and names none"
    assert not {"nodes", "energy", "gpu_time", "gpu_type"} & set(waiting)


@pytest.mark.parametrize(
    ("columns", "cells", "expected"),
    [
        ("ReqTRES", "cpu=4,gres/gpu=2,mem=4G,node=1", (2.0, None)),
        ("ReqTRES", "cpu=4,gres/gpu:A100=1,gres/gpu:v100=3", (4.0, "A100,v100")),
        ("ReqTRES", "billing=5,gres/gpu:a100_3g.20gb=1,gres/gpu=1", (1.0, "a100_3g.20gb")),
        ("ReqTRES", "billing=1,cpu=1,gres/gpumem=80G,gres/gpuutil=0", (None, None)),
        ("ReqTRES", "cpu=1,gres/gpu:tesla=x", (None, None)),
        ("ReqTRES", "billing=1,cpu=1,mem=4G,node=1", (0.0, None)),
        ("ReqTRES", "cpu=1,,=2", (None, None)),
        ("ReqTRES", "", (None, None)),
        ("ReqTRES|AllocTRES", "cpu=1|cpu=1,gres/gpu:a100=2,gres/gpu=2", (0.0, None)),
        ("AllocTRES", "cpu=1,gres/gpu:a100=2,gres/gpu=2", (2.0, None)),
        ("ReqGRES|ReqNodes", "gpu:2|3", (6.0, None)),
        ("ReqGRES|ReqNodes", "gpu:k80:2(S:0)|3", (6.0, "k80")),
        ("ReqGRES|ReqNodes", "gpu|1", (1.0, None)),
        ("ReqGRES|ReqNodes", "0|1", (None, None)),
    ],
)
def test_requested_gpus_and_their_type(read_text, columns, cells, expected):
    header = f"JobID|State|Submit|Start|End|ElapsedRaw|{columns}\n"
    outcome = read_text(header + f"1|COMPLETED|{TIMES[:-4]}|{cells}\n")
    row = outcome.row("1")
    assert (row.get("requested_gpus"), row.get("gpu_type")) == expected
    note = "request of GPUs cannot be read: left out"
    assert (note in outcome.notes) == (cells == "cpu=1,gres/gpu:tesla=x")


@pytest.mark.parametrize(
    ("column", "cell", "energy"),
    [
        ("ConsumedEnergyRaw", "123456", 123_456.0),
        ("ConsumedEnergyRaw", "18446744073709551614", None),
        ("ConsumedEnergyRaw", "", None),
        ("ConsumedEnergy", "12.34K", 12_340.0),
        ("ConsumedEnergy", "1.5M", 1.5e6),
        ("ConsumedEnergy", "17.7x", None),
    ],
)
def test_energy_in_joules(read_text, column, cell, energy):
    header = f"JobID|State|Submit|Start|End|ElapsedRaw|{column}\n"
    row = read_text(header + f"1|COMPLETED|{TIMES[:-4]}|{cell}\n").row("1")
    assert row.get("energy") == (None if energy is None else pytest.approx(energy))


def test_a_job_that_was_submitted_as_exclusive(read_text):
    header = "JobID|State|Submit|Start|End|ElapsedRaw|SubmitLine\n"
    rows = [
        f"{n}|COMPLETED|{TIMES[:-4]}|{line}\n"
        for n, line in enumerate(
            (
                "sbatch --exclusive run.sh",
                "sbatch --exclusive=user run.sh",
                "sbatch --exclusively x",
                "sbatch --exclusive=mcs x",
                "sbatch --exclusive=user --exclusive x",
            ),
            1,
        )
    ]
    outcome = read_text(header + "".join(rows))
    exclusive = [outcome.row(str(n)).get("exclusive") for n in range(1, 6)]
    assert exclusive == [1.0, None, None, None, 1.0]


@pytest.mark.parametrize(
    ("comment", "memory", "walltime"),
    [
        (
            "gridcast: 5 s (2-8) by job of g-1; requests memory 100, 400, 1000 MiB after 9 jobs",
            1000,
            600,
        ),
        (
            "gridcast: 5 s (2-8) by job of g-1; requests memory 100, 1000 MiB, time 10, 60 min after 9 jobs",
            1000,
            3600,
        ),
        (
            "gridcast: 5 s (2-8) by job of g-1; requests time 10, 60 min after 9 jobs; again with TimeLimit=60",
            100,
            3600,
        ),
        (
            "gridcast: 5 s (2-8) by job of g-1; would request memory 90, 1000 MiB after 9 jobs",
            100,
            600,
        ),
        ("a|b; requests memory 1, 2 MiB after 3 jobs", 100, 600),
        ("", 100, 600),
    ],
)
def test_a_request_is_the_users_where_the_adapter_wrote_less(read_text, comment, memory, walltime):
    header = "JobID|State|Submit|Start|End|AdminComment|ElapsedRaw|TimelimitRaw|ReqMem|JobName\n"
    rows = [
        f"{n}|{state}|{TIMES.rsplit('|', 2)[0]}|{comment}|1800|10|100M|x\n"
        for n, state in ((1, "COMPLETED"), (2, "OUT_OF_MEMORY"))
    ]
    outcome = read_text(header + "".join(rows))
    for row in (outcome.row("1"), outcome.row("2")):
        assert row["requested_memory"] == memory * 2**20
        assert row["requested_walltime"] == walltime


@pytest.mark.parametrize(
    ("columns", "cells", "expected"),
    [
        (
            "Constraints|Reservation|SubmitLine",
            "a100|v100|maint|sbatch --x a|b",
            ("a100|v100", "maint", set()),
        ),
        (
            "Constraints|Reservation|JobName",
            "a100|v100|maint|train",
            (None, None, {"constraints", "reservation"}),
        ),
        ("JobName|Reservation|Constraints", "a b|c d|maint|a", ("a", "maint", set())),
        ("Constraints|Reservation|SubmitLine", "a100|v100|maint|qsub a", (None, None, None)),
        ("Constraints|Reservation|SubmitLine", "a100|maint|qsub a", ("a100", "maint", set())),
    ],
)
def test_bars_in_constraints_are_no_reservation(read_text, columns, cells, expected):
    outcome = read_text(f"JobID|{columns}|State|Submit\n1|{cells}|PENDING|2024-03-01T10:00:00\n")
    row = outcome.row("1")
    constraint, reservation, noted = expected
    assert (row.get("constraint"), row.get("reservation")) == (constraint, reservation)
    names = {note.split()[0] for note in outcome.notes if "not used" in note}
    assert names == ({"constraints", "reservation"} if noted is None else noted)


def test_a_line_added_to_a_free_text_is_noted(read_text):
    line = "|PENDING|2024-03-01T10:00:00|sbatch a\n"
    outcome = read_text(f"JobID|State|Submit|SubmitLine\n1{line}garbage|row\n2{line}")
    assert outcome.notes == {"line without a row's columns added to the free text before it": 1}
    assert list(outcome.jobs["job_id"]) == ["1", "2"]
