"""Reader of PanDA job records under PanDA's own names, as JSON or CSV.

JSON is an array, ``{"jobs": [...]}``, an object a line or what Elasticsearch and MONIT wrap it in.
Names are met in any case, times are UTC. ``panda_mapping`` says what becomes of each field.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import isnan, nan
from pathlib import Path

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions
from jobs.readers.delimited import columns_of, read_records, sniff
from jobs.readers.errors import FieldError
from jobs.readers.fts import lower_names
from jobs.readers.lines import head_lines, peek
from jobs.readers.objects import JsonRecord, read_objects
from jobs.readers.panda_mapping import NAMES, map_job
from jobs.readers.rows import Row, Values, gather, parse_rows

MARKS = (
    "jeditaskid",
    "produsername",
    "computingsite",
    "jobstatus",
    "transformation",
    "creationtime",
    "cpuconsumptiontime",
    "corecount",
)
USED = {name.lower() for name in NAMES}
_UNUSED = """
jobdefinitionid schedulerid pilotid creationhost modificationtime atlasrelease homepackage
prodserieslabel produserid assignedpriority currentpriority attemptnr maxattempt jobname
maxcpucount maxcpuunit maxdiskcount maxdiskunit ipconnectivity cpuconsumptionunit commandtopilot
transexitcode piloterrordiag exeerrorcode exeerrordiag superrorcode superrordiag ddmerrorcode
ddmerrordiag brokerageerrorcode brokerageerrordiag jobdispatchererrorcode jobdispatchererrordiag
taskbuffererrorcode taskbuffererrordiag computingelement nevents metadata proddblock
dispatchdblock destinationdblock grid cloud cpuconversion sourcesite destinationsite transfertype
cmtconfig statechangetime proddbupdatetime lockedby relocationflag jobexecutionid pilottiming
ninputfiles countrygroup batchid parentid specialhandling jobsetid inputfiletype inputfileproject
noutputdatafiles jobmetrics workqueue_id jobsubstatus maxvmem maxswap avgrss avgvmem avgswap
avgpss nucleus eventservice failedattempt hs06sec gshare totrchar totwchar raterchar ratewchar
raterbytes ratewbytes resource_type diskio memory_leak memory_leak_x2 container_name
outputfiletype
"""
COLUMNS = USED.union(_UNUSED.split(), ["durationsec"])


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first records or the header have pandaid and two more of PanDA's names."""
    text = "\n".join(head_lines(head)).lower()
    if text.lstrip()[:1] in ("[", "{"):
        return '"pandaid"' in text and sum(f'"{name}"' in text for name in MARKS) >= 2
    names = {name.lower() for name in sniff(head)[1]}
    return "pandaid" in names and len(names.intersection(MARKS)) >= 2


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream PanDA's jobs; raises ReadError where a CSV has no column pandaid or creationtime."""
    rows = parse_rows(_records(path, options), partial(_job, options=options))
    return gather(rows, options.batch_rows)


def _records(path: Path, options: ReadOptions) -> Iterator[JsonRecord]:
    if "\n".join(head_lines(peek(path))).lstrip()[:1] in ("[", "{"):
        for item in read_objects(path):
            yield (item[0], item[1], lower_names(item[2])) if isinstance(item, tuple) else item
    else:
        yield from read_records(
            path, options.batch_rows, COLUMNS, ("pandaid", "creationtime"), columns_of(path)[0]
        )


def _job(values: Values, options: ReadOptions) -> Row:
    """One job; a record that has not ended has no outcome yet.

    BigPanDA's durationsec gives the end where there is none.
    """
    if not values.text("pandaid"):
        raise FieldError("pandaid is missing")
    printed = [values.moment(name) for name in ("creationtime", "starttime", "endtime")]
    submitted, started, ended = units.to_utc(printed, options.timezone)
    if isnan(submitted):
        raise FieldError("creationtime is missing")
    row = map_job(values.text, values.number, started == started)
    is_over = row["status"] not in ("waiting", "running")
    elapsed = values.number("durationsec") if is_over and isnan(ended) else nan
    return row | {
        "walltime": elapsed,
        "source": options.source or "panda",
        "submitted_at": submitted,
        "started_at": started,
        "ended_at": ended if is_over else nan,
    }


PANDA = Reader("panda", recognises, read)
"""The reader to put in the list."""
