#!/bin/sh
# A job that gridcast.lua gave less than it requested, and that was killed for it, runs again with the next rung of its ladder.
#
# EpilogSlurmctld=/etc/slurm/gridcast_requeue.sh in slurm.conf, or a line in the script that a site has there already. It runs on the
# controller as SlurmUser after each job, and does something only for jobs out of memory or time whose admin comment (which users cannot
# write) has the ladder. The last rung is what the job requested itself: after it a failure is final.

export PATH="$PATH:/usr/bin:/usr/local/bin"
id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
id=${id:-$SLURM_JOB_ID}
# Whatever Slurm refuses, a job does not run for ever.
[ -n "$id" ] && [ "${SLURM_JOB_RESTART_COUNT:-0}" -lt 8 ] || exit 0
job=$(scontrol -d show job "$id" 2>/dev/null) || exit 0
if [ "${SLURM_JOB_EXIT_CODE:-0}" != 0 ] && [ "${SLURM_JOB_DERIVED_EC:-0}" = 0 ]; then
    # A script may end before the controller hears how its last step did.
    case "$job" in *AdminComment=gridcast:*"; requests "*) sleep 2 && job=$(scontrol -d show job "$id" 2>/dev/null) || exit 0 ;; esac
fi

# The field of scontrol with its next value; nothing where the job did not fail for memory or time, or has no further rung.
next=$(printf '%s\n' "$job" | awk -v code="$SLURM_JOB_EXIT_CODE" -v steps="$SLURM_JOB_DERIVED_EC" '
    function mebibytes(text) { return text * (text ~ /T$/ ? 1048576 : text ~ /G$/ ? 1024 : text ~ /K$/ ? 1 / 1024 : 1) }
    function minutes(text,    days, clock) {
        if (split(text, clock, "-") == 2) { days = clock[1]; text = clock[2] }
        return split(text, clock, ":") == 3 ? days * 1440 + clock[1] * 60 + clock[2] : 1e9
    }
    # 253 (0:125 in sacct) is what Slurm reports of a process that the kernel killed for its memory, of the batch script or of a step.
    BEGIN { if (code % 256 == 253 || (code != 0 && steps % 256 == 253)) failure = "memory" }
    /^ *DerivedExitCode=[0-9]*:125/ { if (code != 0) failure = "memory" }
    /^ *JobState=[^ ]* Reason=TimeLimit / { failure = "time" }
    /^ *(RunTime|NumNodes|MinCPUsNode)=/ {
        for (i = 1; i <= NF; i++) {
            split($i, pair, "=")
            if (pair[1] == "NumCPUs") cpus = pair[2]
            if (pair[1] == "TimeLimit") limit = minutes(pair[2])
            if (pair[1] ~ /^MinMemory(CPU|Node)$/) { unit = pair[1]; memory = mebibytes(pair[2]) }
        }
    }
    /^ *AdminComment=gridcast: / && match($0, "; requests .*") { ladder = substr($0, RSTART) }
    END {
        if (!failure || !match(ladder, failure " [0-9, ]+ (MiB|min)")) exit
        count = split(substr(ladder, RSTART + length(failure) + 1, RLENGTH), rungs, ", ")
        for (i = 1; i <= count; i++) {
            rung = rungs[i] + 0
            if (failure == "memory" && unit == "MinMemoryCPU") rung = int((rung + cpus - 1) / cpus)
            if (rung > (failure == "time" ? limit : memory)) { print (failure == "time" ? "TimeLimit" : unit) "=" rung; exit }
        }
    }')
[ -n "$next" ] || exit 0
comment=$(printf '%s\n' "$job" | sed -n 's/^ *AdminComment=//p')

scontrol requeue "$id" || exit 0

# Slurm starts a job that is queued again after two minutes at the earliest. Once it is (after this script has ended) it gets the next
# rung, so that the record of the failed run keeps the one that it had, and may start at once. Should this process die, the job only
# fails and comes here again.
# slurmctld kills the process group of this script when the script ends: $(…) waits until the process has a session of its own.
: "$(setsid sh -c '
    exec >/dev/null 2>&1
    for second in 1 2 3 4 5 6 7 8 9 10 20 30; do
        sleep 1
        case "$(scontrol show job "$0")" in *JobState=PENDING*) break ;; esac
    done
    scontrol update JobId="$0" "$1" AdminComment="$2; again with $1" StartTime=now
' "$id" "$next" "$comment" </dev/null &)"
exit 0
