"""Variants of every format, hostile and rare, each with what its records truly say."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.ingest import ingest_files, read_arguments
from jobs.store import read_attempts, read_jobs, read_rejects
from jobs.transfers import TRANSFER

MIB, GIB = 2.0**20, 2.0**30
NEW_YEAR = 1_767_225_600
"""2026-01-01 00:00 UTC, in seconds since 1970."""


@dataclass(frozen=True)
class Case:
    """A file, how many records, rejects and attempts it has, and fields of records by id."""

    name: str
    file: str
    content: str | bytes
    records: int
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejects: int = 0
    attempts: int = 0
    sentence: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


HEADER = "JobID|State|Submit|Start|End|ElapsedRaw|AllocCPUS|ReqMem|Timelimit|MaxRSS|JobName\n"
RAN = "2026-01-01T00:00:00|2026-01-01T00:10:00|2026-01-01T00:20:00|600"
AGAIN = "2026-01-01T00:20:00|2026-01-01T00:30:00|2026-01-01T00:50:00|1200"


def sacct(name: str, rows: str, records: int = 1, *values: Any, **more: Any) -> Case:
    return Case(f"sacct {name}", "sacct.txt", HEADER + rows, records, *values, **more)


def sacct_job(**changed: Any) -> dict[str, Any]:
    """A job as ``sacct --json`` of 24.05 prints it; members of its objects may be changed."""
    unset = {"set": False, "infinite": False, "number": 0}
    memory = [{"type": "mem", "name": "", "id": 2, "count": GIB}]
    used = {"requested": {"max": memory, "average": memory, "total": memory}, "consumed": {}}
    job: dict[str, Any] = {
        "job_id": 11,
        "name": "n",
        "cluster": "c",
        "user": "ann",
        "partition": "q",
        "nodes": "n1",
        "allocation_nodes": 1,
        "state": {"current": ["COMPLETED"], "reason": "None"},
        "association": {"account": "p", "cluster": "c", "user": "ann", "id": 3},
        "array": {"job_id": 0, "task_id": unset, "task": ""},
        "het": {"job_id": 0, "job_offset": unset},
        "derived_exit_code": {"status": ["SUCCESS"]},
        "required": {"CPUs": 4, "memory_per_cpu": unset, "memory_per_node": {**unset, "set": True, "number": 2048}},
        "time": {
            "elapsed": 600, "eligible": NEW_YEAR, "submission": NEW_YEAR, "suspended": 0,
            "start": NEW_YEAR + 600, "end": NEW_YEAR + 1200, "limit": {**unset, "set": True, "number": 60},
            "total": {"seconds": 100, "microseconds": 500_000},
        },
        "tres": {
            "allocated": [{"type": "cpu", "name": "", "count": 4}, {"type": "node", "name": "", "count": 1}],
            "requested": [{"type": "cpu", "name": "", "count": 4}],
        },
        "steps": [
            {
                "step": {"id": "11.batch", "name": "batch"}, "state": ["COMPLETED"], "tasks": {"count": 1},
                "time": {"total": {"seconds": 100, "microseconds": 0}}, "tres": used,
            }
        ],
    }  # fmt: skip
    for name, value in changed.items():
        job[name] = job[name] | value if isinstance(value, dict) else value
    return job


def sacct_json(
    name: str, *jobs: dict[str, Any], records: int = 1, values: Any = None, **more: Any
) -> Case:
    text = json.dumps({"meta": {"Slurm": {}}, "jobs": jobs, "errors": []}, indent=1)
    return Case(f"sacct --json {name}", "sacct.json", text, records, values or {}, **more)


LATER = {
    "submission": NEW_YEAR + 1200,
    "start": NEW_YEAR + 1400,
    "end": NEW_YEAR + 5000,
    "elapsed": 3600,
}


def classad(**changed: Any) -> dict[str, Any]:
    """A job of ``condor_history`` that ran from 00:10 to 00:20; None leaves an attribute out."""
    ad = {
        "ClusterId": 9, "ProcId": 0, "GlobalJobId": "ap1#9.0#1767225600", "Owner": "ann", "Cmd": "/home/run.sh",
        "QDate": NEW_YEAR, "JobStartDate": NEW_YEAR + 600, "JobCurrentStartDate": NEW_YEAR + 600,
        "CompletionDate": NEW_YEAR + 1200, "EnteredCurrentStatus": NEW_YEAR + 1200, "JobStatus": 4, "ExitCode": 0,
        "RemoteWallClockTime": 600.0, "RequestCpus": 1, "RequestMemory": 2048, "ResidentSetSize_RAW": 1024,
        "JobUniverse": 5,
    }  # fmt: skip
    return {name: value for name, value in (ad | changed).items() if value is not None}


def condor(
    name: str, *ads: dict[str, Any], records: int = 1, values: Any = None, **more: Any
) -> Case:
    return Case(f"condor {name}", "history.json", json.dumps(ads), records, values or {}, **more)


def new_ad(**changed: Any) -> str:
    """A ClassAd in its new form, on one line."""
    return "[ " + "; ".join(f"{k} = {json.dumps(v)}" for k, v in classad(**changed).items()) + " ]"


def xml_ad(**changed: Any) -> str:
    """A ClassAd in XML, with values of every kind."""
    texts = {bool: '<b v="t"/>', float: "<r>{:.15E}</r>", int: "<i>{}</i>", str: "<s>{}</s>"}
    attributes = [
        f'<a n="{name}">{texts[type(value)].format(value)}</a>'
        for name, value in classad(**changed).items()
    ]
    nested = '<a n="L"><l><s>q</s><c><a n="ClusterId"><i>77</i></a></c></l></a>'
    odd = f'<a n="U"><un/></a><a n="E"><e>a &amp;&amp; b</e></a>{nested}'
    return f"<c>{''.join(attributes)}{odd}</c>\n"


XML = '<?xml version="1.0"?>\n<!DOCTYPE classads SYSTEM "classads.dtd">\n<classads>\n'


def pbs(kind: str = "E", job: str = "4.srv", **changed: Any) -> str:
    """A record of PBS accounting; ``__`` in a name is a dot, None leaves it out."""
    pairs = {
        "user": "ann", "group": "g", "queue": "q", "ctime": NEW_YEAR, "qtime": NEW_YEAR, "start": NEW_YEAR + 600,
        "exec_host": "n1/0*4", "Resource_List.ncpus": 4, "Resource_List.walltime": "01:00:00",
        "end": NEW_YEAR + 1200, "Exit_status": 0, "resources_used.cput": "00:20:00",
        "resources_used.mem": "1048576kb", "resources_used.walltime": "00:10:00",
    } | {name.replace("__", "."): value for name, value in changed.items()}  # fmt: skip
    message = " ".join(f"{name}={value}" for name, value in pairs.items() if value is not None)
    return f"01/01/2026 00:20:00;{kind};{job};{message}\n"


def accounting(name: str, text: str, records: int = 1, values: Any = None, **more: Any) -> Case:
    return Case(f"pbs {name}", "20260101", text, records, values or {}, **more)


def panda_job(**changed: Any) -> dict[str, Any]:
    job = {
        "pandaid": 6000, "jeditaskid": 77, "produsername": "Ann B", "computingsite": "CERN", "jobstatus": "finished",
        "creationtime": "2026-01-01T00:00:00", "starttime": "2026-01-01T00:10:00", "endtime": "2026-01-01T00:20:00",
        "corecount": 8, "actualcorecount": 8, "minramcount": 2000, "maxrss": 1000, "maxpss": 800,
        "cpuconsumptiontime": 4000, "transformation": "https://x/y/Sim_tf.py", "maxwalltime": 0,
    }  # fmt: skip
    return {name: value for name, value in (job | changed).items() if value is not None}


def panda(
    name: str, *jobs: dict[str, Any], records: int = 1, values: Any = None, **more: Any
) -> Case:
    return Case(f"panda {name}", "jobs.json", json.dumps(jobs), records, values or {}, **more)


SWF = "; Version: 2.2\n; Computer: X\n; UnixStartTime: 1767225600\n"


def swf(name: str, rows: str, records: int, values: Any = None, **more: Any) -> Case:
    return Case(f"swf {name}", "log.swf", SWF + rows, records, values or {}, **more)


def table(
    name: str, file: str, content: str | bytes, records: int, values: Any = None, **more: Any
) -> Case:
    return Case(f"table {name}", file, content, records, values or {}, **more)


def parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


OBJECTS = [
    {"job_id": str(number), "source": "x", "submitted_at": "2026-01-01T00:00:00Z", "user": "ann"}
    | ({"started_at": "2026-01-01T00:10:00Z", "walltime": 600.0} if number else {})
    for number in range(3)
]
FTS = {
    "tr_id": "t1", "endpnt": "fts3", "src_hostname": "a", "dst_hostname": "b", "src_url": "https://a/x",
    "vo": "cms", "file_size": 1000, "tr_timestamp_start": NEW_YEAR * 1000,
    "tr_timestamp_complete": (NEW_YEAR + 60) * 1000, "timestamp_tr_st": 0, "timestamp_tr_comp": 0,
    "t_final_transfer_state": "Ok",
}  # fmt: skip
TRACE = "task_id\thash\tname\tstatus\texit\tsubmit\tduration\trealtime\tmemory\ttime\tpeak_rss\n"

CASES = [
    # Slurm, text
    Case(
        "sacct memory a node times nodes", "sacct.txt",
        f"JobID|State|Submit|Start|End|ElapsedRaw|AllocCPUS|NNodes|ReqMem\n1|COMPLETED|{RAN}|4|2|4Gn\n",
        1, {"1": {"requested_memory": 8 * GIB}},
    ),
    sacct("cancelled in the queue", "1|CANCELLED by 0|2026-01-01T00:00:00|Unknown|2026-01-01T00:20:00|0|0|4G|1:00||x\n",
          1, {"1": {"status": "cancelled", "started_at": None, "walltime": None}}),
    sacct("state cut at its width", f"1|OUT_OF_ME+|{RAN}|4|4G|1:00||x\n1.batch|OUT_OF_ME+|{RAN}|4|||4194304K|b\n",
          1, {"1": {"status": "out_of_memory", "peak_memory": 4 * GIB}}),
    sacct("steps of one name belong to the run above them",
          f"1|NODE_FAIL|{RAN}|4|4G|1:00||x\n1.batch|CANCELLED|{RAN}|4|||3G|b\n"
          f"1|COMPLETED|{AGAIN}|4|4G|1:00||x\n1.batch|COMPLETED|{AGAIN}|4|||1G|b\n",
          1, {"1": {"peak_memory": GIB, "walltime": 1200}}, attempts=1),
    sacct("a requeued run alone", f"1|REQUEUED|{RAN}|4|4G|1:00|2G|x\n",
          1, {"1": {"status": "waiting", "ended_at": None}}, attempts=1),
    sacct("flags and sentinels", f"1|COMPLETED|{RAN}|4|9223372036854775808Mc|UNLIMITED|18446744073709551615|x\n",
          1, {"1": {"requested_memory": None, "requested_walltime": None, "peak_memory": None}}),
    sacct("a planned start is none", "1|PENDING|2026-01-01T00:00:00|2026-01-02T00:00:00|Unknown|0|1|4G|1:00||a\n",
          1, {"1": {"status": "waiting", "started_at": None}}),
    sacct("lines of DOS, tabs and bars in a name", f"1|COMPLETED|{RAN}|4|4G|1:00||a|b\tc\r\n2|FAILED|{RAN}|4|4G|1:00||d\r\n",
          2, {"1": {"job_name": "a|b\tc", "walltime": 600}}),
    Case("sacct an hour that is printed twice", "sacct.txt",
         "JobID|State|Submit|Start|End|ElapsedRaw\n1|COMPLETED|2025-10-26T01:00:00|2025-10-26T02:30:00|2025-10-26T02:30:00|3600\n",
         1, {"1": {"walltime": 3600, "started_at": "2025-10-26T00:30:00"}}, arguments={"timezone": "Europe/Paris"}),
    # Slurm, JSON
    sacct_json("24.05", sacct_job(), values={"11": {
        "walltime": 600, "cores": 4, "requested_memory": 2 * GIB, "peak_memory": GIB, "cpu_time": 100.5,
        "requested_walltime": 3600}}),
    sacct_json("waits again", sacct_job(state={"current": ["PENDING", "REQUEUED"]}, steps=[],
               time={"start": 0, "end": 0, "elapsed": 0}), values={"11": {"status": "waiting", "ended_at": None}}),
    sacct_json("preempted, then completed", sacct_job(state={"current": "PREEMPTED"}), sacct_job(time=LATER),
               values={"11": {"status": "completed", "walltime": 3600}}, attempts=1),
    sacct_json("requeued, then completed", sacct_job(state={"current": ["REQUEUED"]}), sacct_job(time=LATER),
               values={"11": {"status": "completed", "walltime": 3600}}, attempts=1),
    sacct_json("2^63 and 1 GiB a CPU", sacct_job(required={"memory_per_node": None, "memory": 2**63 + 1024}),
               values={"11": {"requested_memory": 4 * GIB}}),
    sacct_json("components and array tasks", sacct_job(het={"job_id": 50, "job_offset": 1}), sacct_job(het={"job_id": 50}),
               sacct_job(array={"job_id": 77, "task_id": {"set": True, "number": 0}}),
               sacct_job(array={"job_id": 77, "task": "1-9"}, state={"current": ["PENDING"]}),
               records=3, values={"50+1": {}, "50+0": {}, "77_0": {"task_id": "77"}}),
    sacct_json("brackets, quotes and line feeds in a name", sacct_job(name='a|b\nc"{}[\\'), values={"11": {"job_name": 'a|b\nc"{}[\\'}}),
    sacct_json("a bad job is one reject, whatever steps it has", sacct_job(),
               sacct_job(job_id=12, time={"submission": "garbage"}), rejects=1),
    sacct_json("bad optional fields", sacct_job(time={"total": {"seconds": "x"}, "limit": "foo"}, required={"CPUs": -2}),
               values={"11": {"walltime": 600, "requested_walltime": None}}),
    # HTCondor
    condor("an eviction before", classad(JobStartDate=NEW_YEAR + 100, RemoteWallClockTime=1000.0, LastRemoteWallClockTime=600.0),
           values={"9.0": {"walltime": 600, "started_at": "2026-01-01T00:10:00"}}),
    condor("removed before it ran", classad(JobStatus=3, CompletionDate=0, RemoteWallClockTime=0, JobStartDate=None,
           JobCurrentStartDate=None), values={"9.0": {"status": "cancelled", "walltime": None, "started_at": None}}),
    condor("held for its memory, released, completed", classad(JobStatus=5, HoldReasonCode=34, CompletionDate=0),
           classad(JobCurrentStartDate=NEW_YEAR + 2000, CompletionDate=NEW_YEAR + 3000, RequestMemory=8192),
           values={"9.0": {"status": "completed", "walltime": 1000, "requested_memory": 8 * GIB}}, attempts=1),
    condor("-1 and 2^31 - 1 are no requests", classad(RequestMemory=2**31 - 1, AllowedExecuteDuration=-1, MaxRuntime=7200),
           values={"9.0": {"requested_memory": None, "requested_walltime": 7200}}),
    condor("milliseconds", classad(**{name: value * 1000 for name, value in classad().items() if "Date" in name}),
           values={"9.0": {"submitted_at": "2026-01-01T00:00:00", "walltime": 600}}),
    condor("parallel universe", classad(RequestCpus=8, JobUniverse=11, MaxHosts=4),
           values={"9.0": {"requested_cores": 32, "requested_memory": 8 * GIB}}),
    condor("bad optional attributes", classad(ResidentSetSize_RAW=0, RequestCpus="4.5.6", BytesSent="x"),
           values={"9.0": {"peak_memory": None, "requested_cores": None, "walltime": 600}}),
    Case("condor list of new ClassAds", "history.ads",
         "{\n" + new_ad() + ",\n" + new_ad(ProcId=1, Args="a; b = c ]") + "\n}\n", 2, {"9.1": {"walltime": 600}}),
    Case("condor list of new ClassAds, commas on lines of their own", "history.ads",
         "{\n[\n  " + new_ad()[2:-2].replace("; ", ";\n  ") + "\n]\n,\n" + new_ad(ProcId=1) + "\n}\n", 2),
    Case("condor XML with a ClassAd as a value", "history.xml", XML + xml_ad(ExitBySignal=True) + xml_ad(ProcId=1) + "</classads>\n",
         2, {"9.0": {"status": "failed", "walltime": 600}, "9.1": {"status": "completed"}}),
    Case("condor XML cut short", "history.xml", XML + xml_ad() + xml_ad(ProcId=1)[:200], 1, rejects=1),
    Case("condor Elasticsearch and MONIT envelopes", "es.json",
         json.dumps({"took": 1, "hits": {"hits": [{"_source": {"data": classad()}}, {"_source": classad(ProcId=1)}]}}), 2,
         {"9.1": {"walltime": 600}}),
    # PBS
    accounting("rerun, then ended", pbs("R", Exit_status=-11) + pbs(start=NEW_YEAR + 5000, end=NEW_YEAR + 6000,
               resources_used__walltime="00:16:40"), values={"4.srv": {"walltime": 1000}}, attempts=1),
    accounting("killed at its limit", pbs(Exit_status=271, end=NEW_YEAR + 4205, resources_used__walltime="01:00:05"),
               values={"4.srv": {"status": "timeout"}}),
    accounting("no limit, no memory, no CPU time", pbs(Resource_List__walltime="8760000:00:00", resources_used__mem="0kb",
               resources_used__cput="garbage"), values={"4.srv": {"requested_walltime": None, "peak_memory": None, "cpu_time": None}}),
    accounting("an array and its jobs", pbs(job="4[].srv", start=None) + pbs(job="4[0].srv") + pbs(job="4[1].srv"), 2,
               {"4[0].srv": {"task_id": "4[].srv"}}),
    accounting("Cray", pbs(Resource_List__mppwidth=64, Resource_List__mppdepth=2, exec_host="login/0"),
               values={"4.srv": {"cores": 128, "requested_cores": 128}}),
    accounting("milliseconds", pbs(ctime=NEW_YEAR * 1000, start=(NEW_YEAR + 600) * 1000, end=(NEW_YEAR + 1200) * 1000),
               values={"4.srv": {"walltime": 600}}),
    Case("qstat -F json", "qstat.json", json.dumps({"timestamp": 1, "pbs_version": "20.0", "Jobs": {"4.srv": {"job_state": "F"}}}),
         0, sentence="server_priv/accounting"),
    # PanDA
    panda("cores, memory a core, program", panda_job(), values={"6000": {
        "requested_memory": 2000 * MIB * 8, "peak_memory": 800 * 1024, "requested_walltime": None, "program": "Sim_tf.py"}}),
    panda("the end by durationsec", panda_job(endtime=None, durationsec=600),
          values={"6000": {"walltime": 600, "ended_at": "2026-01-01T00:20:00"}}),
    panda("the first second of the year 1 is no time", panda_job(starttime="0001-01-01T00:00:00", endtime=None, jobstatus="cancelled"),
          values={"6000": {"status": "cancelled", "started_at": None}}),
    panda("two runs of an id", panda_job(), panda_job(jobstatus="failed", creationtime="2025-12-31T23:00:00",
          starttime="2025-12-31T23:10:00", endtime="2025-12-31T23:20:00"), values={"6000": {"status": "completed"}}, attempts=1),
    panda("bad optional fields", panda_job(inputfilebytes="x", cpuconsumptiontime="NULL", minramcount=-1, maxpss=0, maxrss=-1),
          values={"6000": {"walltime": 600, "input_bytes": None, "requested_memory": None, "peak_memory": None}}),
    # Nextflow
    Case("nextflow aborted", "trace.txt", TRACE + "1\tab/cdef12\tfoo\tABORTED\t-\t2026-01-01 00:00:00.000\t-\t-\t-\t-\t-\n", 1,
         {"ab/cdef12": {"status": "cancelled", "ended_at": None}}),
    Case("nextflow ended at its limit", "trace.txt",
         TRACE + "1\tab/cdef12\tfoo\tFAILED\t143\t2026-01-01 00:00:00.000\t1h 1m\t1h\t1 GB\t1h\t100 MB\n", 1,
         {"ab/cdef12": {"status": "timeout", "requested_walltime": 3600}}),
    # SWF
    swf("partial runs without a summary", "1 0 10 600 4 -1 -1 4 3600 -1 2 3 4 5 6 7 -1 -1\n1 0 -1 700 4 -1 -1 4 3600 -1 3 3 4 5 6 7 -1 -1\n",
        1, {"1": {"status": "completed", "walltime": 700}}),
    swf("bad fields, essential and not", "1 0 10 600 4 -1 -1 4 3600 -1 1 3 4 5 6 7 -1 -1\n2 5 10 600 4 x -1 4 3600 -1 1 3 4 5 6 7 -1 -1\n"
        "3 y 10 600 4 -1 -1 4 3600 -1 1 3 4 5 6 7 -1 -1\n", 2, {"2": {"walltime": 600}}, rejects=1),
    swf("amounts that overflow", "1 0 10 600 4 1e308 1e308 4 3600 1e308 1 3 4 5 6 7 -1 -1\n", 1,
        {"1": {"cpu_time": None, "peak_memory": None, "requested_memory": None, "walltime": 600}}),
    # Tables
    table("s, ms and a unit of memory", "jobs.csv", "id;sub;st;en;mem\n1;1767225600000;1767226200000000;1767226800;1024\n", 1,
          {"1": {"walltime": 600, "peak_memory": MIB}}, arguments={"mapping": [
              "id=job_id", "sub=submitted_at:epoch", "st=started_at:epoch", "en=ended_at:epoch", "mem=peak_memory:kib"]}),
    table("an object a line, the last with other fields", "jobs.jsonl", "".join(json.dumps(row) + "\n" for row in OBJECTS), 3,
          {"0": {"user": "ann", "ended_at": None}, "1": {"walltime": 600, "ended_at": "2026-01-01T00:20:00"}}),
    table("mapped JSON", "jobs.json", json.dumps([{"id": 7, "at": NEW_YEAR, "run": 10, "odd": {"x": [1]}}]), 1,
          {"7": {"walltime": 600}}, arguments={"mapping": ["id=job_id", "at=submitted_at:epoch", "run=walltime:min"]}),
    table("JSON without a field that is needed", "jobs.json", json.dumps([{"id": 7}]), 0, sentence="--map COLUMN=job_id"),
    table("Parquet's bytes, sentinels and gaps", "jobs.parquet", parquet({
        "job_id": pa.array([1, None, 3], pa.int64()), "walltime": pa.array([600_000, 1, 2], pa.duration("ms")),
        "submitted_at": pa.array([NEW_YEAR * 1000, NEW_YEAR * 1000, None], pa.timestamp("ms")),
        "requested_walltime": pa.array([2**32 - 1, 1, 2], pa.int64()), "user": pa.array([b"\xc3\xa4", b"b", None], pa.binary()),
    }), 1, {"1": {"walltime": 600, "requested_walltime": None, "user": "ä"}}, rejects=2),
    table("times that are none", "jobs.csv", "job_id,submitted_at,started_at,ended_at\n1,2026-01-01,0001-01-01T00:00:00,\n"
          "2,2026-01-01,0000-00-00 00:00:00,1970-01-01\n3,2026-01-01,9999-12-31,\n", 3,
          {"1": {"started_at": None}, "2": {"started_at": None, "ended_at": None}, "3": {"started_at": None}}),
    table("clock skew and disorder", "jobs.csv", "job_id,submitted_at,started_at,ended_at\n"
          "1,2026-01-01T00:00:00,2026-01-01T00:10:00.0005,2026-01-01T00:10:00\n"
          "2,2026-01-01T00:00:00,2026-01-01T00:10:00,2025-01-01T00:10:00\n", 1, {"1": {"walltime": 0}}, rejects=1),
    # Transfers
    Case("fts in an envelope, without times of bytes", "fts.json", json.dumps({"data": FTS}) + "\x04\n" + json.dumps(FTS | {"tr_id": "t2", "file_size": -1}),
         2, {"t1": {"duration": 60, "bytes": 1000}, "t2": {"bytes": None}}),
    Case("packed", "20260101.gz", gzip.compress((pbs() + pbs(job="5.srv")).encode()), 2),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_variant_is_read_as_what_it_says(case: Case, sqlite_store: Any, tmp_path: Path) -> None:
    path = tmp_path / case.file
    path.write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    [result] = ingest_files(sqlite_store, [path], **read_arguments(**case.arguments))
    assert case.sentence in (result.error or "")
    assert bool(result.error) == bool(case.sentence), result.error
    record = {"record": TRANSFER} if result.format == "fts" else {}
    rows = read_jobs(sqlite_store, **record)
    assert read_rejects(sqlite_store)["reason"].size == case.rejects
    assert len(rows) == case.records
    by_id = rows.set_index("transfer_id" if record else "job_id")
    for name, values in case.values.items():
        stored = by_id.loc[name, list(values)].to_dict()
        expected = {key: _value(key, value) for key, value in values.items()}
        assert {key: _comparable(value) for key, value in stored.items()} == expected, name
    if not record:
        assert len(read_attempts(sqlite_store, rows)) == case.attempts


def _value(name: str, value: Any) -> Any:
    return pd.Timestamp(value, tz="UTC") if name.endswith("_at") and value else value


def _comparable(value: Any) -> Any:
    return None if pd.isna(value) else value
