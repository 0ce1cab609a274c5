"""PBS and Torque accounting records, by numbers worked out by hand."""

import pandas as pd
import pytest

KIB, MIB, GIB = 1024.0, 1024.0**2, 1024.0**3


def record(message: str, job: str = "123.srv.example.org", kind: str = "E") -> str:
    return f"03/13/2023 12:36:40;{kind};{job};{message}\n"


TIMES = "ctime=1678700000 qtime=1678700001 etime=1678700001 start=1678700100 end=1678703800 "


def test_every_key_of_an_end_record_in_its_unit(read_text):
    message = (
        'user=ann group=phys account="big project" jobname=my run; part=2 queue=batch '
        + TIMES
        + "owner=ann@login exec_host=n1/0-3+n2/0-3+n3/0*2 "
        "Resource_List.nodes=2:ppn=4+1:ppn=2 Resource_List.ncpus=1 Resource_List.walltime=02:00:00 Resource_List.mem=20gb session=77 "
        "Exit_status=0 resources_used.cput=10:00:00 resources_used.mem=1048576kb resources_used.vmem=9gb resources_used.walltime=01:01:40"
    )
    outcome = read_text(
        record("queue=batch", kind="Q") + record(message.replace("part=2", "part 2"))
    )
    assert outcome.row("123.srv.example.org") == {
        "job_id": "123.srv.example.org",
        "source": "srv.example.org",
        "user": "ann",
        "group": "phys",
        "project": "big project",
        "job_name": "my run; part 2",
        "queue": "batch",
        "host": "n1+n2+n3",
        "requested_walltime": 7200.0,
        "requested_cores": 10.0,
        "requested_memory": 20 * GIB,
        "submitted_at": pd.Timestamp(1678700000, unit="s", tz="UTC"),
        "started_at": pd.Timestamp(1678700100, unit="s", tz="UTC"),
        "ended_at": pd.Timestamp(1678703800, unit="s", tz="UTC"),
        "status": "completed",
        "cores": 10.0,
        "walltime": 3700.0,
        "cpu_time": 36000.0,
        "peak_memory": GIB,
        "nodes": 3.0,
    }
    assert outcome.lines == [2]
    assert outcome.notes == {"record Q (not the end of a job) not used": 1}


@pytest.mark.parametrize(
    ("asked", "cores"),
    [
        ("Resource_List.nodes=2:ppn=4+1:ppn=2", 10),
        ("Resource_List.nodes=4", 4),
        ("Resource_List.nodes=n01:ppn=8+n02:ppn=8", 16),
        ("Resource_List.nodes=1:ppn=8:bigmem", 8),
        ("Resource_List.ncpus=6", 6),
        ("Resource_List.ncpus=1 Resource_List.nodes=1:ppn=3", 3),
        ("Resource_List.select=2:ncpus=8:mem=4gb+1:ncpus=1", 17),
        ("Resource_List.select=ncpus=3", 3),
        ("Resource_List.ncpus=48 Resource_List.select=3:ncpus=16:mpiprocs=16", 48),
    ],
)
def test_cores_asked_for_in_every_way(read_text, asked, cores):
    assert read_text(record(TIMES + asked)).row("123.srv.example.org")["requested_cores"] == cores


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("Resource_List.mem=512", 512),
        ("Resource_List.mem=512b", 512),
        ("Resource_List.mem=512kb", 512 * KIB),
        ("Resource_List.mem=512mb", 512 * MIB),
        ("Resource_List.mem=2gb", 2 * GIB),
        ("Resource_List.mem=1tb", 1024 * GIB),
        ("Resource_List.mem=2w", 16),
        ("Resource_List.mem=2kw", 16 * KIB),
        ("Resource_List.mem=2mw", 16 * MIB),
        ("Resource_List.pmem=100mb Resource_List.nodes=2:ppn=4", 800 * MIB),
        ("Resource_List.select=2:ncpus=8:mem=4gb+1:ncpus=1:mem=1gb", 9 * GIB),
        ("Resource_List.vmem=3gb", 3 * GIB),
    ],
)
def test_memory_asked_for_in_every_unit(read_text, asked, expected):
    assert (
        read_text(record(TIMES + asked)).row("123.srv.example.org")["requested_memory"] == expected
    )


@pytest.mark.parametrize(
    ("code", "used", "status"),
    [
        (0, "01:00:05", "completed"),
        (1, "00:10:00", "failed"),
        (271, "00:10:00", "cancelled"),
        (271, "01:00:05", "timeout"),
        (265, "00:59:50", "timeout"),
        (-29, "00:59:00", "timeout"),
        (-27, "00:10:00", "out_of_memory"),
        (-1, "00:10:00", "failed"),
        (143, "00:10:00", "failed"),
    ],
)
def test_the_exit_status_and_the_limit_say_how_a_job_ended(read_text, code, used, status):
    message = (
        f"{TIMES}Resource_List.walltime=3600 Exit_status={code} resources_used.walltime={used}"
    )
    assert read_text(record(message)).row("123.srv.example.org")["status"] == status


def test_array_jobs_belong_to_a_task(read_text):
    row = read_text(record(TIMES, job="123[4].srv")).row("123[4].srv")
    assert (row["task_id"], row["source"]) == ("123[].srv", "srv")


def test_a_record_without_an_end_takes_its_date_in_the_servers_zone(read_text):
    message = "ctime=1678700000 start=1678700100 Exit_status=0"
    assert read_text(record(message)).row("123.srv.example.org")["ended_at"] == pd.Timestamp(
        "2023-03-13 12:36:40", tz="UTC"
    )
    row = read_text(record(message), timezone="Europe/Paris").row("123.srv.example.org")
    assert row["ended_at"] == pd.Timestamp("2023-03-13 11:36:40", tz="UTC")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("03/13/2023 12:36:40;E;1.srv", "the line is no accounting record (date;type;job;message)"),
        (record("user=ann").strip(), "ctime is missing: when the job was submitted is not known"),
        (record(TIMES + "Exit_status=x").strip(), "Exit_status is not a number: x"),
        (record("ctime=yesterday").strip(), "ctime is not a time: yesterday"),
        (record(TIMES, job="").strip(), "the record has no job id"),
    ],
)
def test_a_bad_record_is_rejected_by_name(read_text, line, reason):
    outcome = read_text(record(TIMES, job="1.s") + line + "\n" + record(TIMES, job="2.s"))
    assert outcome.jobs["job_id"].tolist() == ["1.s", "2.s"]
    assert [(reject.line, reject.reason) for reject in outcome.rejects] == [(2, reason)]


@pytest.mark.parametrize("bad", ["resources_used.mem=12zb", "Resource_List.nodes=2:ppn=x"])
def test_an_unreadable_optional_field_takes_no_outcome_with_it(read_text, bad):
    outcome = read_text(record(f"{TIMES}Exit_status=0 resources_used.walltime=00:10:00 {bad}"))
    row = outcome.row("123.srv.example.org")
    assert (row["walltime"], row["status"]) == (600.0, "completed")
    assert not {"peak_memory", "requested_cores"} & set(row)
    assert outcome.notes == {f"{bad.partition('=')[0]} cannot be read: left out": 1}


@pytest.mark.parametrize(
    ("code", "status"), [(-11, "preempted"), (0, "preempted"), (-27, "out_of_memory")]
)
def test_a_rerun_is_a_run_after_which_the_job_waits(read_text, code, status):
    message = (
        "user=ann ctime=1678700000 start=1678700100 end=1678703800 "
        f"Exit_status={code} resources_used.walltime=01:01:40 run_count=1"
    )
    outcome = read_text(record(message, kind="R") + record("queue=batch", kind="R"))
    run, waits = outcome.jobs.to_dict("records")
    assert (run["status"], run["walltime"]) == (status, 3700.0)
    assert (waits["status"], waits["submitted_at"]) == ("waiting", run["ended_at"])
    assert pd.isna([waits["started_at"], waits["ended_at"], waits["walltime"]]).all()
    assert outcome.notes == {"record R (not the end of a job) not used": 1}


NEW_FACTS = ("requested_gpus", "gpu_type", "requested_nodes", "nodes", "qos", "reservation")
NEW_FACTS += ("constraint", "exclusive", "energy")


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (  # PBS Professional at NCAR
            "exec_host=casper15/3 exec_vnode=(casper15:ncpus=1:ngpus=1:mem=10485760kb) "
            "Resource_List.gpu_type=gp100 Resource_List.mem=10gb Resource_List.ncpus=1 "
            "Resource_List.ngpus=1 Resource_List.nodect=1 Resource_List.place=scatter "
            "Resource_List.select=1:ncpus=1:ngpus=1:os=opensuse15:ompthreads=1",
            {"requested_gpus": 1.0, "gpu_type": "gp100", "requested_nodes": 1.0, "nodes": 1.0},
        ),
        (
            "exec_host=n1/0*4+n2/0*4 Resource_List.nodect=2 Resource_List.place=scatter:excl "
            "Resource_List.select=2:ncpus=4:ngpus=4:gpu_model=a100 resvname=R77 "
            "resources_used.energy=0.5",
            {
                "requested_gpus": 8.0,
                "gpu_type": "a100",
                "requested_nodes": 2.0,
                "nodes": 2.0,
                "reservation": "R77",
                "exclusive": 1.0,
                "energy": 1.8e6,
            },
        ),
        (  # a queue without GPUs
            "Resource_List.ngpus=0 Resource_List.place=free:shared Resource_List.select=1:ncpus=1",
            {"requested_gpus": 0.0, "exclusive": 0.0},
        ),
        (  # Torque
            "exec_host=n1/0-3+n2/0-3 Resource_List.nodes=2:ppn=4:gpus=2:ib:bigmem "
            "Resource_List.nodect=2 Resource_List.qos=fast Resource_List.naccesspolicy=singlejob "
            "resources_used.energy_used=0",
            {
                "requested_gpus": 4.0,
                "requested_nodes": 2.0,
                "nodes": 2.0,
                "qos": "fast",
                "constraint": "bigmem&ib",
                "exclusive": 1.0,
            },
        ),
        ("Resource_List.nodes=n1:ppn=1+n2:ppn=1", {}),
        (  # Cray: the host is a login node
            "exec_host=login1/0 Resource_List.mppwidth=512 Resource_List.ncpus=1",
            {},
        ),
    ],
)
def test_gpus_nodes_and_energy_of_every_age(read_text, text, facts):
    row = read_text(record(f"user=ann queue=batch {TIMES}{text} Exit_status=0")).row(
        "123.srv.example.org"
    )
    assert {name: row[name] for name in NEW_FACTS if name in row} == facts
