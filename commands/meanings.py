"""The sentence under each table: what its numbers say, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

OURS = "gridcast"
HOUR, DAY = 3600.0, 86400.0


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.894), percent(0.0042)
    ('89 %', '0.4 %')
    """
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 1 or value == 0 else f"{value:.1f} %"


def counted(count: float, name: str) -> str:
    """How many there are of what has a name in the singular.

    >>> counted(1, "job"), counted(12500, "job")
    ('1 job', '12,500 jobs')
    """
    return f"{count:,.0f} {name}{'s' * (round(count) != 1)}"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(45), duration(5400), duration(200000)
    ('45 s', '1.5 h', '2.31 d')
    """
    for size, unit, limit in ((1, "s", 120), (60, "min", 7200), (HOUR, "h", 2 * DAY)):
        if abs(seconds) < limit and (unit != "min" or abs(seconds) < HOUR):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / DAY:.3g} d"


def in_words(rows: Rows, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows for people: ``names`` of seconds as durations; ``mean_s`` becomes ``mean``.

    >>> in_words([{"policy": "easy", "wait": 5400.0, "done_s": None}], ["wait", "done_s"])
    [{'policy': 'easy', 'wait': '1.5 h', 'done': None}]
    """

    def value(name: str, seconds: Any) -> Any:
        is_duration = name in names and seconds is not None and seconds == seconds
        return duration(seconds) if is_duration else seconds

    return [
        {
            name.removesuffix("_s") if name in names else name: value(name, seconds)
            for name, seconds in row.items()
        }
        for row in rows
    ]


def change(ratio: float, better: str = "less", worse: str = "more") -> str:
    """A ratio to 1 in words.

    >>> change(0.91), change(1.12, "better", "worse"), change(1.0)
    ('9 % less', '12 % worse', 'no less')
    """
    if round(abs(ratio - 1), 3) == 0:
        return f"no {better}"
    return f"{percent(abs(1 - ratio))} {better if ratio < 1 else worse}"


def of_evaluation(rows: Rows, ideal: str = "") -> str:
    """What a backtest says: Gridcast against the best simple rule, and its ranges."""
    ours = next((row for row in rows if row["predictor"] == OURS), None)
    rivals = [
        row for row in rows if row["predictor"] != ideal and not row["predictor"].startswith(OURS)
    ]
    best = min(rivals, key=lambda row: row["mae"], default=None)
    sentences = []
    if ours and best:
        low, high = (ours.get(name) for name in ("mae_ratio_low", "mae_ratio_high"))
        ratio = ours["mae"] / best["mae"] if best["mae"] else 1.0
        interval = ""
        if low is not None and high is not None:
            chance = ", which may be chance" if low <= 1 <= high else ""
            interval = f" (95 % interval {low - 1:+.0%} to {high - 1:+.0%}{chance})"
        sentences.append(
            f"Gridcast's mean error is {change(ratio)} than that of the best other rule, "
            f"{best['predictor']}{interval}"
        )
    if ours and (covered := ours.get("coverage_90")) is not None:
        sentences.append(f"its 90 % ranges held {percent(covered)} of the outcomes")
    if not sentences and best:
        sentences.append(f"the least mean error is that of {best['predictor']}")
    return capitalised("; ".join(sentences))


def of_groups(field: str, counts: Sequence[float], least: int) -> str:
    """How many groups of jobs are evaluated, and how many are too small.

    Args:
        field: The field whose values tell the groups apart.
        counts: The jobs of each group.
        least: The fewest jobs of a group that is evaluated.

    >>> of_groups("site", [900, 60, 3, 1], 50)
    'By site: 2 groups of 960 jobs are evaluated; 2 of fewer than 50 jobs (4 in all) are not.'
    """
    large = [count for count in counts if count >= least]
    small = [count for count in counts if count < least]
    verb = "is" if len(large) == 1 else "are"
    text = f"By {field}: {counted(len(large), 'group')} of {counted(sum(large), 'job')} "
    text += f"{verb} evaluated"
    if small:
        text += f"; {len(small):,} of fewer than {least} jobs ({sum(small):,.0f} in all) "
        text += "is not" if len(small) == 1 else "are not"
    return f"{text}."


FEWEST_UNSEEN = 20
"""Of fewer jobs a share held says nothing."""


def of_unseen(rows: Rows) -> str:
    """How often the ranges hold for users and programs that were never seen.

    >>> of_unseen([{"predictor": "gridcast, user never seen", "jobs": 320, "coverage_90": 0.9}])
    'The 90 % ranges held 90 % of 320 jobs (user never seen).'
    >>> of_unseen([{"predictor": "gridcast, user never seen", "jobs": 1, "coverage_90": 1.0}])
    'Too few to judge ranges by: 1 job (user never seen).'
    """
    judged, too_few = list[str](), list[str]()
    for row in rows:
        jobs = f"{counted(row['jobs'], 'job')} ({row['predictor'].partition(', ')[2]})"
        if row["jobs"] < FEWEST_UNSEEN:
            too_few.append(jobs)
        elif row.get("coverage_90") is not None:
            judged.append(f"{percent(row['coverage_90'])} of {jobs}")
    sentences = [f"The 90 % ranges held {' and '.join(judged)}."] if judged else []
    sentences += [f"Too few to judge ranges by: {' and '.join(too_few)}."] if too_few else []
    return " ".join(sentences)


def of_tasks(rows: Rows) -> str:
    """How well the ends of tasks are predicted at half of their progress."""
    shares = sorted({row["progress"] for row in rows})
    half = min(shares, key=lambda share: abs(share - 0.5))
    at_half = [row for row in rows if row["progress"] == half]
    ours = next(row for row in at_half if row["predictor"] == OURS)
    best = min((row for row in at_half if row is not ours), key=lambda row: row["mae_hours"])
    return (
        f"With {percent(half)} of the jobs ended, Gridcast misses a task's end by "
        f"{ours['mae_hours']:.2g} h on average, the best other rule ({best['predictor']}) by "
        f"{best['mae_hours']:.2g} h; its 90 % ranges held {percent(ours['coverage_90'])}."
    )


def of_stalls(rows: Rows) -> str:
    """How many planted stalls were found, and how fast."""
    row = rows[0]
    return (
        f"{percent(row['recall'])} of {row['planted']} planted stalls were found, after "
        f"{row['median_delay_hours']:.2g} h in the median; {percent(row['precision'])} of the "
        "calls were right."
    )


def of_faults(rows: Rows) -> str:
    """How many tasks on faulty hosts were called."""
    parts = [
        f"{row['fault']} faults: {percent(row['recall'])} of {row['labelled']:,} tasks were called,"
        f" {percent(row['precision'])} of the calls were right"
        for row in rows
    ]
    return "; ".join(parts) + "."


def of_ends(rows: Rows) -> str:
    """Gridcast's error of the end of a workflow against the rate so far."""
    if not rows:
        return "No run was predicted."
    errors = {row["predictor"]: row["mae"] for row in rows}
    return f"Gridcast's error is {change(errors[OURS] / errors['rate'])} than the rate's."


def of_allocation(rows: Rows) -> str:
    """What Gridcast's allocation wastes, against the request and the best other policy."""
    ours = next(row for row in rows if row["policy"] == OURS)
    rivals = [row for row in rows if row is not ours]
    best = min(rivals, key=lambda row: row["waste_gbh"])
    against = [f"{change(ours['waste_gbh'] / best['waste_gbh'])} than {best['policy']}, the best"]
    request = next((row for row in rivals if row["policy"] == "request" and row is not best), None)
    if request and request["waste_gbh"]:
        against.append(f"{change(ours['waste_gbh'] / request['waste_gbh'])} than the requests")
    return (
        f"Gridcast wastes {' and '.join(against)}; {percent(ours['failed_jobs'] / ours['jobs'])} "
        "of the jobs would have failed once."
    )


def of_classes(rows: Rows) -> str:
    """How often the class of each target was right."""
    ours = [row for row in rows if row["predictor"] == OURS]
    parts = [f"{row['target']} {percent(row['accuracy'])}" for row in ours if "accuracy" in row]
    return f"Gridcast names the right class: {', '.join(parts)} of the jobs." if parts else ""


def of_joint(rows: Rows) -> str:
    """How often all classes of a job were right at once."""
    ours = next((row for row in rows if row["predictor"] == OURS), {})
    share = ours.get(f"at_least_{ours.get('targets')}")
    return "" if share is None else f"Gridcast names all classes of {percent(share)} of the jobs."


def of_rehearsal(rows: Rows) -> str:
    """Which policy of retraining has the least error."""
    best = min(rows, key=lambda row: row["mae"])
    never = next(row for row in rows if row["predictor"] == best["predictor"])
    if best["policy"] == "never":
        return f"Retraining never has the least error ({best['predictor']})."
    how = "on a schedule" if best["policy"] == "schedule" else "on decay"
    certain = best["mae_ratio_high"] < 1
    return (
        f"The least error is that of {best['predictor']} retrained {how}: "
        f"{change(best['mae'] / never['mae'])} than never, "
        f"{'beyond' if certain else 'which may be'} chance, by {best['trainings']} trainings."
    )


def of_replay(rows: Rows) -> str:
    """Which combination slows jobs down least, against the first."""
    replayed = [row for row in rows if row["ratio"] is not None]
    first, best = replayed[0], min(replayed, key=lambda row: row["mean_bounded_slowdown"])
    if best is first:
        return f"No combination slows jobs down less than the first, {first['policy']}."
    return (
        f"Jobs are slowed down {change(best['ratio'])} by {best['policy']} with "
        f"{best['predictor']} than by {first['policy']} with {first['predictor']} "
        f"({best['verdict']}, 95 % interval of the ratio {best['ratio_low']:.2f} to "
        f"{best['ratio_high']:.2f}); the longest wait becomes {duration(best['max_wait'])} "
        f"instead of {duration(first['max_wait'])}."
    )


def of_brokers(rows: Rows) -> str:
    """Which broker has its jobs done first."""
    possible = [row for row in rows if not row["policy"].startswith("oracle")]
    best = min(possible, key=lambda row: row["mean_done_s"])
    return (
        f"Jobs are done first with {best['policy']}: after {duration(best['mean_done_s'])} on "
        f"average, {change(best['mean_ratio'])} than when sent to the shortest queue."
    )


PILOT_LEGEND = (
    "core hours: of jobs that ended within their slot; killed share: of starts, those that the "
    "slot's end stopped; lost share: of the pilots' core hours, those of killed starts; idle "
    "share: those without a job; mean wait: from submission to the first start."
)


def of_pilots(rows: Rows) -> str:
    """How many core hours a rule delivers beside the first, and at which share of kills."""
    sentences = []
    for hours in dict.fromkeys(row["slot_hours"] for row in rows):
        first, *following = (row for row in rows if row["slot_hours"] == hours)
        for row in following[-1:] or [first]:
            delivered = f"{row['core_hours']:,.0f} core hours"
            if following and first["core_hours"] > 0:
                ratio = row["core_hours"] / first["core_hours"]
                delivered += f", {ratio:.2f} times those of {first['rule']}"
            sentences.append(
                f"In slots of {hours:g} h {row['rule']} delivers {delivered}; "
                f"{row['killed_share']:.1%} of its starts are killed."
            )
    return f"{' '.join(sentences)}\n{PILOT_LEGEND}"


def of_what_if(rows: Rows) -> str:
    """Under which scenario the worst-off group waits least."""
    worst: dict[str, float] = {}
    for row in rows:
        worst[row["scenario"]] = max(worst.get(row["scenario"], 0.0), row["mean_wait"])
    best = min(worst, key=lambda name: worst[name])
    last = max(worst, key=lambda name: worst[name])
    return (
        f"The group that waits longest waits {duration(worst[best])} on average under {best}, "
        f"and {duration(worst[last])} under {last}."
    )


def of_balance(rows: Rows) -> str:
    """Which host gets most of the work."""
    most, least = (pick(rows, key=lambda row: float(row["share_of_work"])) for pick in (max, min))
    return (
        f"{most['host']} gets most, {percent(most['share_of_work'])} of the work, "
        f"{least['host']} least, {percent(least['share_of_work'])}."
    )


def of_policies(rows: Rows) -> str:
    """Which policy of dividing work takes least, and at the worst."""
    mean, late = (min(rows, key=lambda row: float(row[name])) for name in ("mean_s", "p95_s"))
    return (
        f"Work divided by {mean['policy']} takes least on average, {duration(mean['mean_s'])}; "
        f"by {late['policy']}, 95 % of it takes at most {duration(late['p95_s'])}."
    )


def of_training(rows: Rows) -> str:
    """How the candidate compares with the champion and the best simple rule, a target."""
    sentences = []
    for target in dict.fromkeys(row["target"] for row in rows):
        own = [row for row in rows if row["target"] == target]
        ours = next((row for row in own if row["predictor"] == "candidate"), None)
        rivals = [row for row in own if row is not ours and row["predictor"] != "champion"]
        if ours is None or not rivals:
            continue
        best = min(rivals, key=lambda row: row["mae"])
        ratio = ours["mae"] / best["mae"] if best["mae"] else 1.0
        covered = percent(ours["coverage_90"])
        sentences.append(
            f"{target}: its mean error is {change(ratio)} than that of {best['predictor']}, the "
            f"best simple rule; its 90 % ranges held {covered}."
        )
    return " ".join(sentences)


def of_predictions(rows: Rows) -> str:
    """The typical prediction, and how many jobs begin without a history."""
    walltimes = sorted(row["walltime"] for row in rows if row.get("walltime") is not None)
    cold = sum(bool(row.get("cold_start")) for row in rows)
    typical = f"half of the {len(rows):,} jobs " if len(rows) != 1 else "the job "
    typical += f"{'are' if len(rows) != 1 else 'is'} predicted to run at most "
    typical += duration(walltimes[len(walltimes) // 2]) if walltimes else "–"
    unknown = f"; the owner of {cold:,} had no ended job" if cold else ""
    return capitalised(f"{typical}{unknown}")


def of_versions(rows: Rows) -> str:
    """Which version serves, and since when."""
    champion = next((row for row in rows if row["state"] == "champion"), None)
    if champion is None:
        return f"None of {len(rows)} versions is champion: gridcast promote N makes it so."
    return (
        f"{champion['version']} serves, trained on {counted(int(champion['jobs'] or 0), 'job')}; "
        f"{counted(len(rows) - 1, 'other version')}."
    )


def of_ingest(rows: Rows) -> str:
    """How much of what was read is stored; empty where no file could be read."""
    if rows and all(row.get("error") and not row.get("read") for row in rows):
        return ""
    read, stored, rejected = (
        sum(int(row.get(name) or 0) for row in rows for name in names)
        for names in (("read",), ("added", "updated"), ("rejected",))
    )
    verb = "is" if stored == 1 else "are"
    sentence = f"Of {counted(read, 'record')} {stored:,} {verb} new or changed"
    return (
        f"{sentence}, {rejected:,} {'was' if rejected == 1 else 'were'} rejected"
        " (gridcast rejects)."
        if rejected
        else (f"{sentence}, none was rejected.")
    )


def of_stored(rows: Rows) -> str:
    """How many of the stored jobs have ended."""
    jobs, ended = (sum(int(row[name]) for row in rows) for name in ("jobs", "ended"))
    sources = counted(len(rows), "source")
    if not ended:
        return (
            f"None of the {counted(jobs, 'job')} of {sources} has ended: a model learns from jobs "
            "that have."
        )
    stored = f"{counted(jobs, 'job')} of {sources}"
    return f"{stored}; {percent(ended / jobs)} have ended and can be learned from."


def of_status(rows: Rows) -> str:
    """What runs and what does not."""
    down = [row["part"] for row in rows if row["state"] in ("down", "failing", "restarting")]
    up = [row["part"] for row in rows if row["state"] == "up"]
    if not up and not any(row["state"] == "starting" for row in rows):
        return "Nothing runs: gridcast up starts it."
    starting = [row["part"] for row in rows if row["state"] == "starting"]
    if down:
        return f"{', '.join(down)} {'does' if len(down) == 1 else 'do'} not answer."
    if starting:
        return f"{', '.join(starting)} {'is' if len(starting) == 1 else 'are'} still starting."
    return "Everything answers."


def of_health(rows: Rows) -> str:
    """How many findings need a person."""
    wrong, watched = (sum(row["state"] == state for row in rows) for state in ("wrong", "watch"))
    if wrong:
        return f"{wrong} of {len(rows)} need a person now; the column “do” says what to do."
    if watched:
        return f"Nothing is wrong; {watched} of {len(rows)} are to be watched."
    return f"All {len(rows)} are well."


def of_scouts(rows: Rows) -> str:
    """What the median task's scouts would measure, and of how many tasks too few jobs ended."""
    memory = sorted(row["ram_count"] for row in rows if row.get("ram_count") is not None)
    without = sum(row.get("walltime") is None or row["walltime"] != row["walltime"] for row in rows)
    if not memory:
        return "No task has ended jobs that report their memory."
    return (
        f"Half of {counted(len(rows), 'task')} need at most "
        f"{memory[len(memory) // 2]:,.0f} MB a core; of {without:,} no walltime follows, since "
        "they have no events."
    )


def of_table(row: Mapping[str, Any]) -> str:
    """How many rows were written, and of how many jobs."""
    predict = "predicts" if row["rows"] == 1 else "predict"
    return (
        f"{counted(row['rows'], 'row')} {predict} {counted(row['jobs'], 'recent job')}, by "
        f"{row['model_version']}."
    )


def of_demo(rows: Rows) -> str:
    """What the demo showed: a model better than simple rules, and that it decayed later."""
    values = {row["what"]: row["value"] for row in rows}
    ours, rule = values["error of Gridcast"], values["error of the median of the last 10"]
    decayed = values["decay"] == "found"
    since = "Since then jobs behave otherwise, which decay and drift show" if decayed else ""
    return " ".join(
        capitalised(sentence)
        for sentence in (
            f"on jobs later than its training, Gridcast's mean error is {change(ours / rule)} "
            "than that of the median of the last 10",
            since,
        )
        if sentence
    )


def of_ranking(rows: Rows) -> str:
    """Where the first job should go."""
    first = next((row for row in rows if row.get("rank") == 1), None)
    if first is None:
        return "No candidate can be ranked."
    total = first.get("total_mean")
    when = f", done after {duration(total)} on average" if total is not None else ""
    return f"Job {first['job_id']} goes first to {first['site']}{when}."


def of_copies(rows: Rows) -> str:
    """How many rows were copied or dropped in all."""
    total = sum(int(row.get("rows") or 0) for row in rows)
    return f"{counted(total, 'row')} in all."


def of_change(row: Mapping[str, Any]) -> str:
    """The object of a change, and what it was before and after, or how much it concerned.

    >>> of_change({"object": "late of all", "before": "0.8", "after": "0.9"})
    'late of all: 0.8 → 0.9'
    """
    values = [str(row[name]) for name in ("before", "after") if _is_text(row.get(name))]
    is_made = row.get("result") not in ("failed", "refused")
    if is_made and len(values) == 1 and _is_text(row.get("before")):
        values.append("none")
    records, calls = row.get("records"), row.get("calls")
    counts = [
        counted(count, name)
        for count, name in ((records, "record"), (calls if calls != 1 else None, "time"))
        if count is not None and count == count
    ]
    return ": ".join(filter(None, (row["object"], " → ".join(values), ", ".join(counts))))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def of_audit(rows: Rows, more: bool) -> str:
    """How many changes there are, by how many, and how many were refused."""
    if not rows:
        return "No change is recorded that the options select."
    refused = sum(row["result"] == "refused" for row in rows)
    people = len({row["who"] for row in rows})
    attempts = f", {refused} of refused attempts" if refused else ""
    rows_of = f"{counted(len(rows), 'row')} by {counted(people, 'actor')}"
    older = "; --limit shows older ones" if more else ""
    return f"{rows_of}{attempts}{older}."


def capitalised(text: str) -> str:
    """The text as a sentence: a capital first, a full stop last.

    >>> capitalised("half of it")
    'Half of it.'
    """
    return f"{text[:1].upper()}{text[1:]}." if text else ""
