"""Commands of care: health, backup, restore, retention."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from commands import meanings
from commands.inputs import Json, store
from commands.tables import is_missing, print_sentence, progress_bar, show_rows, to_records
from infra.settings import prepare_environment


def doctor(
    table: Annotated[
        Path | None,
        typer.Option(
            help="The file of `gridcast table`; default: the one in the data folder, if any."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check disk, ports, clock, store and servers.

    Exit code 1 if something is wrong.
    """
    from infra.components import local_components
    from monitoring.doctor import examine

    settings = prepare_environment()
    findings = examine(settings, local_components(settings), table)
    rows = [finding.to_json() for finding in findings]
    show_rows(rows, as_json, "Gridcast's health", meaning=meanings.of_health(rows))
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


def backup(
    target: Annotated[
        Path,
        typer.Argument(help="A file that ends in .tar, or a folder; it must not exist yet."),
    ],
    as_json: Json = False,
) -> None:
    """Copy the job store and the registry of models.

    With checksums, while everything runs.
    """
    from models.releases.backup import back_up

    with progress_bar("taking a backup"):
        rows = back_up(prepare_environment(), target)
    show_rows(rows, as_json, f"Backed up to {target}", meaning=meanings.of_copies(rows))


def restore(
    source: Annotated[Path, typer.Argument(help="What `gridcast backup` made.")],
    as_json: Json = False,
) -> None:
    """Restore a backup into an empty store.

    The store and the registry may be SQLite or PostgreSQL.
    """
    from models.releases.backup import restore as put_back

    with progress_bar("restoring"):
        rows = put_back(prepare_environment(), source)
    show_rows(rows, as_json, f"Restored from {source}", meaning=meanings.of_copies(rows))


def prune(as_json: Json = False) -> None:
    """Drop the months that are kept no longer.

    Those that ended before GRIDCAST_RETENTION_MONTHS; 0 keeps all.
    """
    from flows.from_command_line import as_flow_run
    from jobs.store import prune as drop

    with progress_bar("dropping old months"):
        done = as_flow_run(
            "prune",
            lambda: drop(store(), prepare_environment().retention_months),
            lambda result: f"dropped rows: {result.rows}",
        )
    title = (
        f"Dropped, since jobs are kept from {done.since:%Y-%m-%d} on"
        if done.since
        else "All is kept: GRIDCAST_RETENTION_MONTHS is 0"
    )
    rows = [{"table": name, "rows": count} for name, count in done.rows.items()]
    if not rows and not as_json:
        print_sentence(title)
        return
    show_rows(rows, as_json, title, meaning=meanings.of_copies(rows))


def audit(
    since: Annotated[datetime | None, typer.Option(help="Only from this time (UTC) on.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, such as promote or outcomes.")
    ] = None,
    actor: Annotated[
        str | None,
        typer.Option("--who", help="Only changes by this token, subject, user or account."),
    ] = None,
    result: Annotated[
        str | None, typer.Option(help="Only done, failed, refused or begun ones.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    as_json: Json = False,
) -> None:
    """List what was changed, by whom and from where.

    The newest first; refused attempts too. What is recorded: docs/reference/audit.md.
    """
    from jobs.store import read_audit

    begin = since.replace(tzinfo=UTC) if since else None
    frame = read_audit(
        store(), since=begin, action=action, actor=actor, result=result, limit=limit + 1
    )
    rows = to_records(frame.head(limit).drop(columns=["change", "number"]))
    if not as_json:
        rows = [
            {
                "when": f"{row['changed_at']:%Y-%m-%d %H:%M}",
                **{name: row[name] for name in ("who", "action", "result")},
                "changed": meanings.of_change(row),
                "from": row["origin"] if is_missing(row["address"]) else row["address"],
                **row,
            }
            for row in rows
        ]
    more = len(frame) > limit
    columns = ("when", "who", "action", "result", "changed", "from")
    show_rows(rows, as_json, "Changes", columns, meanings.of_audit(rows, more))
