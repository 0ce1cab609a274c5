"""Slurm's words: its states, and the columns that sacct can print (versions 17 to 25)."""

from __future__ import annotations

import re

STATES = {
    "waiting": "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT RESV_DEL_HOLD"
    " POWER_UP_NODE EXPEDITING UPDATE_DB",
    "running": "RUNNING SUSPENDED COMPLETING RESIZING SIGNALING STAGE_OUT STOPPED",
    "completed": "COMPLETED",
    "failed": "FAILED NODE_FAIL BOOT_FAIL LAUNCH_FAILED RECONFIG_FAIL",
    "cancelled": "CANCELLED REVOKED DEADLINE",
    "timeout": "TIMEOUT",
    "out_of_memory": "OUT_OF_MEMORY",
    "preempted": "PREEMPTED",
}
"""A requeued job waits again. A job stopped at its deadline was not stopped by its time limit."""

STATUS = {word: status for status, states in STATES.items() for word in states.split()}

OUT_OF_MEMORY_EXIT = "0:125"
"""Exit code of what the kernel killed for its memory: signal 125, which Slurm made up for it."""

_FREE_TEXT_TEXT = """
jobname comment admincomment systemcomment workdir submitline extra stdout stderr stdin
constraints container licenses wckey
"""
FREE_TEXT = frozenset(_FREE_TEXT_TEXT.split())
"""Columns that may hold bars and line feeds, which sacct neither quotes nor escapes."""

LISTS = frozenset(
    ["nodelist", "reqtres", "alloctres", "tresusageintot", "tresusageouttot", "flags", "reqgres"]
)
"""Columns whose items commas part: with ``--delimiter=,`` they are free texts too."""

_COUNT = re.compile(r"-?[\d.]*[KMGTPE]?|UNLIMITED|Partition_Limit|INVALID", re.IGNORECASE)
_CLOCK = re.compile(r"[\d:.-]*|UNLIMITED|Partition_Limit|INVALID", re.IGNORECASE)
_TIME = re.compile(r"[\d:.TZ+-]*|Unknown|None|N/A|Assigned", re.IGNORECASE)
_SIZE = re.compile(r"[\d.]*[KMGTPE]?[cn]?|\?", re.IGNORECASE)
_TYPES = {
    _COUNT: "alloccpus allocnodes ncpus nnodes ntasks reqcpus reqnodes elapsedraw cputimeraw uid"
    " gid timelimitraw priority restarts associd dbindex qosraw plannedcpuraw resvcpuraw wckeyid"
    " reservationid avepages maxpages consumedenergyraw",
    _CLOCK: "elapsed timelimit totalcpu usercpu systemcpu suspended cputime avecpu mincpu planned"
    " plannedcpu reserved resvcpu",
    _TIME: "submit start end eligible",
    _SIZE: "reqmem maxrss averss maxvmsize avevmsize maxdiskread avediskread maxdiskwrite"
    " avediskwrite",
    re.compile(r"\d*([_+][\d\[\],%:-]*)?(\.[\w+-]*)?"): "jobid jobidraw",
    re.compile(r"[A-Z_]+\+?( by [^ ]*)?"): "state",
    re.compile(r"-?\d+:-?\d+"): "exitcode derivedexitcode",
    re.compile(r"\S*"): "reservation",
    re.compile(r"(\S*/)?(sbatch|srun|salloc|scrun)(\s.*)?", re.DOTALL): "submitline",
    re.compile(
        r"[\w.:/-]+=[^ ]*"
    ): "reqtres alloctres tresusageintot tresusageouttot tresusageinmax"
    " tresusageinave tresusageinmin tresusageoutmax tresusageoutave tresusageoutmin",
}
KINDS = {name: pattern for pattern, names in _TYPES.items() for name in names.split()}
"""What a cell of each typed column looks like, or of a free text the first; any may be empty."""

_PRINTED = """
account admincomment alloccpus allocnodes alloctres associd avecpu avecpufreq avediskread
avediskwrite avepages averss avevmsize blockid cluster comment constraints consumedenergy
consumedenergyraw container cputime cputimeraw dbindex derivedexitcode elapsed elapsedraw eligible
end exitcode extra failednode flags gid group jobid jobidraw jobname layout licenses maxdiskread
maxdiskreadnode maxdiskreadtask maxdiskwrite maxdiskwritenode maxdiskwritetask maxpages
maxpagesnode maxpagestask maxrss maxrssnode maxrsstask maxvmsize maxvmsizenode maxvmsizetask
mcslabel mincpu mincpunode mincputask ncpus nnodes nodelist ntasks partition planned plannedcpu
plannedcpuraw priority qos qosraw qosreq reason reqcpufreq reqcpufreqgov reqcpufreqmax
reqcpufreqmin reqcpus reqgres reqmem reqnodes reqtres reservation reservationid reserved resvcpu
resvcpuraw restarts segmentsize sluid start state stderr stdin stdout submit submitline suspended
systemcomment systemcpu timelimit timelimitraw totalcpu tresusageinave tresusageinmax
tresusageinmaxnode tresusageinmaxtask tresusageinmin tresusageinminnode tresusageinmintask
tresusageintot tresusageoutave tresusageoutmax tresusageoutmaxnode tresusageoutmaxtask
tresusageoutmin tresusageoutminnode tresusageoutmintask tresusageouttot uid user usercpu wckey
wckeyid workdir
"""
COLUMNS = frozenset(_PRINTED.split())
"""Every column of these versions, in lower case."""


def state(text: str) -> tuple[str | None, str]:
    """The status of a state such as ``CANCELLED by 1000``, and the state itself if it is unknown.

    >>> state("CANCELLED by 1000"), state("OUT_OF_ME+"), state("HOVERING")
    (('cancelled', ''), ('out_of_memory', ''), ('unknown', 'HOVERING'))
    """
    word = text.split(" ")[0].strip().upper()
    if not word:
        return None, ""
    if word.endswith("+"):
        # Without --parsable2 sacct cuts a column at its width.
        word = next((name for name in STATUS if name.startswith(word[:-1])), word)
    return (STATUS[word], "") if word in STATUS else ("unknown", word)
