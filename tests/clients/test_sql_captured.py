"""What DBeaver and Metabase ask of a PostgreSQL server when they connect and look around, text for text as they send it."""

import psycopg
import pytest

from sql_server import SqlServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with SqlServer(tmp_path_factory.mktemp("captured")) as server:
        yield server


@pytest.fixture(scope="module")
def cursor(server):
    with psycopg.connect(**server.parameters(), autocommit=True) as connection:
        yield psycopg.ClientCursor(connection)


def answered(rows):
    return True


def some(rows):
    return len(rows) > 0


def none(rows):
    return rows == []


def knows(word):
    return lambda rows: any(word in map(str, row) for row in rows)


# Text, and what the answer must be; an SQLSTATE where it is refused.
DBEAVER = [
    ("SET extra_float_digits = 3", None),
    ("SET application_name = 'DBeaver 25.1.5 - Main <keytrail>'", None),
    ("SELECT current_schema(),session_user", lambda rows: rows == [("public", "alice")]),
    (
        "SELECT n.oid,n.*,d.description FROM pg_catalog.pg_namespace n LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=n.oid AND"
        " d.objsubid=0 AND d.classoid='pg_namespace'::regclass ORDER BY nspname",
        knows("public"),
    ),
    (
        "SELECT n.nspname = ANY(current_schemas(true)), n.nspname, t.typname FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON"
        " t.typnamespace = n.oid WHERE t.oid = 1034",
        answered,
    ),
    (
        "SELECT typinput='pg_catalog.array_in'::regproc as is_array, typtype, typname, pg_type.oid   FROM pg_catalog.pg_type   LEFT JOIN"
        " (select ns.oid as nspoid, ns.nspname, r.r           from pg_namespace as ns           join ( select s.r,"
        " (current_schemas(false))[s.r] as nspname                    from generate_series(1, array_upper(current_schemas(false), 1)) as"
        " s(r) ) as r          using ( nspname )        ) as sp     ON sp.nspoid = typnamespace  WHERE pg_type.oid = 1034  ORDER BY sp.r,"
        " pg_type.oid DESC",
        some,
    ),
    ("SHOW search_path", some),
    ("SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE datname='keytrail'", knows("keytrail")),
    ("SELECT * FROM pg_catalog.pg_settings where name='standard_conforming_strings'", knows("on")),
    ("SELECT string_agg(word, ',' ) from pg_catalog.pg_get_keywords() where word <> ALL ('{a,abs,select,zone}'::text[])", some),
    ("SELECT version()", lambda rows: rows[0][0].startswith("PostgreSQL 16")),
    ("SELECT * FROM pg_catalog.pg_enum WHERE 1<>1 LIMIT 1", none),
    ("SELECT reltype FROM pg_catalog.pg_class WHERE 1<>1 LIMIT 1", none),
    (
        "SELECT t.oid,t.*,c.relkind,format_type(nullif(t.typbasetype, 0), t.typtypmod) as base_type_name, d.description FROM"
        " pg_catalog.pg_type t LEFT OUTER JOIN pg_catalog.pg_type et ON et.oid=t.typelem LEFT OUTER JOIN pg_catalog.pg_class c ON"
        " c.oid=t.typrelid LEFT OUTER JOIN pg_catalog.pg_description d ON t.oid=d.objoid WHERE t.typname IS NOT NULL AND (c.relkind IS NULL"
        " OR c.relkind = 'c') AND (et.typcategory IS NULL OR et.typcategory <> 'C')",
        knows("timestamptz"),
    ),
    (
        "SELECT c.oid,c.*,d.description,pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_expr,  pg_catalog.pg_get_partkeydef(c.oid)"
        " as partition_key FROM pg_catalog.pg_class c LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=c.oid AND d.objsubid=0 AND"
        " d.classoid='pg_class'::regclass WHERE c.relnamespace='public'::regnamespace AND c.relkind not in ('i','I','c')",
        knows("events"),
    ),
    (
        "select c.oid,pg_catalog.pg_total_relation_size(c.oid) as total_rel_size,pg_catalog.pg_relation_size(c.oid) as rel_size FROM pg_class"
        " c WHERE c.relnamespace=16385",
        answered,
    ),
    (
        "SELECT c.relname,a.*,pg_catalog.pg_get_expr(ad.adbin, ad.adrelid, true) as def_value,dsc.description,dep.objid FROM"
        " pg_catalog.pg_attribute a INNER JOIN pg_catalog.pg_class c ON (a.attrelid=c.oid) LEFT OUTER JOIN pg_catalog.pg_attrdef ad ON"
        " (a.attrelid=ad.adrelid AND a.attnum = ad.adnum) LEFT OUTER JOIN pg_catalog.pg_description dsc ON (c.oid=dsc.objoid AND a.attnum ="
        " dsc.objsubid) LEFT OUTER JOIN pg_depend dep on dep.refobjid = a.attrelid AND dep.deptype = 'i' and dep.refobjsubid = a.attnum and"
        " dep.classid = dep.refclassid WHERE NOT a.attisdropped AND c.relname='events' ORDER BY a.attnum",
        knows("event_time"),
    ),
    (
        "SELECT i.*,i.indkey as keys,c.relname,c.relnamespace,c.relam,c.reltablespace,tc.relname as tabrelname,dsc.description,"
        "pg_catalog.pg_get_expr(i.indpred, i.indrelid) as pred_expr,pg_catalog.pg_get_expr(i.indexprs, i.indrelid, true) as expr,"
        "pg_catalog.pg_relation_size(i.indexrelid) as index_rel_size,pg_catalog.pg_stat_get_numscans(i.indexrelid) as index_num_scans FROM"
        " pg_catalog.pg_index i INNER JOIN pg_catalog.pg_class c ON c.oid=i.indexrelid INNER JOIN pg_catalog.pg_class tc ON"
        " tc.oid=i.indrelid LEFT OUTER JOIN pg_catalog.pg_description dsc ON i.indexrelid=dsc.objoid WHERE  i.indrelid=1 ORDER BY"
        " tabrelname, c.relname",
        none,
    ),
    (
        "SELECT c.oid,c.*,t.relname as tabrelname,rt.relnamespace as refnamespace,d.description, case when c.contype='c' then"
        " \"substring\"(pg_get_constraintdef(c.oid), 7) else null end consrc_copy FROM pg_catalog.pg_constraint c INNER JOIN"
        " pg_catalog.pg_class t ON t.oid=c.conrelid LEFT OUTER JOIN pg_catalog.pg_class rt ON rt.oid=c.confrelid LEFT OUTER JOIN"
        " pg_catalog.pg_description d ON d.objoid=c.oid AND d.objsubid=0 AND d.classoid='pg_constraint'::regclass WHERE c.conrelid=1 ORDER"
        " BY c.oid",
        none,
    ),
    ("SELECT x.oid,x.* FROM pg_catalog.pg_trigger x WHERE x.tgrelid=1 AND NOT x.tgisinternal", none),
    ("SELECT p.oid as poid,p.* FROM pg_catalog.pg_proc p LIMIT 1", answered),
]

SIGNED = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ"
OBJECT = """'"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"'"""
METABASE = [
    ("SET extra_float_digits = 2", None),
    ("SET application_name = 'Metabase v0.55.1 [f8f63fdf-d8f8-4573-86ea-4fe4a9548041]'", None),
    ("SHOW TRANSACTION ISOLATION LEVEL", some),
    (f"{SIGNED} UNCOMMITTED", None),
    (
        'SELECT nspname AS "TABLE_SCHEM", current_database() AS "TABLE_CATALOG" FROM pg_catalog.pg_namespace  WHERE nspname <> \'pg_toast\''
        " AND (nspname !~ '^pg_temp_'  OR nspname = (pg_catalog.current_schemas(true))[1]) AND (nspname !~ '^pg_toast_temp_'  OR nspname ="
        " replace((pg_catalog.current_schemas(true))[1], 'pg_temp_', 'pg_toast_temp_'))  ORDER BY \"TABLE_SCHEM\"",
        knows("public"),
    ),
    (
        f"""with table_privileges as (
         select
           NULL as role,
           t.schemaname as schema,
           t.objectname as table,
           pg_catalog.has_any_column_privilege(current_user, {OBJECT},  'update') as update,
           pg_catalog.has_any_column_privilege(current_user, {OBJECT},  'select') as select,
           pg_catalog.has_any_column_privilege(current_user, {OBJECT},  'insert') as insert,
           pg_catalog.has_table_privilege(     current_user, {OBJECT},  'delete') as delete
         from (
           select schemaname, tablename as objectname from pg_catalog.pg_tables
           union
           select schemaname, viewname as objectname from pg_catalog.pg_views
           union
           select schemaname, matviewname as objectname from pg_catalog.pg_matviews
         ) t
         where t.schemaname !~ '^pg_'
           and t.schemaname <> 'information_schema'
           and pg_catalog.has_schema_privilege(current_user, t.schemaname, 'usage')
        )
        select t.*
        from table_privileges t""",
        lambda rows: (None, "public", "events", False, True, False, False) in rows,
    ),
    (
        'SELECT "n"."nspname" AS "schema", "c"."relname" AS "name", CASE "c"."relkind" WHEN \'r\' THEN \'TABLE\' WHEN \'p\' THEN'
        " 'PARTITIONED TABLE' WHEN 'v' THEN 'VIEW' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE NULL END AS \"type\","
        ' "d"."description" AS "description", "stat"."n_live_tup" AS "estimated_row_count" FROM "pg_catalog"."pg_class" AS "c" INNER JOIN'
        ' "pg_catalog"."pg_namespace" AS "n" ON "c"."relnamespace" = "n"."oid" LEFT JOIN "pg_catalog"."pg_description" AS "d" ON ("c"."oid"'
        ' = "d"."objoid") AND ("d"."objsubid" = \'0\') AND ("d"."classoid" = \'pg_class\'::regclass) LEFT JOIN "pg_stat_user_tables" AS'
        ' "stat" ON ("n"."nspname" = "stat"."schemaname") AND ("c"."relname" = "stat"."relname") WHERE ("c"."relnamespace" = "n"."oid") AND'
        ' ("n"."nspname" !~ \'^pg_\') AND ("n"."nspname" <> \'information_schema\') AND c.relkind in (\'r\', \'p\', \'v\', \'f\', \'m\') AND'
        ' ("n"."nspname" IN (\'public\')) ORDER BY "type" ASC, "schema" ASC, "name" ASC',
        knows("events"),
    ),
    (f"{SIGNED} COMMITTED", None),
    ("show timezone", some),
]

# Who asks, as PostgreSQL says it: words without parentheses.
WHO = [
    ("SELECT user", lambda rows: rows == [("alice",)]),
    ("SELECT current_user, session_user, current_role", lambda rows: rows == [("alice",) * 3]),
    ("SELECT current_user AS me, count(*) FROM events GROUP BY 1", lambda rows: rows[0][0] == "alice"),
    ("SELECT 1 WHERE session_user = 'alice' AND user LIKE 'al%%'".replace("%%", "%"), some),
    ("SELECT current_catalog, current_schema, version()", lambda rows: rows[0][:2] == ("keytrail", "public")),
]


def test_columns_are_called_as_in_postgresql(cursor):
    cursor.execute("SELECT user, current_database(), now()")
    assert [column.name for column in cursor.description] == ["user", "current_database", "now"]


@pytest.mark.parametrize("text, expected", DBEAVER + METABASE + WHO, ids=lambda value: None)
def test_captured(cursor, text, expected):
    cursor.execute(text)
    if expected is not None:
        assert expected(cursor.fetchall()), text
