"""The discrete-event kernel of a replay on pilots.

Events are taken in order of time, at one moment ends before submissions. A pilot with idle cores
takes waiting jobs until none is accepted; a job that is submitted goes to the pilot with the least
time left that accepts it, if there is one. A job that has not ended with its slot is killed, and
waits again.
"""

from __future__ import annotations

import numpy as np

from infra.compiled import compiled
from scheduling.pilots.state import (
    ACTIVE,
    ARRIVED,
    DONE_JOBS,
    DROPPED,
    EVENTS,
    EXPECTED,
    KILLS,
    LOST,
    NOW,
    OBSERVED,
    OUTCOMES,
    PENDING,
    PRICE,
    RAN_CLASSES,
    STARTS,
    TARGET,
    USED,
    WAITED,
    GridAxis,
    PilotState,
)

END, TICK, PREDICT = range(3)
"""Why the kernel returned: all is done, the time is up, a kind has no prediction yet."""
FITS, GAIN = range(2)
"""How a rule accepts jobs: where the seconds needed are left, in order of submission; or where the
expected gain is positive, the largest gain first."""
WARM_UP = 200
"""Outcomes before which every rule is static."""
_MARGIN = 1e-6
_FIRST_PRICE, _LEAST_PRICE, _MOST_PRICE = 1e5, 60.0, 1e7
_PRICE_KILLS = 300.0
"""The price of a kill, s, and the kills beyond the target that raise it by the factor e."""
_PRIOR, _MOST_RATIO = 20.0, 3.0
_FREE_STARTS, _STARTS_AN_END, _NO_RISK = 3.0, 3.0, 1e-6
"""An owner's attempts that may run at risk, and how many more for each of its latest ends."""
_MEMORY, _SHRINKING, _MOST_HAZARD = 86400.0, 5.0, 4.0


@compiled
def _position(axis: GridAxis, seconds: float) -> float:
    """Where a value lies on the axis, in bins (see ``Grid.bin_positions``)."""
    position = axis.steps * np.log2(max(seconds, axis.lowest) / axis.lowest)
    beyond = max(position - axis.fine_bins, 0.0) / axis.tail_width
    return min(min(position, axis.fine_bins) + beyond, axis.bins - 1e-9)


@compiled
def _at(table: np.ndarray, position: float) -> float:
    bin_number = np.int64(position)
    upper = position - bin_number
    return table[bin_number] * (1.0 - upper) + table[bin_number + 1] * upper


@compiled
def _outlook(
    state: PilotState, axis: GridAxis, number: int, left: float, position: float
) -> tuple[float, float]:
    """The probability that a job of a class is killed, and E[T; T ≤ left], s; see ``Outlook``."""
    kind, row = number // RAN_CLASSES, state.first[number]
    below, moment = _at(state.below[kind], position), _at(state.moment[kind], position)
    if number % RAN_CLASSES:
        ran = state.ran[row]
        start = _position(axis, ran)
        rest = 1.0 - _at(state.below[kind], start)
        if ran >= left or rest < 1e-9:
            return 1.0, 0.0
        below = (below - _at(state.below[kind], start)) / rest
        moment = (moment - _at(state.moment[kind], start)) / rest
    over, hazard = 1.0 - below, state.hazard[state.owner[kind]]
    if hazard < 1.0 and over > 0.0:
        # Fewer jobs ended than should have by now: P(T > t) is raised to that ratio.
        thinner = over**hazard
        moment *= (1.0 - thinner) / max(below, 1e-9)
        over = thinner
    return over, min(moment, (1.0 - over) * left)


@compiled
def _cumulated_hazard(state: PilotState, axis: GridAxis, kind: int, age: float) -> float:
    """How many ends are expected of a job by an age: −log P(T > age), at most ``_MOST_HAZARD``."""
    over = 1.0 - _at(state.below[kind], _position(axis, age))
    return min(-np.log(max(over, 1e-9)), _MOST_HAZARD)


@compiled
def observe(state: PilotState, axis: GridAxis, seconds: float) -> None:
    """Compare by owner the ends of jobs lately with what was expected, of running ones too.

    The ratio, shrunk to 1, is that of the hazards (a gamma frailty): where many jobs of an owner
    run longer than such jobs did, those that wait are taken to run longer, too.

    Args:
        state: Holds the counts, which fade.
        axis: Of the distributions.
        seconds: Since the last call.
    """
    fading = np.exp(-seconds / _MEMORY)
    state.ends[:] *= fading
    state.expected[:] *= fading
    running = np.zeros(len(state.expected))
    for i in range(state.counts[EVENTS]):
        row = state.event_row[i]
        if row >= 0:
            kind = state.kind[row]
            age = state.sums[NOW] - state.started[row]
            running[state.owner[kind]] += _cumulated_hazard(state, axis, kind, age)
    for owner in range(len(running)):
        total = state.expected[owner] + running[owner]
        state.hazard[owner] = min((state.ends[owner] + _SHRINKING) / (total + _SHRINKING), 1.0)


@compiled
def _kill_ratio(state: PilotState) -> float:
    """Kills that were observed over those that were predicted, shrunk to 1, at least 1."""
    ratio = (state.counts[KILLS] + _PRIOR) / (state.sums[EXPECTED] + _PRIOR)
    return min(max(ratio, 1.0), _MOST_RATIO)


@compiled
def _set_price(state: PilotState) -> None:
    """Let the price follow the kills beyond the target, those expected of running jobs counted."""
    kills = state.counts[KILLS] + state.sums[PENDING] * _kill_ratio(state)
    excess = kills - state.sums[TARGET] * state.counts[STARTS]
    price = _FIRST_PRICE * np.exp(excess / _PRICE_KILLS)
    state.sums[PRICE] = min(max(price, _LEAST_PRICE), _MOST_PRICE)


@compiled
def _may_run(state: PilotState, owner: int) -> bool:
    """Whether an owner may have one more attempt at risk.

    Jobs of one owner that start together run long together, so their risks are not independent: the
    attempts that run are limited by the owner's ends of the last day.
    """
    return state.running[owner] < _FREE_STARTS + _STARTS_AN_END * state.ends[owner]


@compiled
def _score(
    state: PilotState, axis: GridAxis, rule: int, number: int, left: float, position: float
) -> float:
    """The score of starting the first job of a class, -inf where it is not accepted.

    The price of a kill is that of the constraint that no more than the target's share of the
    starts are killed, so a start of less risk than that is credited.
    """
    row, kind = state.first[number], number // RAN_CLASSES
    if rule == FITS or state.sums[OBSERVED] < WARM_UP:
        fits = state.need[kind] <= left + _MARGIN and state.ran[row] < left
        return -state.submitted[row] if fits else -np.inf
    risk, used = _outlook(state, axis, number, left, position)
    if risk > _NO_RISK and not _may_run(state, state.owner[kind]):
        return -np.inf
    gain = used - risk * left - state.sums[PRICE] * (risk - state.sums[TARGET])
    if gain <= 0.0:
        return -np.inf
    return gain


@compiled
def _push(state: PilotState, time: float, row: int) -> None:
    times, rows, i = state.event_time, state.event_row, state.counts[EVENTS]
    state.counts[EVENTS] += 1
    while i > 0 and times[(i - 1) // 2] > time:
        times[i], rows[i] = times[(i - 1) // 2], rows[(i - 1) // 2]
        i = (i - 1) // 2
    times[i], rows[i] = time, row


@compiled
def _pop(state: PilotState) -> None:
    times, rows = state.event_time, state.event_row
    state.counts[EVENTS] -= 1
    last = state.counts[EVENTS]
    time, row, i = times[last], rows[last], 0
    while 2 * i + 1 < last:
        child = 2 * i + 1
        if child + 1 < last and times[child + 1] < times[child]:
            child += 1
        if times[child] >= time:
            break
        times[i], rows[i] = times[child], rows[child]
        i = child
    times[i], rows[i] = time, row


@compiled
def _append(state: PilotState, number: int, row: int) -> None:
    """Let a job wait at the end of its class."""
    state.next_row[row] = -1
    if state.first[number] < 0:
        state.first[number] = row
        state.active_index[number] = state.counts[ACTIVE]
        state.active[state.counts[ACTIVE]] = number
        state.counts[ACTIVE] += 1
    else:
        state.next_row[state.last[number]] = row
    state.last[number] = row


@compiled
def _take(state: PilotState, number: int) -> int:
    """Take the first job of a class out of the queue."""
    row = state.first[number]
    state.first[number] = state.next_row[row]
    if state.first[number] < 0:
        state.counts[ACTIVE] -= 1
        moved = state.active[state.counts[ACTIVE]]
        state.active[state.active_index[number]] = moved
        state.active_index[moved] = state.active_index[number]
        state.active_index[number] = -1
    return row


@compiled
def _start(
    state: PilotState, axis: GridAxis, rule: int, pilot: int, number: int, now: float
) -> None:
    """Start the first job of a class."""
    if rule != FITS and state.sums[OBSERVED] >= WARM_UP:
        left = state.end[pilot] - now
        risk, _ = _outlook(state, axis, number, left, _position(axis, left))
        state.risk[state.first[number]] = risk
        state.sums[PENDING] += risk
    row = _take(state, number)
    state.running[state.owner[number // RAN_CLASSES]] += 1
    state.free[pilot] -= state.cores[row]
    state.counts[STARTS] += 1
    _set_price(state)
    if state.attempts[row] == 0:
        state.sums[WAITED] += now - state.submitted[row]
    state.attempts[row] += 1
    state.started[row], state.pilot[row] = now, pilot
    _push(state, min(now + state.length[row], state.end[pilot]), row)


@compiled
def _fill(state: PilotState, axis: GridAxis, rule: int, pilot: int, now: float) -> None:
    """Let a pilot take jobs until none that waits is accepted."""
    left = state.end[pilot] - now
    if left <= 0.0:
        return
    position = _position(axis, left)
    while state.free[pilot] > 0 and state.counts[ACTIVE] > 0:
        best, best_score = -1, -np.inf
        for i in range(state.counts[ACTIVE]):
            number = state.active[i]
            if state.cores[state.first[number]] > state.free[pilot]:
                continue
            score = _score(state, axis, rule, number, left, position)
            if score > best_score:
                best, best_score = number, score
        if best < 0:
            return
        _start(state, axis, rule, pilot, best, now)


@compiled
def _class_of(state: PilotState, row: int) -> int:
    """The class of a waiting job."""
    if state.ran[row] <= 0.0:
        return state.kind[row] * RAN_CLASSES
    half_octave = np.int64(2.0 * np.log2(max(state.ran[row], 1.0)))
    return state.kind[row] * RAN_CLASSES + 1 + min(half_octave, RAN_CLASSES - 2)


@compiled
def _censored(state: PilotState, axis: GridAxis, kind: int, ran: float, slot: float) -> float:
    """What is learned of a job killed after ``ran`` s: the predicted median of what is longer.

    Twice the slot where a whole slot was not enough, and ``ran`` where nothing was predicted.
    """
    if state.below[kind, axis.bins] <= 0.0:
        return ran
    if ran >= 0.99 * slot:
        return 2.0 * slot
    reached = _at(state.below[kind], _position(axis, ran))
    middle, bin_number = (1.0 + reached) / 2.0, 0
    while bin_number < axis.bins - 1 and state.below[kind, bin_number + 1] < middle:
        bin_number += 1
    fine = bin_number + 0.5
    fine += max(fine - axis.fine_bins, 0.0) * (axis.tail_width - 1.0)
    value = axis.lowest * 2.0 ** (fine / axis.steps)
    return min(max(value, 1.05 * ran), 2.0 * slot)


@compiled
def _end_job(
    state: PilotState, axis: GridAxis, row: int, now: float, slot: float, most: int
) -> None:
    """End a job, or kill it with its slot; it then waits again, up to ``most`` attempts."""
    pilot, spent = state.pilot[row], now - state.started[row]
    owner = state.owner[state.kind[row]]
    state.running[owner] -= 1
    killed = spent < state.length[row] - _MARGIN
    state.free[pilot] += state.cores[row]
    value = state.length[row]
    if killed:
        value = _censored(state, axis, state.kind[row], spent, slot)
        state.counts[KILLS] += 1
        state.sums[LOST] += spent * state.cores[row]
        state.ran[row] = max(state.ran[row], spent)
        if state.attempts[row] < most:
            _append(state, _class_of(state, row), row)
        else:
            state.counts[DROPPED] += 1
    else:
        state.counts[DONE_JOBS] += 1
        state.sums[USED] += spent * state.cores[row]
    if state.below[state.kind[row], axis.bins] > 0.0:
        state.ends[owner] += 0.0 if killed else 1.0
        state.expected[owner] += _cumulated_hazard(state, axis, state.kind[row], spent)
    state.sums[OBSERVED] += 1
    state.sums[EXPECTED] += state.risk[row]
    state.sums[PENDING] -= state.risk[row]
    _set_price(state)
    state.risk[row] = 0.0
    i = state.counts[OUTCOMES]
    state.outcome_row[i], state.outcome_at[i], state.outcome_value[i] = row, now, value
    state.counts[OUTCOMES] += 1


@compiled
def _submit(state: PilotState, axis: GridAxis, rule: int, row: int, now: float) -> None:
    """Give a job to the accepting pilot with the least time left, or let it wait."""
    number = state.kind[row] * RAN_CLASSES
    waited = state.first[number] >= 0
    _append(state, number, row)
    if waited:
        return
    best, least = -1, np.inf
    for pilot in range(len(state.end)):
        left = state.end[pilot] - now
        if state.free[pilot] < state.cores[row] or left <= 0.0 or left >= least:
            continue
        if _score(state, axis, rule, number, left, _position(axis, left)) > -np.inf:
            best, least = pilot, left
    if best >= 0:
        _start(state, axis, rule, best, number, now)


@compiled
def advance(
    state: PilotState, axis: GridAxis, rule: int, until: float, slot: float, most: int
) -> int:
    """Process the events before ``until``.

    Args:
        state: What changes.
        axis: Of the distributions.
        rule: FITS or GAIN.
        until: The time, s.
        slot: Seconds of a slot.
        most: Attempts of a job.

    Returns:
        END, TICK, or PREDICT where the kind of the next submitted job was never predicted.
    """
    counts = state.counts
    while True:
        submission = np.inf
        if counts[ARRIVED] < len(state.submitted):
            submission = state.submitted[counts[ARRIVED]]
        now = min(state.event_time[0], submission)
        if now >= until or counts[OUTCOMES] >= len(state.outcome_row) - 1:
            return TICK
        state.sums[NOW] = now
        if submission < state.event_time[0]:
            row = counts[ARRIVED]
            if not state.predicted[state.kind[row]]:
                return PREDICT
            counts[ARRIVED] += 1
            state.requested[state.kind[row]] = True
            _submit(state, axis, rule, row, now)
            continue
        row = state.event_row[0]
        _pop(state)
        if row >= 0:
            _end_job(state, axis, row, now, slot, most)
            _fill(state, axis, rule, state.pilot[row], now)
        else:
            pilot = -1 - row
            # Jobs that end with the slot are taken first.
            if state.free[pilot] < 0 or _runs(state, pilot, now):
                _push(state, now + _MARGIN, row)
                continue
            state.end[pilot] = now + slot
            _push(state, state.end[pilot], row)
            _fill(state, axis, rule, pilot, now)


@compiled
def _runs(state: PilotState, pilot: int, now: float) -> bool:
    """Whether a job of the pilot ends at this moment, too."""
    for i in range(state.counts[EVENTS]):
        row = state.event_row[i]
        if row >= 0 and state.pilot[row] == pilot and state.event_time[i] <= now + _MARGIN:
            return True
    return False


@compiled
def fill_idle(state: PilotState, axis: GridAxis, rule: int) -> None:
    """Let idle pilots look at the queue again, after predictions have changed.

    Args:
        state: What changes.
        axis: Of the distributions.
        rule: FITS or GAIN.
    """
    now = state.sums[NOW]
    for pilot in range(len(state.end)):
        if state.free[pilot] > 0:
            _fill(state, axis, rule, pilot, now)
