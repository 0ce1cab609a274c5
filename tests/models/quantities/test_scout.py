import doctest

import numpy as np

from models.quantities import scout


def test_each_formula_gives_its_worked_example():
    found = doctest.testmod(scout)
    assert found.failed == 0
    assert found.attempted >= 18


def test_a_percentile_is_interpolated_between_neighbours_as_numpy_does():
    values = np.array([3.0, 1.0, 8.0, 2.0, 5.0])
    assert [scout.percentile(values, share) for share in (0, 33, 75, 95, 100)] == np.percentile(
        values, (0, 33, 75, 95, 100)
    ).tolist()


def test_memory_has_a_floor_and_a_base_is_taken_off_before_it_is_shared():
    # (4,000,000 − 1,000·1,024) kB over 4 cores = 744,000 kB; with 10 percent 818,400 kB = 799.2 MB.
    assert scout.ram_count(np.array([4_000_000.0]), np.array([4.0]), base_mb=1000) == 799
    assert (
        scout.ram_count(np.array([4_000_000.0]), np.array([4.0]), base_mb=1000, least_mb=900) == 900
    )


def test_only_jobs_with_enough_events_or_hours_tell_the_cpu_time():
    few_events = scout.Ran(*(np.array([value]) for value in (3600.0, 8.0, 79.0, 10.0)))
    assert scout.cpu_time(few_events) is None
    long = scout.Ran(*(np.array([value]) for value in (21_601.0, 8.0, 79.0, 10.0)))
    assert scout.cpu_time(long) is not None


def test_the_walltime_of_the_cpu_time_measured_is_half_as_long_again_as_what_was_run():
    # One job ran 4,200 s, of which 600 s are the base: its task gets 600 + 1.5·3,600 s.
    needed, unit = scout.cpu_time(
        scout.Ran(*(np.array([value]) for value in (4200.0, 8.0, 100.0, 10.0)))
    ) or (0, "")
    assert (needed, unit) == (3888, "HS06sPerEvent")
    assert scout.walltime_of(needed, 100.0, 8.0, 10.0) == 6000.0
