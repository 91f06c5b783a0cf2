"""What Grafana does with a dashboard before a database sees it: the macros of its PostgreSQL data source, and the schema.

Macros as in Grafana's own `pkg/tsdb/grafana-postgresql-datasource/macros.go`: a filter is two RFC 3339 texts, a group is
the floor of the epoch.
"""

import json
import pathlib
import re

from service import ROOT, run

DASHBOARDS = sorted((ROOT / "dashboards").glob("*.json"))
# A file has the texts of Grafana's enumerations, not their members.
TYPES = """import type { Dashboard } from '@grafana/schema';
type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
"""
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def panels():
    """(dashboard's name, panel) of all of them."""
    return [(path.stem, panel) for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]


def expand(sql, since, until, **variables):
    """The SQL that reaches the database."""

    def group(match):
        column, number, unit = match[2].strip(), int(match[3]), match[4]
        step = number * SECONDS[unit]
        return f"floor(extract(epoch from {column})/{step})*{step}" + (' AS "time"' if match[1] else "")

    sql = re.sub(r"\$__timeFilter\(([^)]+)\)", rf"\1 BETWEEN '{since}' AND '{until}'", sql)
    sql = re.sub(r"\$__timeGroup(Alias)?\(([^,]+),\s*'(\d+)([smhd])'\)", group, sql)
    for name, value in variables.items():
        sql = sql.replace(f"${name}", value)
    assert "$" not in sql, sql
    return sql


def problems(folder: pathlib.Path, sdk: pathlib.Path):
    """What the TypeScript types of Grafana's published schema package say about the dashboards; empty if nothing."""
    (folder / "node_modules").symlink_to(sdk / "node_modules")
    for path in DASHBOARDS:
        text = path.read_text()
        (folder / f"{path.stem}.ts").write_text(f"{TYPES}export const dashboard = {text.strip()} satisfies Plain<Dashboard>;\n")
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022"]
    compiler = sdk / "node_modules" / "typescript" / "bin" / "tsc"
    done = run("node", compiler, *options, *sorted(folder.glob("*.ts")), check=False, cwd=folder)
    return done.stdout if done.returncode else ""
