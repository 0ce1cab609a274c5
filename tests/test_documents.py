"""The documents say what the product does: the site's reference, links, and blocks that a reader types."""

import html
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.settings import Settings
from jobs.readers import READERS
from jobs.readers.columns import BY_NAME, load_column_map, parse_column_map, units_of
from jobs.schema import FIELDS, STATUSES
from jobs.transfers import TRANSFER

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
DOCUMENTS = sorted(DOCS.glob("**/*.md"))
LIMITED = [path for path in DOCUMENTS if path.parent.name not in ("reference", "benchmarks")]
"""Pages of one topic that are to be short."""
MOST_WORDS = 1200
MOST_README_LINES = 110
RIDDLES = (
    "live through",
    "lives through",
    "lived through",
    "by no clusters",
    "is told by",
    "more is told",
    "the house",
    "foresee",
    "foreseen",
    "nobody",
    "what is told",
    "yardstick",
    "should take nothing has happened",
    r"\bdoors?\b",
)
"""Phrases that a newcomer stumbles on."""
MEASURED = re.compile(
    r"^\*Measured by\* .+; \*on\* .+; 20\d\d-\d\d-\d\d, commit [0-9a-f]{7}\.", re.MULTILINE
)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(path), re.DOTALL | re.MULTILINE)


def commands(with_hidden: bool = True) -> dict[str, set[str]]:
    """Each command of ``gridcast`` with its options, ``with_hidden`` those that help leaves out."""
    import typer

    import gridcast

    group = typer.main.get_command(gridcast.app)
    return {
        name: {
            option
            for parameter in command.params
            for option in parameter.opts
            if option.startswith("--") and (with_hidden or not parameter.hidden)
        }
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


def typed() -> list[tuple[str, list[str]]]:
    """Every ``gridcast …`` that a document tells a reader to type, with the document's name."""
    lines = []
    for path in [README, *DOCUMENTS]:
        for block in blocks(path, "(?:console|bash|sh|shell-session)?"):
            prompted = "$ " in block
            for line in block.splitlines():
                if prompted and not line.startswith("$ "):
                    continue
                words = (
                    shlex.split(line.removeprefix("$ ").removesuffix("\\"), comments=True)
                    if "gridcast" in line
                    else []
                )
                if "gridcast" in words:
                    lines.append((path.name, words[words.index("gridcast") + 1 :]))
    return lines


def test_no_document_gives_a_token_as_a_word_of_a_command() -> None:
    """Every account of a machine reads the words of a running command."""
    lines = [line for path in [README, *DOCUMENTS] for line in text_of(path).splitlines()]
    with_token = [line for line in lines if "curl" in line and "token" in line.lower()]
    assert len(with_token) >= 8, "the documents call the servers by curl"
    assert [line for line in with_token if "$(" in line] == []


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built strictly."""
    folder = tmp_path_factory.mktemp("documentation") / "site"
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return folder


def page_text(site: Path, page: str) -> str:
    """The text of a page of the site, without its tags, its white space as single spaces."""
    body = text_of(site / page).partition("<article")[2].partition("</article>")[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", body)).split())


def in_order(text: str) -> str:
    """``text`` as ``page_text`` has it: without marks of code, its white space as single spaces."""
    return " ".join(text.replace("`", "").split())


def test_the_reference_has_every_command_and_option(site: Path) -> None:
    text = page_text(site, "reference/commands.html")
    for name, options in commands(with_hidden=False).items():
        section = re.search(rf"gridcast {name}¶ (.*?)(?=gridcast [\w-]+¶|$)", text)
        assert section, f"no command {name}"
        words = {word.rstrip(",") for word in section[1].split()}
        assert options <= words, f"{name}: no {options - words}"


def test_the_reference_has_every_setting_with_its_default_and_meaning(site: Path) -> None:
    page = text_of(site / "reference/settings.html")
    rows = {
        cells[0]: cells[1:]
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
        if (
            cells := [
                html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()
                for cell in re.findall(r"<td>(.*?)</td>", row, re.DOTALL)
            ]
        )
    }
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or f"GRIDCAST_{name.upper()}"
        default = field.default
        secret = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        assert field.description, f"{variable} has no description"
        assert rows[str(variable)] == [str(secret), in_order(field.description)]


def test_the_reference_has_every_field_of_jobs_and_transfers(site: Path) -> None:
    text = page_text(site, "reference/fields.html")
    for field in (*FIELDS, *TRANSFER.fields):
        known_at = "ended" if field.outcome else "submission"
        row = f"{field.name} {field.kind} {field.unit} {known_at} {field.meaning}"
        assert " ".join(row.split()) in text
    assert ", ".join(STATUSES) in text


def test_the_reference_has_every_metric_with_its_meaning(
    site: Path, metrics: Any, tmp_path: Path
) -> None:
    from monitoring.tasks.latest_tasks import LatestTasks
    from services.dashboard.metrics import metrics as expose

    text = page_text(site, "reference/metrics.html")
    for metric in vars(metrics).values():
        assert metric._name in text
        assert metric._documentation in text
    names = re.findall(r"# TYPE (\S+)", expose(LatestTasks(tmp_path)).decode())
    assert len(names) > 10
    assert all(name in text for name in names)


def test_the_reference_has_every_alert_and_deployment(site: Path) -> None:
    rules = yaml.safe_load(text_of(ROOT / "infra/prometheus/rules.yml"))
    alerts = page_text(site, "reference/metrics.html")
    for group in rules["groups"]:
        assert all(rule["alert"] in alerts for rule in group["rules"] if "alert" in rule)
    flows = page_text(site, "reference/flows.html")
    for deployment in yaml.safe_load(text_of(ROOT / "infra/prefect.yaml"))["deployments"]:
        function = deployment["entrypoint"].rpartition(".")[2]
        assert f"{function}/{deployment['name']}" in flows


def test_the_reference_has_every_endpoint_and_key(site: Path) -> None:
    from services.http.openapi import describe

    document, text = describe(), page_text(site, "reference/api.html")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in text
            assert operation["summary"].rstrip(".") in text
    names = {field.name for field in FIELDS}
    for name, schema in document["components"]["schemas"].items():
        assert f"{name}¶" in text
        assert all(key in text for key in schema.get("properties", {}) if key not in names)


def test_the_reference_has_every_address_of_the_page(site: Path) -> None:
    source = text_of(ROOT / "services/dashboard/app.py")
    addresses = set(re.findall(r'"(/(?:api/|reports/|metrics)[^"]*)"', source))
    assert len(addresses) > 10
    text = page_text(site, "reference/page-api.html")
    for address in addresses:
        assert re.sub(r"\{name.*", "", address) in text


def test_the_reference_has_the_python_interface_and_the_client(site: Path) -> None:
    import gridcast
    from services.client import Gridcast

    text = page_text(site, "reference/python.html")
    for name in {*gridcast.__all__} - {"app", "main"}:
        assert f"{name}¶" in text
    for thing in (gridcast.Forecaster, Gridcast):
        members = [name for name, value in vars(thing).items() if name[0] != "_" and value.__doc__]
        assert members
        assert all(f"{thing.__name__}.{name}¶" in text for name in members)


def test_every_field_of_the_model_card_is_explained(site: Path) -> None:
    from models.engine.model_card import ModelCard

    page = text_of(site / "reference/model-card.html")
    rows = dict(re.findall(r"<td><code>(\w+)</code></td>\s*<td>(.*?)</td>", page, re.DOTALL))
    assert list(rows) == list(ModelCard.__dataclass_fields__)
    assert all(len(meaning) > 10 for meaning in rows.values())


def test_the_formats_and_states_are_those_that_are_read() -> None:
    text = text_of(DOCS / "reference/formats.md")
    assert re.findall(
        r"^\| `(\w+)` \|",
        text[text.index("| `--format`") : text.index("## What is known")],
        re.MULTILINE,
    ) == [reader.name for reader in READERS]
    text = text_of(DOCS / "how-to/map-a-table.md")
    for unit in {unit for field in BY_NAME.values() for unit in units_of(field)} - {"plain"}:
        assert f"`{unit}`" in text


def test_the_column_maps_shown_are_read_and_say_the_same(tmp_path: Path) -> None:
    page = DOCS / "how-to/map-a-table.md"
    (line,) = (line for line in text_of(page).splitlines() if " --map " in line)
    words = shlex.split(line.removeprefix("$ "))
    typed_map = parse_column_map(word for before, word in pairwise(words) if before == "--map")
    (block,) = blocks(page, "toml")
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
    options = commands()
    if not words or words[0].startswith("-"):
        return
    assert words[0] in options, f"{document} tells of the command {words[0]}"
    used = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
    assert used <= options[words[0]], f"{document}: {words[0]} has no {used - options[words[0]]}"


def test_every_link_of_a_document_leads_to_a_file() -> None:
    for path in [README, *DOCUMENTS, *ROOT.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text_of(path)):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", LIMITED, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_a_page_is_short_and_begins_with_its_audience(path: Path) -> None:
    text = text_of(path)
    assert len(text.split()) < MOST_WORDS
    assert re.match(r"# .+\n\nFor: \w", text), "the first sentence says for whom the page is"


@pytest.mark.parametrize("path", [README, *DOCUMENTS], ids=lambda path: path.stem)
def test_no_page_has_a_riddle(path: Path) -> None:
    text = " ".join(text_of(path).split())
    assert [words for words in RIDDLES if re.search(words, text, re.IGNORECASE)] == []


def test_every_table_of_a_benchmark_has_its_command_machine_date_and_commit() -> None:
    for path in sorted(DOCS.glob("benchmarks/*.md")):
        text = text_of(path)
        assert re.match(r"# .+\n\nFor: \w", text)
        if "\n|---" not in text:
            continue
        head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
        for section in sections:
            if "\n|---" in section:
                heading = section.splitlines()[0]
                assert MEASURED.search(section) or MEASURED.search(head), f"{path.name}: {heading}"


def test_the_tests_of_the_readme_are_the_tests_of_ci() -> None:
    assert "uv run pytest" in text_of(README)
    assert len(text_of(README).splitlines()) <= MOST_README_LINES
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


def test_every_option_and_argument_is_explained() -> None:
    import typer

    import gridcast

    group = typer.main.get_command(gridcast.app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        unexplained = [item.name for item in command.params if not (item.hidden or item.help)]
        assert not unexplained, f"{name}: {unexplained}"


def test_formulas_are_mathml(site: Path) -> None:
    sources = [path for path in DOCUMENTS if "$$" in text_of(path)]
    assert sources
    for path in sources:
        page = text_of(site / path.relative_to(DOCS).with_suffix(".html"))
        assert page.count("<math") == text_of(path).count("$$") // 2
        assert "$$" not in page


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = re.compile(
        r"""<(?:script|img|iframe|source)[^>]*?src=["']?(\S+?)["'>\s]"""
        r"""|<link(?![^>]*rel=["']?canonical)[^>]*?href=["']?(\S+?)["'>\s]"""
    )
    for path in site.rglob("*.html"):
        addresses = [src or href for src, href in loaded.findall(text_of(path))]
        assert addresses
        assert [url for url in addresses if re.match(r"(https?:)?//", url)] == [], path.name
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )['\"]?(https?:)?//", text_of(path)), path.name


def test_the_site_is_read_and_searched_without_a_server_or_network(
    site: Path, browser: Any
) -> None:
    page = browser.new_page()
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    sections = ("how-to", "reference", "explanation", "benchmarks")
    pages = [f"{section}/index.html" for section in sections]
    for name in [*pages, "explanation/how-it-predicts.html", "reference/api.html", "index.html"]:
        page.goto((site / name).as_uri(), wait_until="load")
    page.get_by_placeholder("Search").click()
    page.get_by_placeholder("Search").press_sequentially("conformal")
    page.wait_for_selector(".md-search-result__item")
    assert page.locator(".md-search-result__item").filter(has_text="Calibrated").count()
    page.close()
    outside = [url for url in requests if not url.startswith((site.as_uri(), "data:", "blob:"))]
    assert outside == []
    assert errors == []
