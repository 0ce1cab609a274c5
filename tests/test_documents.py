"""The documents say what the product does: fields, settings, formats, commands, and the blocks that a reader would type."""

import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from infra.settings import Settings
from jobs.readers import READERS
from jobs.readers.columns import BY_NAME, load_column_map, parse_column_map, units_of
from jobs.schema import FIELDS, STATUSES
from jobs.transfers import TRANSFER

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = sorted(ROOT.glob("docs/**/*.md"))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def part(path: Path, name: str) -> list[str]:
    """The lines between ``<!-- name -->`` and ``<!-- /name -->``."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text_of(path), re.DOTALL)
    assert found, f"{path} has no part {name}"
    return found[1].splitlines()


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(path), re.DOTALL | re.MULTILINE)


def commands() -> dict[str, set[str]]:
    """Each command of ``gridcast`` with its options."""
    import typer

    import gridcast

    group = typer.main.get_command(gridcast.app)
    return {
        name: {
            option
            for parameter in command.params
            for option in parameter.opts
            if option.startswith("--")
        }
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


def typed() -> list[tuple[str, list[str]]]:
    """Every ``gridcast …`` that a document tells a reader to type, with the document's name."""
    lines = []
    for path in [README, *DOCUMENTS]:
        for block in blocks(path, "(?:console|bash|sh|shell)?"):
            for line in block.splitlines():
                words = (
                    shlex.split(line.removeprefix("$ "), comments=True)
                    if "gridcast" in line
                    else []
                )
                if "gridcast" in words:
                    lines.append((path.name, words[words.index("gridcast") + 1 :]))
    return lines


def test_the_table_of_fields_is_the_schema() -> None:
    rows = [
        f"| `{field.name}` | {field.kind} | {field.unit} | {field.meaning} |" for field in FIELDS
    ]
    assert part(ROOT / "docs/reference/data.md", "fields") == [
        "| field | kind | unit | meaning |",
        "|---|---|---|---|",
        *rows,
    ]


def test_the_table_of_fields_of_transfers_is_their_declaration() -> None:
    rows = [
        f"| `{field.name}` | {field.kind} | {field.unit} | {field.meaning} |"
        for field in TRANSFER.fields
    ]
    assert part(ROOT / "docs/reference/data.md", "transfers") == [
        "| field | kind | unit | meaning |",
        "|---|---|---|---|",
        *rows,
    ]


def test_the_table_of_settings_is_the_settings() -> None:
    described = {}
    for line in part(ROOT / "docs/how-to/operations.md", "settings")[2:]:
        name, default, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        assert meaning, f"{name} is not explained"
        described[name.strip("`")] = default.strip("`")
    real = {
        field.validation_alias or f"GRIDCAST_{name.upper()}": field.default
        for name, field in Settings.model_fields.items()
    }
    assert set(described) == set(real)
    for name, default in real.items():
        secret = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        assert described[name] == str(secret)


def test_the_formats_and_states_are_those_that_are_read() -> None:
    text = text_of(ROOT / "docs/reference/data.md")
    assert re.findall(
        r"^\| `(\w+)` \|",
        text[text.index("| `--format`") : text.index("## Transfers")],
        re.MULTILINE,
    ) == [reader.name for reader in READERS]
    assert all(f"`{status}`" in text for status in STATUSES)
    for unit in {unit for field in BY_NAME.values() for unit in units_of(field)} - {"plain"}:
        assert f"`{unit}`" in text


def test_the_column_maps_shown_are_read_and_say_the_same(tmp_path: Path) -> None:
    words = shlex.split(blocks(ROOT / "docs/reference/data.md", "console")[0].removeprefix("$ "))
    typed_map = parse_column_map(word for before, word in pairwise(words) if before == "--map")
    (block,) = blocks(ROOT / "docs/reference/data.md", "toml")
    assert tomllib.loads(block)["columns"]
    (tmp_path / "columns.toml").write_text(block, encoding="utf-8")
    assert load_column_map(tmp_path / "columns.toml") == typed_map


@pytest.mark.parametrize(
    ("document", "words"),
    typed(),
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:60],
)
def test_what_a_reader_is_told_to_type_is_a_command_with_those_options(
    document: str, words: list[str]
) -> None:
    known = commands()
    if not words or words[0].startswith("-"):
        return
    assert words[0] in known, f"{document} tells of the command {words[0]}"
    used = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
    assert used <= known[words[0]], f"{document}: {words[0]} has no {used - known[words[0]]}"


def test_every_command_is_told_of_in_the_readme() -> None:
    told = set(re.findall(r"`?gridcast ([\w-]+)", text_of(README)))
    assert set(commands()) <= told


def test_every_link_of_a_document_leads_to_a_file() -> None:
    for path in [README, *DOCUMENTS, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text_of(path)):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_tests_of_the_readme_are_the_tests_of_ci() -> None:
    assert "uv run pytest" in text_of(README)
    assert text_of(ROOT / ".ci/run").splitlines()[-1] == "uv run pytest -q"


def test_help_of_every_command_says_what_it_does() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "gridcast", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0
    for name in commands():
        assert re.search(rf"\b{name}\b\s+\S", run.stdout), f"{name} is not explained"
