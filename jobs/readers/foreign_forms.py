"""Known outputs of tools that no reader takes, each with the option to use instead."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.readers.lines import head_lines

SACCT = "write it by sacct --allusers --parsable2 (or --json)"
HISTORY = "write it by condor_history -json (or -long)"
ACCOUNTING = "give the server's accounting files (server_priv/accounting) instead"
TRACE = "run Nextflow with -with-trace, or give the file that nextflow log -f writes, with a header"

_FORMS: tuple[tuple[str, str], ...] = (
    (r"(?=[^\n]*\bjobid)[^\n]*+\n *-{2,}(?: +-{2,})+ *\n",
     f"is sacct's table of fixed width, which cuts what is longer: {SACCT}"),
    (r"\d+(?:[_+][\d\[\],%-]+)?(?:\.[\w+]+)?\|(?:[^|\n]*\|){2,}",
     f"has no header, so that no column is known: {SACCT}, without --noheader (-n)"),
    (r"\s*JOBID +PARTITION +NAME ", f"is what squeue prints, which knows no outcomes: {SACCT}"),
    (r"(?:[A-Z]+\|)*(?-i:JOBID)\|", f"is what squeue prints, which knows no outcomes: {SACCT}"),
    (r"JobId=\d+ (?:ArrayJobId|JobName|UserId)",
     f"is of scontrol show job or of Slurm's job completion plugin: {SACCT}"),
    (r"\s*\{[\s\S]{0,5000}\"(?:pbs_version|pbs_server)\"",
     f"is what qstat -F json prints: {ACCOUNTING}"),
    (r"[\[{][\s\S]{0,20000}\"(?:job_state|submit_time)\"",
     f"is of squeue or scontrol --json, which know no outcomes: {SACCT}"),
    (r"-{10,}\n(?:Cluster|Top) ", f"is a report of sreport, which has sums only: {SACCT}"),
    (r"\s*(?:-- Schedd:|ID +OWNER +SUBMITTED|ID +OWNER +DATE)",
     f"is a table of condor_q or condor_history, which leaves most out: {HISTORY}"),
    (r"\d{3} \(\d+\.\d+\.\d+\) ", f"is a job event log of HTCondor: {HISTORY}"),
    (r"-?\d+\.\d+ +\S+ +\d+/\d+ +\d\d:\d\d ", f"is a table of condor_history: {HISTORY}"),
    (r"Job Id: \S+\n\s+Job_Name = ", f"is what qstat -f prints: {ACCOUNTING}"),
    (r"\s*(?:Job id +Name +User|Job: \d\S*\n)", f"is what qstat or tracejob prints: {ACCOUNTING}"),
    (r"={10,}\nqname +", "is what qacct prints: give a CSV of it, with --map COLUMN=FIELD"),
    (r"\"JOB_(?:FINISH|NEW|START)\" ", "is an event file of LSF: write a CSV of bjobs -a -o with"
     " delimiter=',' and say which column is which by --map COLUMN=FIELD"),
    (r"JOBID +USER +STAT +QUEUE", "is what bjobs prints: write a CSV by bjobs -a -o with"
     " delimiter=',' and say which column is which by --map COLUMN=FIELD"),
    (r"\w{3}-\d\d \d\d:\d\d:\d\d\.\d{3} \[", f"is Nextflow's own log: {TRACE}"),
    (r"\s*<(?:!DOCTYPE )?html", "is a page of HTML (a report?): of Nextflow's reports only the"
     f" trace can be read: {TRACE}"),
    (r"TIMESTAMP\s+DURATION\s+RUN NAME", f"is what nextflow log prints: {TRACE}"),
    (r"\{[\s\S]{0,2000}\"(?:jobStatusLog|taskparamMap|errorsbycount)\"", "is a page of BigPanDA:"
     " ask for its jobs as JSON (jobs/?json&fields=…), or give a CSV of PanDA's table"),
)  # fmt: skip
FORMS = tuple((re.compile(pattern, re.IGNORECASE), sentence) for pattern, sentence in _FORMS)
LOOK = 1 << 15


def hint(path: Path, head: bytes) -> str:
    """One sentence on what the file is and how to write it so that it can be read, or ''."""
    text = "\n".join(head_lines(head))[:LOOK]
    for pattern, sentence in FORMS:
        if pattern.match(text):
            return f"{path} {sentence}"
    return ""
