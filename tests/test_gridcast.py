"""The command line: what its commands have in common, and what a person who types is told."""

import inspect

import pytest

import gridcast
from commands import replaying
from infra.errors import InputError

COMMANDS = {
    command.callback.__name__: inspect.signature(command.callback)
    for command in gridcast.app.registered_commands
}
READING = ("log_format", "mapping", "map_file", "timezone")


@pytest.mark.parametrize(
    "name",
    [name for name, signature in COMMANDS.items() if {*READING[:3]} & {*signature.parameters}],
)
def test_every_command_that_reads_a_log_reads_it_with_the_same_options(name: str) -> None:
    parameters = COMMANDS[name].parameters
    assert {*READING} <= {*parameters}
    for option in READING:
        assert parameters[option] == COMMANDS["ingest"].parameters[option]


def test_logs_are_read_by_ingest_evaluate_predict_and_replay() -> None:
    assert {
        name for name, signature in COMMANDS.items() if "log_format" in signature.parameters
    } >= {
        "ingest",
        "evaluate",
        "predict",
        "replay",
    }


def test_the_old_option_of_replay_names_the_command_that_took_its_place() -> None:
    with pytest.raises(InputError, match="gridcast replay-grid"):
        replaying.replay(grid=True)


def test_replay_without_a_log_says_what_is_missing() -> None:
    with pytest.raises(InputError, match="give a log"):
        replaying.replay()
