"""PanDA: predictions for new tasks in JEDI's log, and reports of the jobs that ended.

A task's needs are predicted before its scouts run. Copy this file, services/client.py (as
gridcast_client.py), services/request_policy.py (as gridcast_request_policy.py) and
jobs/readers/panda_mapping.py (as gridcast_panda_mapping.py) where JEDI's Python finds them. In
panda_jedi.cfg:

    [taskrefine]
    modConfig = wlcg:any:gridcast_panda:PredictingTaskRefiner
    [msgprocessor]   a plugin of the topic of job statuses: gridcast_panda:OutcomesMsgProcPlugin

A site with refiners of its own adds a line for each:
``PredictingProd = with_prediction(AtlasProdTaskRefiner)``. No task is refused and no message is
held up: a failure is a line in JEDI's log, and the task or the message goes on as it was.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Mapping
from contextlib import suppress
from math import ceil, nan
from typing import Any

try:
    from gridcast_client import Gridcast, RefusedError, UnavailableError
    from gridcast_panda_mapping import NAMES, map_job
    from gridcast_request_policy import (
        MIB,
        RUNGS,
        JobRequest,
        RequestPlan,
        RequestPolicy,
        plan_requests,
    )
except ImportError:  # in Gridcast's own checkout
    from jobs.readers.panda_mapping import NAMES, map_job
    from services.client import Gridcast, RefusedError, UnavailableError
    from services.request_policy import (
        MIB,
        RUNGS,
        JobRequest,
        RequestPlan,
        RequestPolicy,
        plan_requests,
    )

URL = "http://127.0.0.1:3000"
TOKEN_FILE = None
"""File, readable by JEDI, of a token with the scopes predict and report."""
SOURCE = "panda"
OPT_OUT_USERS: frozenset[str] = frozenset()
OPT_OUT_PROGRAMS: frozenset[str] = frozenset()
SET_WHAT_IS_MISSING = False
"""Whether a task without a ramCount or walltime gets the predicted one; the site must want it."""
POLICY = RequestPolicy()
"""Whose tasks' requests are written, and within what: ``RequestPolicy("act", programs=("*",))``.
``least_jobs`` is not used: an answer tells whether the user is new, but not the number of jobs."""
OPT_OUT = ("gridcast", "off")
"""The task parameter, and its value, by which a task keeps its requests."""
ENDED = ("finished", "failed", "cancelled", "closed")
WAITING, BATCH_JOBS, PATIENCE = 10_000, 500, 30.0
LONGEST_PAUSE = 60.0
"""The most seconds between two attempts after failures in a row."""

log = logging.getLogger("gridcast")


def with_prediction(refiner: type) -> Any:
    """Derive a class from ``refiner`` (a TaskRefinerBase) that predicts each task it refines."""

    class WithPrediction(refiner):
        def extractCommon(  # noqa: N802
            self,
            jediTaskID: int,  # noqa: N803
            taskParamMap: dict[str, Any],  # noqa: N803
            *rest: Any,
        ) -> Any:
            request = dict(taskParamMap)  # before the refiner fills in defaults
            result = super().extractCommon(jediTaskID, taskParamMap, *rest)
            try:
                _predict(self, request)
            except Exception as error:
                self.tmpLog.info(f"gridcast: no prediction: {error}")
            return result

    return WithPrediction


def task_fields(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Make the fields of a job from its task's parameters by lower-case name.

    >>> task_fields({"username": "ann", "transpath": "http://x/Sim_tf.py"})["program"]
    'Sim_tf.py'
    """
    process = parameters.get("processingtype")
    fields = {
        "source": SOURCE,
        "user": parameters.get("username"),
        "group": parameters.get("workinggroup") or parameters.get("vo"),
        "program": _last(parameters.get("transpath")) or process,
        "job_name": process,
        "requested_cores": parameters.get("corecount") or 1,
    }
    return {name: value for name, value in fields.items() if value is not None}


def plan_task(parameters: Mapping[str, Any], needs: Mapping[str, Any]) -> RequestPlan:
    """Plan the requests of a task's jobs by ``POLICY``.

    Args:
        parameters: The task's, by lower-case name, as its user gave them.
        needs: The predictor's answer to ``POST /task``.

    Returns:
        A plan of memory. A walltime is planned only for a task without one: JEDI has no second
        rung for it.
    """
    if str(parameters.get(OPT_OUT[0])) == OPT_OUT[1]:
        return RequestPlan()
    fields, numbers = task_fields(parameters), dict(needs["per_job"])
    cores = float(fields["requested_cores"])
    for rung in RUNGS:
        per_core = numbers.get(rung.replace("peak_memory", "memory_per_core"))
        if numbers.get(rung) is None and per_core is not None:
            numbers[rung] = per_core * cores
    if parameters.get("walltime"):
        numbers.pop("walltime_kill_limit", None)
    is_new = int(bool(numbers["cold_start"]))
    row = {**numbers, "level": "program", "new": is_new, "jobs": POLICY.least_jobs}
    whole_job = str(parameters.get("ramunit") or "MBPerCore").lower() == "mb"
    memory = float(parameters.get("ramcount") or 0) * MIB * (1.0 if whole_job else cores)
    job = JobRequest(
        fields.get("user"), fields.get("program"), fields.get("group"), memory or None, None
    )
    plan = plan_requests(POLICY, row, job)
    reason = plan.reason.replace(f" after {POLICY.least_jobs} jobs", "")
    return RequestPlan(
        plan.mode, plan.memory, plan.walltime, f"{reason} by {needs['model_version']}"
    )


def task_requests(plan: RequestPlan, cores: float) -> dict[str, Any]:
    """Express a plan in JEDI's task parameters.

    Args:
        plan: Of the task's jobs.
        cores: Of a job.

    Returns:
        ``ramCount`` is the first rung, MB a core; ``retryRamOffset``, ``retryRamStep`` and
        ``retryRamMax`` lead JEDI's retries to the second, the third and the last one.

    >>> task_requests(RequestPlan("act", (1 << 30, 3 << 29, 1 << 31)), 2.0)["retryRamOffset"]
    768
    """
    rungs = [ceil(rung / MIB / cores) for rung in plan.memory]
    requests: dict[str, Any] = {}
    if rungs:
        requests |= {"ramCount": rungs[0], "ramUnit": "MBPerCore"}
        if len(rungs) > 1:
            step = {"retryRamStep": rungs[2] - rungs[1]} if len(rungs) > 2 else {}
            requests |= {"retryRamOffset": rungs[1], **step, "retryRamMax": rungs[-1]}
    if plan.walltime:
        requests |= {"walltime": plan.walltime[0], "walltimeUnit": "s"}
    return requests


def _predict(refiner: Any, request: dict[str, Any]) -> None:
    """Log what a task's jobs will need and, if the site wants it, set what they request.

    Args:
        refiner: Of the task.
        request: The task's parameters as its user gave them.
    """
    task, parameters = refiner.taskSpec, {name.lower(): value for name, value in request.items()}
    fields = task_fields(parameters)
    if fields.get("user") in OPT_OUT_USERS or fields.get("program") in OPT_OUT_PROGRAMS:
        return
    with Gridcast(URL, token_file=TOKEN_FILE) as predictor:
        needs = predictor.task(fields, 1)
    message, is_new_user = needs["scout_prediction"], needs["per_job"]["cold_start"]
    user_kind = "new user" if is_new_user else "known"
    refiner.tmpLog.info(f"gridcast: {json.dumps(message)} by {needs['model_version']}, {user_kind}")
    plan = plan_task(parameters, needs)
    if plan.mode != "off":
        refiner.tmpLog.info(f"gridcast: {plan.reason}")
    requests = task_requests(plan, float(fields["requested_cores"])) if plan.mode == "act" else {}
    if SET_WHAT_IS_MISSING and not is_new_user:
        names = {"ramCount": "ramUnit", "walltime": "walltimeUnit"}
        for name, unit in names.items():
            if name not in request and name in message and name not in requests:
                requests |= {name: message[name], unit: message[unit]}
    tokens = getattr(task, "splitRuleToken", {})
    for name, value in requests.items():
        if not name.startswith("retryRam"):
            setattr(task, name, value)
        elif name in tokens:  # older versions have no retryRamMax
            refiner.setSplitRule(None, value, tokens[name])


class Outcomes:
    """Reports ended jobs in a thread that survives every error.

    When too many wait, the oldest are dropped and counted; ``gridcast collect panda`` brings those.
    """

    def __init__(self) -> None:
        self.url = URL
        self.waiting: queue.Queue[dict[str, Any]] = queue.Queue(WAITING)
        self.dropped = self.refused = self.failures = 0
        self._failures_in_a_row = 0
        self._pause = threading.Event()
        self._counting = threading.Lock()
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
        with self._counting:  # callers and the thread drop jobs
            before, self.dropped = self.dropped, self.dropped + jobs
        if not before or before // 1000 < self.dropped // 1000:  # not a line each
            log.warning(
                "gridcast: %d outcomes dropped so far: the predictor takes none; collect brings "
                "them",
                self.dropped,
            )

    def _report(self) -> None:
        while True:
            jobs = [self.waiting.get()]
            while len(jobs) < BATCH_JOBS and not self.waiting.empty():
                jobs.append(self.waiting.get())
            try:
                with Gridcast(self.url, token_file=TOKEN_FILE) as predictor:
                    self._send(predictor, jobs)
                self._failures_in_a_row = 0
            except UnavailableError:
                self._drop(len(jobs))
            except Exception as error:
                self._failed(error)
                self._drop(len(jobs))

    def _send(self, predictor: Gridcast, jobs: list[dict[str, Any]]) -> None:
        """Report jobs; of a batch that is refused, set aside only the job that is wrong."""
        try:
            predictor.report(jobs, patience=PATIENCE)
        except RefusedError as error:
            if len(jobs) == 1:
                self.refused += 1
                log.warning("gridcast: job %s is set aside: %s", jobs[0].get("job_id"), error)
                return
            if error.status in (401, 403):  # the token is wrong, not a job
                raise
            middle = len(jobs) // 2
            self._send(predictor, jobs[:middle])
            self._send(predictor, jobs[middle:])

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._failures_in_a_row += 1
        if self._failures_in_a_row == 1:
            log.warning("gridcast: outcomes cannot be reported: %r; trying again", error)
        self._pause.wait(min(2.0 ** (self._failures_in_a_row - 1), LONGEST_PAUSE))


def outcome(job: Any) -> dict[str, Any]:
    """Map a finished JobSpec as Gridcast's reader of PanDA's records does (panda_mapping)."""
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
except ImportError:  # without JEDI there are only with_prediction and outcome
    pass
else:
    PredictingTaskRefiner = with_prediction(GenTaskRefiner)
    ForeseenTaskRefiner = PredictingTaskRefiner  # its name in configurations of older versions

    class OutcomesMsgProcPlugin(BaseMsgProcPlugin):
        """Reports the jobs whose status messages say that they ended; passes every message on."""

        def initialize(self, *arguments: Any) -> None:
            """Run once before the loop."""
            super().initialize(*arguments)
            self.outcomes = Outcomes()

        def process(self, msg_obj: Any, decoded_data: dict[str, Any] | None = None) -> Any:
            """Take one message."""
            try:
                message = decoded_data or json.loads(msg_obj.data)
                if message.get("msg_type") == "job_status" and message.get("status") in ENDED:
                    for job in self.tbIF.peekJobs([message["jobid"]]):
                        if job is not None and job.endTime:
                            self.outcomes.add(outcome(job))
            except Exception as error:
                log.warning("gridcast: a message was not understood: %r", error)
            return msg_obj.data
