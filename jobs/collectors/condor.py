"""Collector of HTCondor: ``condor_history``, newest first, back to the newest job of last time.

A job enters the history when it leaves the queue, which may be days after it ended: a window of
time would miss it, its position in the history does not.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from infra.settings import environment_with
from jobs.collectors.contract import Collector, Fetched, Window, program, run
from jobs.readers.contract import Reject
from jobs.readers.errors import ReadError
from jobs.readers.objects import read_objects

_USED = """
ClusterId ProcId GlobalJobId DAGManJobId QDate JobStartDate JobCurrentStartDate CompletionDate
EnteredCurrentStatus JobStatus ExitCode ExitBySignal HoldReasonCode LastHoldReasonCode Owner User
x509UserProxyVOName AcctGroup ProjectName Cmd JobBatchName DESIRED_Sites LastRemoteHost RemoteHost
AllowedExecuteDuration AllowedJobDuration MaxRuntime maxWallTime RequestCpus RequestMemory
CpusProvisioned TransferInputSizeMB CommittedTime RemoteWallClockTime LastRemoteWallClockTime
LastJobStatus JobUniverse MaxHosts RemoteUserCpu RemoteSysCpu ResidentSetSize_RAW ResidentSetSize
MemoryUsage BytesRecvd BytesSent
"""
ATTRIBUTES = _USED.split()
"""What the reader uses; a whole ad is ten times as long."""


def fetch(window: Window) -> Fetched:
    """Fetch the jobs that left the queue since the last window; the first time, since its begin.

    ``where`` names a schedd. Raises NoSystemError where there is no condor_history, CollectError
    where it fails.
    """
    history = program("condor_history", "HTCondor")
    options = [
        "-json",
        "-attributes",
        ",".join(ATTRIBUTES),
        *(["-name", window.where] if window.where else []),
    ]
    first = ["-constraint", f"EnteredCurrentStatus >= {window.since.timestamp():.0f}"]
    path = window.folder / f"condor_history {window.until:%Y-%m-%dT%H:%M:%S}.json"
    run(
        [history, *options, *(["-since", window.newest] if window.newest else first)],
        path,
        environment_with({}),
    )
    if not path.read_bytes().strip():  # some versions print nothing instead of an empty list
        path.write_text("[]")
    newest = _newest(path)
    return Fetched((path,) if newest else (), newest)


def _newest(path: Path) -> str:
    """The first job of the history, empty where there is none."""
    try:
        for item in read_objects(path):
            if not isinstance(item, Reject | str):
                ad = {name.lower(): value for name, value in item[2].items()}
                if "clusterid" in ad:
                    return f"{ad['clusterid']}.{ad.get('procid', 0)}"
    except ReadError:
        return ""
    return ""


CONDOR = Collector("condor", fetch, "condor", overlap=timedelta())
"""The collector to put in the list."""
