"""What Grafana does with a dashboard before a database sees it: the macros of its PostgreSQL data source, and the schema.

Macros as in Grafana's own `pkg/tsdb/grafana-postgresql-datasource/macros.go`: a filter is two RFC 3339 texts, a group is
the floor of the epoch.
"""

import json
import pathlib
import re

import typescript
from service import ROOT

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
    modules = {
        path.stem: f"{TYPES}export const dashboard = {path.read_text().strip()} satisfies Plain<Dashboard>;\n" for path in DASHBOARDS
    }
    return typescript.problems(folder, sdk, modules)
