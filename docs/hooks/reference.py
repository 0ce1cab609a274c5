"""Generated parts of the reference: a function for each, which returns Markdown (``PARTS``).

In a page ``<!-- generated: NAME -->`` stands for the part of that name.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import yaml

ROOT = Path(__file__).parents[2]
MARKER = re.compile(r"<!-- generated: ([\w-]+) -->")
SECTIONS_OF_HELP = "Commands"
"""The heading of commands that name no group."""
LONGEST_SIGNATURE = 80
MOST_FIELDS = 10
"""Fields of a job that a schema lists itself; where it has more, it refers to them."""


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; bars and line feeds in cells are escaped."""

    def cells(values: Sequence[Any]) -> str:
        escaped = (" ".join(str(value).split()).replace("|", "\\|") for value in values)
        return f"| {' | '.join(escaped)} |"

    return "\n".join([cells(columns), "|---" * len(columns) + "|", *map(cells, rows)])


def code(text: Any) -> str:
    """``text`` as code; empty where there is none."""
    return f"`{text}`" if str(text) else ""


def field_meanings(kind: type) -> dict[str, str]:
    """The docstring below each field of a class, by the field's name."""
    (declaration,) = ast.parse(inspect.getsource(kind)).body
    body = declaration.body if isinstance(declaration, ast.ClassDef) else []
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def commands() -> str:
    """Every command by group, with its help, arguments and options."""
    import typer

    import gridcast

    group = typer.main.get_command(gridcast.app)
    sections: dict[str, list[str]] = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        panel = command.rich_help_panel
        section = panel if isinstance(panel, str) else SECTIONS_OF_HELP
        sections.setdefault(section, []).append(describe_command(name, command))
    return "\n\n".join(f"## {name}\n\n" + "\n\n".join(text) for name, text in sections.items())


def describe_command(name: str, command: Any) -> str:
    """One command: its usage, its help and a table of its arguments and options."""
    arguments = [usage_of(item) for item in command.params if item.param_type_name == "argument"]
    usage = " ".join(["gridcast", name, *arguments, "[OPTIONS]"])
    rows = [
        (describe_parameter(item), describe_default(item), item.help or "")
        for item in command.params
        if not item.hidden
    ]
    text = inspect.cleandoc(command.help or "").replace("\b", "")
    parameters = table(("argument or option", "default", "meaning"), rows) if rows else ""
    return f"### gridcast {name}\n\n```text\n{usage}\n```\n\n{text}\n\n{parameters}"


def usage_of(argument: Any) -> str:
    """An argument as a usage line has it: in brackets where it may be left out."""
    name = (argument.metavar or argument.name.upper()) + ("…" if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def describe_parameter(item: Any) -> str:
    """The names of a parameter and, of an option with a value, the values it may have."""
    if item.param_type_name == "argument":
        return code(item.metavar or item.name.upper())
    names = ", ".join(map(code, [*item.opts, *item.secondary_opts]))
    if item.is_flag:
        return names
    kind = item.type_descriptor.annotation
    choices = [
        getattr(choice, "value", choice)
        for choice in get_args(kind) or getattr(kind, "__members__", {}).values()
    ]
    texts = [choice for choice in choices if isinstance(choice, str)]
    return f"{names} {' '.join(map(code, texts)) if texts else ''}".strip()


def describe_default(item: Any) -> str:
    """The default of a parameter as it would be typed."""
    if item.required:
        return "required"
    default = getattr(item.default, "value", item.default)
    if default is None or default is False or default == [] or default == "":
        return ""
    return code(default if not isinstance(default, list | tuple) else ",".join(map(str, default)))


def settings() -> str:
    """Every setting with its default, limits and meaning."""
    from infra.settings import Settings

    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default
        secret = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        variable = field.validation_alias or f"GRIDCAST_{name.upper()}"
        rows.append((code(variable), code(secret), field.description or ""))
    return table(("variable", "default", "meaning"), rows)


def record(fields: Iterable[Any], essential: Sequence[str] = ()) -> str:
    """The fields of a kind of record."""
    rows = [
        (
            code(field.name),
            field.kind,
            field.unit,
            "ended" if field.outcome else "submission",
            field.meaning + ("; required" if field.required else ""),
        )
        for field in fields
    ]
    return table(("field", "kind", "unit", "known at", "meaning"), rows)


def job_fields() -> str:
    """The fields of a job."""
    from jobs.schema import FIELDS

    return record(FIELDS)


def transfer_fields() -> str:
    """The fields of a transfer."""
    from jobs.transfers import TRANSFER

    return record(TRANSFER.fields)


def statuses() -> str:
    """The states of a job or transfer."""
    from jobs.schema import STATUSES

    return ", ".join(map(code, STATUSES))


def targets() -> str:
    """The quantities that can be predicted."""
    from models.quantities.targets import TARGETS

    rows = [
        (code(target.name), target.unit, target.subject.name, f"{target.grid.lowest:.4g}")
        for target in TARGETS.values()
    ]
    return table(("target", "unit", "of", "values below this are one bin"), rows)


def model_card() -> str:
    """The fields of a model card."""
    from models.engine.model_card import ModelCard

    meanings = field_meanings(ModelCard)
    return table(
        ("field", "meaning"),
        [(code(name), meanings.get(name, "")) for name in ModelCard.__dataclass_fields__],
    )


def metrics() -> str:
    """The Prometheus metrics of the predictor, of the router, then those of the page."""
    columns = ("metric", "type", "labels", "meaning")
    sections = [
        f"## Of the {server}\n\n"
        + table(
            columns,
            [
                (code(name), kind, ", ".join(map(code, labels)), text)
                for name, kind, text, labels in metrics_of_server
            ],
        )
        for server, metrics_of_server in (
            ("predictor", predictor_metrics()),
            ("router", router_metrics()),
        )
    ]
    page = table(("metric", "type", "meaning"), page_metrics())
    return "\n\n".join([*sections, f"## Of the page\n\n{page}"])


def page_metrics() -> list[tuple[str, str, str]]:
    """Name, type and help of each metric of the page, as of a data folder without tasks."""
    from monitoring.tasks.latest_tasks import LatestTasks
    from services.dashboard.metrics import metrics as expose

    with tempfile.TemporaryDirectory() as folder:
        text = expose(LatestTasks(Path(folder))).decode()
    kinds = dict(re.findall(r"# TYPE (\S+) (\S+)", text))
    helps = re.findall(r"# HELP (\S+) (.+)", text)
    return [(code(name), kinds[name], meaning) for name, meaning in helps]


@lru_cache(maxsize=1)
def predictor_metrics() -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Name, type, help and labels of each metric; registers them, which is possible once."""
    from services.http.metrics import make_metrics

    return describe_metrics(vars(make_metrics()).values())


def router_metrics() -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Name, type, help and labels of each metric of the router."""
    from services.router.metrics import RouterMetrics

    metrics = vars(RouterMetrics())
    return describe_metrics(item for name, item in metrics.items() if name != "registry")


def describe_metrics(collectors: Iterable[Any]) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Name, type, help and labels of each metric."""
    return [
        (
            item._name + ("_total" if item._type == "counter" else ""),
            item._type,
            item._documentation,
            item._labelnames,
        )
        for item in collectors
    ]


def alert_rules() -> str:
    """The Prometheus alerts."""
    rules = yaml.safe_load((ROOT / "infra/prometheus/rules.yml").read_text(encoding="utf-8"))
    rows = [
        (
            code(rule["alert"]),
            rule["labels"]["severity"],
            rule.get("for", "at once"),
            *(
                re.sub(r"\{\{ \$(?:labels\.)?(\w+).*?\}\}", r"*\1*", rule["annotations"][key])
                for key in ("summary", "do")
            ),
        )
        for group in rules["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    return table(("alert", "severity", "after", "what is wrong", "what to do"), rows)


def flows() -> str:
    """The flows with their deployments and schedules."""
    file = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text(encoding="utf-8"))
    rows = []
    for deployment in file["deployments"]:
        module, _, function = deployment["entrypoint"].rpartition(".")
        schedules = [code(item["cron"]) for item in deployment.get("schedules", [])]
        text = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        meaning = next(
            ast.get_docstring(node) or ""
            for node in ast.parse(text).body
            if isinstance(node, ast.FunctionDef) and node.name == function
        )
        name = f"{function}/{deployment['name']}"
        rows.append((code(name), ", ".join(schedules) or "on demand", meaning.split("\n\n")[0]))
    return table(("deployment", "when (cron, UTC)", "what it does"), rows)


def endpoints() -> str:
    """The HTTP API: every endpoint and the schemas of its bodies and answers."""
    from services.http.openapi import describe

    document = describe()
    schemas = document["components"]["schemas"]
    text = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            text.append(describe_endpoint(path, method, operation))
    answers = [
        (status, answer["description"])
        for methods in document["paths"].values()
        for operation in methods.values()
        for status, answer in operation["responses"].items()
        if status != "200"
    ]
    text += ["## Errors", table(("status", "meaning"), sorted(dict(answers).items()))]
    text.append("## Schemas")
    text += [describe_schema(name, schema) for name, schema in schemas.items()]
    return "\n\n".join(text)


def describe_endpoint(path: str, method: str, operation: dict[str, Any]) -> str:
    """One endpoint: what it does, options, body, answers by status, examples."""
    blocks = [f"## {method.upper()} {path}", operation["summary"].rstrip(".") + "."]
    blocks.append(operation.get("description", ""))
    body = operation.get("requestBody", {}).get("content", {})
    if body:
        kinds = [f"`{kind}`: {schema_type(item['schema'])}" for kind, item in body.items()]
        blocks.append("**Body.** " + "; ".join(kinds))
    if parameters := operation.get("parameters"):
        rows = [
            (
                code(item["name"]),
                schema_type(item["schema"]),
                json_value(item["schema"].get("default")),
                item.get("description") or item["schema"].get("description", ""),
            )
            for item in parameters
        ]
        blocks.append(
            "**Query** (of an Arrow stream; of JSON they are keys of the body)\n\n"
            + table(("option", "type", "default", "meaning"), rows)
        )
    content = operation["responses"]["200"].get("content", {})
    kinds = [f"`{kind}`: {schema_type(item['schema'])}" for kind, item in content.items()]
    blocks.append("**Answer.** " + ("; ".join(kinds) or "empty"))
    errors = [f"[{status}](#errors)" for status in operation["responses"] if status != "200"]
    if errors:
        blocks.append("**Errors.** " + ", ".join(errors))
    return "\n\n".join(block for block in blocks if block)


def describe_schema(name: str, schema: dict[str, Any]) -> str:
    """One schema: a row a property; the fields of a job are one row, since fields.md has them."""
    from jobs.schema import FIELDS

    properties, required = schema.get("properties", {}), schema.get("required", [])
    job_fields = {field.name for field in FIELDS} & set(properties)
    rows = []
    if len(job_fields) > MOST_FIELDS:
        absent = [field.name for field in FIELDS if field.name not in job_fields]
        but = f", but for {', '.join(map(code, absent))}" if absent else ""
        needed = [key for key in properties if key in job_fields and key in required]
        must = f"; required: {', '.join(map(code, needed))}" if needed else ""
        rows.append((f"the [fields of a job](fields.md){but}", "", "", f"as they are known{must}"))
    else:
        job_fields = set()
    rows += [
        (
            code(key) + (" (required)" if key in required else ""),
            schema_type(item),
            json_value(item.get("default")),
            item.get("description", ""),
        )
        for key, item in properties.items()
        if key not in job_fields
    ]
    text = schema.get("description", "")
    return f"### {name}\n\n{text}\n\n" + table(("key", "type", "default", "meaning"), rows)


def json_value(value: Any) -> str:
    """A default as JSON; empty where it is null or empty."""
    return "" if value in (None, [], "") else code(json.dumps(value, ensure_ascii=False))


def schema_type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if reference := schema.get("$ref"):
        name = reference.rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(schema_type(item) for item in schema[key]))
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(map(code, schema["enum"]))
    if schema.get("format") == "binary":
        return "bytes"
    kind = schema.get("type", "any")
    kinds = kind if isinstance(kind, list) else [kind]
    words = " or ".join(map(str, kinds))
    if kind == "array" and "items" in schema:
        words = f"list of {schema_type(schema['items'])}"
    limits = [
        f"{sign} {schema[key]}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("maxLength", "characters ≤"),
            ("maxItems", "items ≤"),
        )
        if key in schema
    ]
    return words + (f" ({', '.join(limits)})" if limits else "")


def python_interface() -> str:
    """The names that ``gridcast`` offers to Python programs."""
    import gridcast

    names = [name for name in gridcast.__all__ if name not in ("app", "main")]
    return "\n\n".join(describe_object(name, getattr(gridcast, name)) for name in names)


def client() -> str:
    """The client in one file."""
    from services.client import Gridcast

    return describe_object("Gridcast", Gridcast)


def describe_object(name: str, thing: Any) -> str:
    """A function, or a class with its public members: signatures and docstrings."""
    text = f"### {name}\n\n{signature_of(name, thing)}\n\n{google_style(thing)}"
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        function = getattr(value, "__func__", value)
        if member.startswith("_") or not function.__doc__:
            continue
        if isinstance(value, property):
            text += f"\n\n#### {name}.{member}\n\n{google_style(value)}"
        elif inspect.isfunction(function):
            signature = signature_of(f"{name}.{member}", getattr(thing, member))
            text += f"\n\n#### {name}.{member}\n\n{signature}\n\n{google_style(function)}"
    return text


def signature_of(name: str, function: Any) -> str:
    """A signature as a block of code, an argument a line where it is long."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    signature, arguments = inspect.signature(function), []
    for item in signature.parameters.values():
        if item.name == "self":
            continue
        if item.kind is item.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        default = "" if item.default is item.empty else f" = {item.default!r}"
        arguments.append(f"{stars.get(item.kind, '')}{item.name}: {item.annotation}{default}")
    answer = "" if inspect.isclass(function) else f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(arguments)}){answer}"
    if len(line) > LONGEST_SIGNATURE:
        line = f"{name}(\n    " + ",\n    ".join(arguments) + f"\n){answer}"
    return f"```text\n{line}\n```"


def google_style(thing: Any) -> str:
    """A docstring of Google style as Markdown: its sections become lists."""
    blocks = []
    for paragraph in inspect.cleandoc(thing.__doc__ or "").split("\n\n"):
        if ">>>" not in paragraph:
            paragraph = paragraph.replace("<", "&lt;")
        head, _, body = paragraph.partition("\n")
        if head not in ("Args:", "Raises:", "Attributes:", "Returns:", "Yields:"):
            blocks.append(f"```python\n{paragraph}\n```" if ">>>" in head else paragraph)
            continue
        text = inspect.cleandoc("\n" + body)
        if head not in ("Returns:", "Yields:"):
            entries = re.split(r"\n(?=\S)", text)
            pairs = [" ".join(entry.split()).partition(": ") for entry in entries]
            text = "\n\n" + "\n".join(f"- `{key}`: {meaning}" for key, _, meaning in pairs)
        blocks.append(f"**{head.rstrip(':')}**: {text}")
    return "\n\n".join(blocks)


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "job-fields": job_fields,
    "transfer-fields": transfer_fields,
    "statuses": statuses,
    "targets": targets,
    "model-card": model_card,
    "metrics": metrics,
    "alerts": alert_rules,
    "flows": flows,
    "endpoints": endpoints,
    "python": python_interface,
    "client": client,
}


def fill(markdown: str) -> str:
    """Replace each marker by the part that it names."""
    return MARKER.sub(lambda marker: PARTS[marker[1]](), markdown)
