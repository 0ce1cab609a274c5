"""Column maps: written on a command line or in a file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.readers import ReadError
from jobs.readers.columns import Column, ColumnMap, load_column_map, parse_column_map


def test_labels_have_a_name_and_may_be_numbers():
    entries = ["b=label:biome", "r = label: input reads : Number", "n=label:a:b", "x=label:number"]
    columns = parse_column_map([*entries, *(f"c{i}=label:l{i}" for i in range(28))]).columns
    assert columns[:4] == (
        Column("b", "labels", "", "biome"),
        Column("r", "labels", "number", "input reads"),
        Column("n", "labels", "", "a:b"),
        Column("x", "labels", "", "number"),
    )
    assert str(columns[1]) == "r=label:input reads:number"


def test_an_entry_names_column_field_and_unit():
    columns = parse_column_map(
        ["run=walltime:s", " wall time = requested_walltime : H ", "a=b=user"]
    )
    assert columns == ColumnMap(
        (
            Column("run", "walltime", "s"),
            Column("wall time", "requested_walltime", "h"),
            Column("a=b", "user"),
        )
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["run"], "reads file_column=field:unit, not 'run'"),
        (["=walltime"], "reads file_column=field:unit"),
        (["run="], "reads file_column=field:unit"),
        (
            ["run=runtime"],
            "'runtime' in run=runtime is no field of a job or a transfer: write label:NAME[:number]"
            " for a fact of your own, or choose one of run_id",
        ),
        (
            ["run=walltime:furlong"],
            "'furlong' in run=walltime:furlong is no unit of walltime: choose one of us, ms, s",
        ),
        (
            ["a=labels:x"],
            "a=labels:x: labels is a column of JSON objects; for one fact of your own",
        ),
        (["run=user:s"], "'s' in run=user:s is no unit of user: choose one of plain"),
        (["run=started_at:s"], "choose one of iso, epoch, epoch_ms"),
        (["a=user", "b=user"], "the column map fills user twice: a=user and b=user"),
        (["a=label:x", "b=label:x:number"], "fills label:x twice: a=label:x and b=label:x:number"),
        (["a=label:x", "b=labels"], "the column map fills labels twice: b=labels and by name"),
        (
            ["a=label"],
            "a=label is a label with an empty name: a label reads file_column=label:NAME",
        ),
        ([f"a=label:{'x' * 65}"], "is a label with a name of more than 64 characters"),
        ([f"c{i}=label:l{i}" for i in range(33)], "the column map has more than 32 labels"),
        (
            ["input_reads=label:input_reads:int"],
            "'int' in input_reads=label:input_reads:int is no type of a label: write number, or"
            " nothing for text",
        ),
        (["a=label:x", "b=direction"], "mixes fields of jobs and of transfers: label:x, direction"),
        (["a=energy:ws"], "'ws' in a=energy:ws is no unit of energy: choose one of j, kj, mj, wh"),
    ],
)
def test_a_wrong_entry_is_named(entries, message):
    with pytest.raises(ReadError) as error:
        parse_column_map(entries)
    assert message in str(error.value)


names = (
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r"), min_size=1)
    .map(str.strip)
    .filter(bool)
)


@given(
    name=names,
    target=st.sampled_from(["walltime:ms", "user", "submitted_at:epoch", "peak_memory:gib"]),
)
def test_a_map_in_a_file_is_the_one_on_the_command_line(name, target, tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "map.toml"
    quoted = json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
    path.write_text(f'[columns]\n{quoted} = "{target}"\n"id" = "job_id"\n', encoding="utf-8")
    assert load_column_map(path) == parse_column_map([f"{name}={target}", "id=job_id"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[columns\n", "is not TOML"),
        ("[other]\n", "needs a table [columns]"),
        ("[columns]\nrun = 3\n", "needs a table [columns]"),
        ('[columns]\nrun = "speed"\n', "is wrong: 'speed' in run=speed is no field"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(ReadError) as error:
        load_column_map(path)
    assert "map.toml" in str(error.value)
    assert message in str(error.value)


def test_a_map_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        ReadError, match=r"the column map .*none\.toml cannot be read: no such file"
    ):
        load_column_map(tmp_path / "none.toml")
