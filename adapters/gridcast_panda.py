"""PanDA: a new task is told what its jobs will need before its scouts run, and jobs that ended are reported as PanDA hears of them.

Copy this file, services/client.py (as gridcast_client.py) and jobs/readers/panda_mapping.py (as
gridcast_panda_mapping.py) where JEDI's Python finds them. In panda_jedi.cfg:

    [taskrefine]
    modConfig = wlcg:any:gridcast_panda:ForeseenTaskRefiner
    [msgprocessor]   a plugin of the topic of job statuses: gridcast_panda:OutcomesMsgProcPlugin

A site with refiners of its own makes one line of each: ``ForeseenProd = with_prediction(AtlasProdTaskRefiner)``. No task is refused, no message
is held up: whatever goes wrong is a line in JEDI's log, and the task or the message goes on as it was.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from contextlib import suppress
from math import nan
from typing import Any

try:
    from gridcast_client import Gridcast, RefusedError, UnavailableError
    from gridcast_panda_mapping import NAMES, map_job
except ImportError:  # in Gridcast's own checkout
    from jobs.readers.panda_mapping import NAMES, map_job
    from services.client import Gridcast, RefusedError, UnavailableError

URL, TOKEN = "http://127.0.0.1:3000", None
SOURCE = "panda"
OPT_OUT_USERS: frozenset[str] = frozenset()
OPT_OUT_PROGRAMS: frozenset[str] = frozenset()
SET_WHAT_IS_MISSING = False
"""Whether a task that gave no ramCount or walltime gets one: the site must want it."""
ENDED = ("finished", "failed", "cancelled", "closed")
WAITING, AT_ONCE, PATIENCE = 10_000, 500, 30.0

log = logging.getLogger("gridcast")


def with_prediction(refiner: type) -> Any:
    """The refiner ``refiner`` (a TaskRefinerBase) with Gridcast asked about each task that it refined."""

    class WithPrediction(refiner):
        def extractCommon(self, jediTaskID: int, taskParamMap: dict[str, Any], *others: Any) -> Any:  # noqa: N802, N803
            asked = dict(
                taskParamMap
            )  # before the refiner puts defaults where the user said nothing
            done = super().extractCommon(jediTaskID, taskParamMap, *others)
            try:
                _tell(self.taskSpec, asked, self.tmpLog)
            except Exception as error:
                self.tmpLog.info(f"gridcast: no prediction: {error}")
            return done

    return WithPrediction


def _tell(task: Any, asked: dict[str, Any], tell: Any) -> None:
    """Say what a task's jobs will need in JEDI's log, and, where the site wants it, set what its user did not."""
    program = _last(asked.get("transPath")) or asked.get("processingType")
    if asked.get("userName") in OPT_OUT_USERS or program in OPT_OUT_PROGRAMS:
        return
    fields = {
        "source": SOURCE,
        "user": asked.get("userName"),
        "group": asked.get("workingGroup") or asked.get("vo"),
        "program": program,
    }
    fields |= {
        "job_name": asked.get("processingType"),
        "requested_cores": asked.get("coreCount") or 1,
    }
    with Gridcast(URL, TOKEN) as predictor:
        found = predictor.task(
            {name: value for name, value in fields.items() if value is not None}, 1
        )
    message = found["scout_prediction"]
    tell.info(
        f"gridcast: {json.dumps(message)} by {found['model_version']}, {'new user' if found['per_job']['cold_start'] else 'known'}"
    )
    if not SET_WHAT_IS_MISSING or found["per_job"]["cold_start"]:
        return
    if "ramCount" not in asked and "ramCount" in message:
        task.ramCount, task.ramUnit = message["ramCount"], message["ramUnit"]
    if "walltime" not in asked and "walltime" in message:
        task.walltime, task.walltimeUnit = message["walltime"], message["walltimeUnit"]


class Outcomes:
    """Jobs that ended, on their way to Gridcast in a thread of their own; when too many wait the oldest are dropped, and counted.

    What is dropped is brought by ``gridcast collect panda``.
    """

    def __init__(self) -> None:
        self.waiting: queue.Queue[dict[str, Any]] = queue.Queue(WAITING)
        self.dropped = 0
        threading.Thread(target=self._report, name="gridcast", daemon=True).start()

    def add(self, job: dict[str, Any]) -> None:
        """Take a job; never waits."""
        while True:
            try:
                self.waiting.put_nowait(job)
                return
            except queue.Full:
                with suppress(queue.Empty):
                    self.waiting.get_nowait()
                    self._drop(1)

    def _drop(self, jobs: int) -> None:
        if (
            self.dropped // 1000 < (self.dropped + jobs) // 1000 or not self.dropped
        ):  # not a line each
            log.warning(
                "gridcast: %d outcomes dropped so far: the predictor takes none; collect brings them",
                self.dropped + jobs,
            )
        self.dropped += jobs

    def _report(self) -> None:
        with Gridcast(URL, TOKEN) as predictor:
            jobs: list[dict[str, Any]] = []
            while True:
                jobs.append(self.waiting.get())
                while len(jobs) < AT_ONCE and not self.waiting.empty():
                    jobs.append(self.waiting.get())
                try:
                    predictor.report(jobs, patience=PATIENCE)
                except UnavailableError:
                    self._drop(len(jobs))
                except RefusedError as error:
                    log.warning("gridcast: %s", error)
                jobs.clear()


def outcome(job: Any) -> dict[str, Any]:
    """A finished JobSpec as Gridcast's reader of PanDA's records would read it (panda_mapping)."""
    values: dict[str, Any] = {name.lower(): getattr(job, name, None) for name in NAMES}

    def text(name: str) -> str | None:
        value = values[name]
        return None if value in (None, "", "NULL") else str(value)

    def number(name: str) -> float:
        try:
            return float(values[name])
        except (TypeError, ValueError):
            return nan

    row = map_job(text, number, has_started=text("starttime") is not None)
    row["source"] = SOURCE
    for field, name in (
        ("submitted_at", "creationtime"),
        ("started_at", "starttime"),
        ("ended_at", "endtime"),
    ):
        row[field] = f"{values[name]}Z" if text(name) else None
    return {name: value for name, value in row.items() if value is not None and value == value}


def _last(path: str | None) -> str | None:
    return (path or "").rstrip("/").rpartition("/")[2] or None


try:
    from pandajedi.jedimsgprocessor.base_msg_processor import BaseMsgProcPlugin
    from pandajedi.jedirefine.GenTaskRefiner import GenTaskRefiner
except ImportError:  # no JEDI here: foreseeing and outcome are all there is
    pass
else:
    ForeseenTaskRefiner = with_prediction(GenTaskRefiner)

    class OutcomesMsgProcPlugin(BaseMsgProcPlugin):
        """Reports the jobs whose status messages say that they ended; passes every message on."""

        def initialize(self, *arguments: Any) -> None:
            """Run once before the loop."""
            super().initialize(*arguments)
            self.outcomes = Outcomes()

        def process(self, msg_obj: Any, decoded_data: dict[str, Any] | None = None) -> Any:
            """Take one message."""
            try:
                told = decoded_data or json.loads(msg_obj.data)
                if told.get("msg_type") == "job_status" and told.get("status") in ENDED:
                    for job in self.tbIF.peekJobs([told["jobid"]]):
                        if job is not None and job.endTime:
                            self.outcomes.add(outcome(job))
            except Exception as error:
                log.warning("gridcast: a message was not understood: %r", error)
            return msg_obj.data
