//! What PostgreSQL's clients ask a server about itself: `pg_catalog` and `information_schema` over our tables.
//!
//! `pg_catalog` is datafusion-pg-catalog's, told of our tables alone; `information_schema` is ours, because DataFusion's
//! names Arrow's types where clients expect PostgreSQL's. Both are made once a connection: oids hold as long. Nothing in
//! them comes from the log.

use super::functions;
use crate::query::session::{CATALOG, SCHEMA, with_schemas};
use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_pg::datatypes::into_pg_type;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, MemorySchemaProvider, SchemaProvider, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::datasource::{TableType, ViewTable, provider_as_source};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::functions::expr_fn::translate;
use datafusion::functions_nested::expr_fn::string_to_array;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, cast, col, lit};
use datafusion::prelude::SessionContext;
use datafusion_pg_catalog::pg_catalog::catalog_info::CatalogInfo;
use datafusion_pg_catalog::pg_catalog::context::{PgCatalogContextProvider, Role};
use datafusion_pg_catalog::pg_catalog::generate_series_arg_coercion::CoerceIntArgsToBigInt;
use datafusion_pg_catalog::pg_catalog::oid_type_planner::PgOidTypePlanner;
use datafusion_pg_catalog::pg_catalog::{PgCatalogSchemaProvider, PgCatalogStaticTables};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

const PG_CATALOG: &str = "pg_catalog";
const INFORMATION_SCHEMA: &str = "information_schema";

/// The schemas of one connection, for its user.
pub(super) struct Catalog {
    schemas: BTreeMap<String, Arc<dyn SchemaProvider>>,
    statics: Arc<PgCatalogStaticTables>,
}

impl Catalog {
    /// Over the tables of `session`, which is one of the user's.
    pub(super) async fn of(session: &SessionContext, user: &str) -> Result<Self> {
        let tables = Tables(Arc::new(tables(session).await?));
        let statics = statics()?;
        let own = PgCatalogSchemaProvider::try_new(tables.clone(), statics.clone(), Roles(user.to_owned()))?;
        let own = PgCatalog { inner: Arc::new(own), settings: settings()? };
        let information = Arc::new(information_schema(&tables.0)?);
        let schemas: BTreeMap<String, Arc<dyn SchemaProvider>> = BTreeMap::from([
            (PG_CATALOG.to_owned(), Arc::new(own) as _),
            (INFORMATION_SCHEMA.to_owned(), information as _),
        ]);
        Ok(Self { schemas, statics })
    }

    /// The session with these schemas and PostgreSQL's functions, types and ways to write things.
    pub(super) fn dress(&self, session: SessionContext, asker: &functions::Asker) -> Result<SessionContext> {
        let mut config = session.copied_config();
        config.options_mut().catalog.information_schema = false;
        config.options_mut().sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
        let state = SessionStateBuilder::new_from_existing(session.state()).with_config(config);
        let dressed = SessionContext::new_with_state(state.with_type_planner(Arc::new(PgOidTypePlanner)).build());
        with_schemas(&dressed, &self.schemas)?;
        functions::register(&dressed, asker);
        dressed.register_udtf("pg_get_keywords", self.statics.pg_get_keywords.clone());
        CoerceIntArgsToBigInt::widen(&dressed);
        Ok(dressed)
    }
}

/// datafusion-pg-catalog's tables with what clients miss in them.
#[derive(Debug)]
struct PgCatalog {
    inner: Arc<dyn SchemaProvider>,
    settings: Arc<dyn TableProvider>,
}

#[async_trait]
impl SchemaProvider for PgCatalog {
    fn table_names(&self) -> Vec<String> {
        self.inner.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if name == "pg_settings" {
            return Ok(Some(self.settings.clone()));
        }
        let Some(found) = self.inner.table(name).await? else { return Ok(None) };
        let scan = |found| LogicalPlanBuilder::scan(name, provider_as_source(found), None);
        let plan = match name {
            "pg_database" => scan(found)?.filter(col("datname").eq(lit(CATALOG)))?,
            "pg_class" => {
                let array = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
                let nothing = ScalarValue::try_new_null(&array)?;
                let schema = found.schema();
                let mut columns: Vec<Expr> = schema.fields().iter().map(|field| col(field.name().as_str())).collect();
                columns.extend(["relacl", "reloptions"].map(|name| lit(nothing.clone()).alias(name)));
                scan(found)?.project(columns)?
            }
            "pg_proc" => {
                let schema = found.schema();
                let columns: Vec<Expr> = schema.fields().iter().map(|field| argument_list(field.name())).collect();
                scan(found)?.project(columns)?
            }
            _ => return Ok(Some(found)),
        };
        Ok(Some(Arc::new(ViewTable::new(plan.build()?, None))))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.inner.table_exist(name)
    }
}

/// A column of `pg_proc`; what the crate has as a list in Python's writing (`['i', 'o']`) becomes an array.
fn argument_list(name: &str) -> Expr {
    let texts = || string_to_array(translate(col(name), lit("[]' "), lit("")), lit(","), lit(ScalarValue::Utf8(None)));
    let item = |of| DataType::List(Arc::new(Field::new_list_field(of, true)));
    match name {
        "proallargtypes" => cast(texts(), item(DataType::Int64)).alias(name),
        "proargmodes" | "proargnames" => texts().alias(name),
        _ => col(name),
    }
}

/// `pg_settings`: what is fixed, and limits that drivers look up.
fn settings() -> Result<Arc<dyn TableProvider>> {
    let rows: Vec<(&str, &str)> = super::settings::FIXED.into_iter().chain([("max_index_keys", "32")]).collect();
    let mut columns = vec![
        text("name", rows.iter().map(|(name, _)| Some((*name).to_owned()))),
        text("setting", rows.iter().map(|(_, value)| Some((*value).to_owned()))),
    ];
    for name in
        ["unit", "category", "short_desc", "extra_desc", "context", "vartype", "source", "boot_val", "reset_val"]
    {
        columns.push(text(name, rows.iter().map(|_| None)));
    }
    let batch = batch(columns)?;
    Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
}

/// Decoded once for all connections.
fn statics() -> Result<Arc<PgCatalogStaticTables>> {
    static STATICS: OnceLock<Arc<PgCatalogStaticTables>> = OnceLock::new();
    if let Some(statics) = STATICS.get() {
        return Ok(statics.clone());
    }
    let made = Arc::new(PgCatalogStaticTables::try_new()?);
    Ok(STATICS.get_or_init(|| made).clone())
}

async fn tables(session: &SessionContext) -> Result<BTreeMap<String, SchemaRef>> {
    let own = session.catalog(CATALOG).and_then(|catalog| catalog.schema(SCHEMA));
    let own = own.ok_or_else(|| DataFusionError::Internal("the session has no tables".to_owned()))?;
    let mut tables = BTreeMap::new();
    for name in own.table_names() {
        if let Some(table) = own.table(&name).await? {
            tables.insert(name, table.schema());
        }
    }
    Ok(tables)
}

/// Our tables, as `pg_catalog` is told of them.
#[derive(Clone, Debug)]
struct Tables(Arc<BTreeMap<String, SchemaRef>>);

#[async_trait]
impl CatalogInfo for Tables {
    async fn catalog_names(&self) -> Result<Vec<String>> {
        Ok(vec![CATALOG.to_owned()])
    }

    async fn schema_names(&self, catalog: &str) -> Result<Option<Vec<String>>> {
        let names = [INFORMATION_SCHEMA, PG_CATALOG, SCHEMA];
        Ok((catalog == CATALOG).then(|| names.map(str::to_owned).to_vec()))
    }

    async fn table_names(&self, catalog: &str, schema: &str) -> Result<Option<Vec<String>>> {
        Ok((catalog == CATALOG && schema == SCHEMA).then(|| self.0.keys().cloned().collect()))
    }

    async fn table_schema(&self, _: &str, schema: &str, table: &str) -> Result<Option<SchemaRef>> {
        Ok(self.0.get(table).filter(|_| schema == SCHEMA).cloned())
    }

    async fn table_type(&self, _: &str, schema: &str, table: &str) -> Result<Option<TableType>> {
        Ok(self.0.get(table).filter(|_| schema == SCHEMA).map(|_| TableType::Base))
    }
}

/// The one role that a connection sees: its own.
#[derive(Clone, Debug)]
struct Roles(String);

#[async_trait]
impl PgCatalogContextProvider for Roles {
    async fn roles(&self) -> Vec<String> {
        vec![self.0.clone()]
    }

    async fn role(&self, name: &str) -> Option<Role> {
        Some(Role {
            name: name.to_owned(),
            is_superuser: false,
            can_login: true,
            can_create_db: false,
            can_create_role: false,
            can_create_user: false,
            can_replication: false,
            grants: Vec::new(),
            inherited_roles: Vec::new(),
        })
    }
}

/// `schemata`, `tables`, `columns`, and the ones that have no rows here.
fn information_schema(tables: &BTreeMap<String, SchemaRef>) -> Result<MemorySchemaProvider> {
    let schema = MemorySchemaProvider::new();
    let put = |name: &str, batch: RecordBatch| -> Result<()> {
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
        schema.register_table(name.to_owned(), Arc::new(table)).map(|_| ())
    };
    let schemas = [INFORMATION_SCHEMA, PG_CATALOG, SCHEMA].map(|name| Some(name.to_owned()));
    put(
        "schemata",
        batch(vec![
            text("catalog_name", schemas.iter().map(|_| Some(CATALOG.to_owned()))),
            text("schema_name", schemas.iter().cloned()),
            text("schema_owner", schemas.iter().map(|_| None)),
        ])?,
    )?;
    put(
        "tables",
        batch(vec![
            text("table_catalog", tables.keys().map(|_| Some(CATALOG.to_owned()))),
            text("table_schema", tables.keys().map(|_| Some(SCHEMA.to_owned()))),
            text("table_name", tables.keys().map(|name| Some(name.clone()))),
            text("table_type", tables.keys().map(|_| Some("BASE TABLE".to_owned()))),
            text("is_insertable_into", tables.keys().map(|_| Some("NO".to_owned()))),
        ])?,
    )?;
    put("columns", columns(tables)?)?;
    let keys =
        ["constraint_catalog", "constraint_schema", "constraint_name", "table_catalog", "table_schema", "table_name"];
    for (name, more) in [
        ("views", &["view_definition"][..]),
        ("table_constraints", &["constraint_type", "is_deferrable", "initially_deferred"]),
        ("key_column_usage", &["column_name"]),
        ("constraint_column_usage", &["column_name"]),
        (
            "referential_constraints",
            &["unique_constraint_schema", "unique_constraint_name", "update_rule", "delete_rule"],
        ),
        ("check_constraints", &["check_clause"]),
        ("triggers", &["trigger_schema", "trigger_name", "event_manipulation", "event_object_table"]),
        ("routines", &["routine_catalog", "routine_schema", "routine_name", "routine_type", "data_type"]),
        ("sequences", &["sequence_catalog", "sequence_schema", "sequence_name", "data_type"]),
    ] {
        let names = keys.iter().chain(more).map(|name| text(name, std::iter::empty()));
        put(name, batch(names.collect())?)?;
    }
    Ok(schema)
}

fn columns(tables: &BTreeMap<String, SchemaRef>) -> Result<RecordBatch> {
    let all: Vec<(&String, usize, &Field)> = tables
        .iter()
        .flat_map(|(table, schema)| {
            schema.fields().iter().enumerate().map(move |(at, field)| (table, at, field.as_ref()))
        })
        .collect();
    let type_of = |field: &Field| into_pg_type(field.data_type()).ok();
    let words = |value: &str| all.iter().map(|_| Some(value.to_owned())).collect::<Vec<_>>();
    let ordinals = Int32Array::from_iter_values(all.iter().map(|(_, at, _)| i32::try_from(at + 1).unwrap_or(i32::MAX)));
    let ordinals = (Field::new("ordinal_position", DataType::Int32, true), Arc::new(ordinals) as ArrayRef);
    batch(vec![
        text("table_catalog", words(CATALOG).into_iter()),
        text("table_schema", words(SCHEMA).into_iter()),
        text("table_name", all.iter().map(|(table, _, _)| Some((*table).clone()))),
        text("column_name", all.iter().map(|(_, _, field)| Some(field.name().clone()))),
        ordinals,
        text("column_default", all.iter().map(|_| None)),
        text(
            "is_nullable",
            all.iter().map(|(_, _, field)| Some(if field.is_nullable() { "YES" } else { "NO" }.to_owned())),
        ),
        text(
            "data_type",
            all.iter().map(|(_, _, field)| type_of(field).map(|found| long_name(found.name()).to_owned())),
        ),
        text("udt_schema", words(PG_CATALOG).into_iter()),
        text("udt_name", all.iter().map(|(_, _, field)| type_of(field).map(|found| found.name().to_owned()))),
        text("is_identity", words("NO").into_iter()),
        text("is_generated", words("NEVER").into_iter()),
        text("is_updatable", words("NO").into_iter()),
    ])
}

/// As `information_schema` spells PostgreSQL's types.
fn long_name(name: &str) -> &str {
    match name {
        "bool" => "boolean",
        "int2" => "smallint",
        "int4" => "integer",
        "int8" => "bigint",
        "float4" => "real",
        "float8" => "double precision",
        "timestamp" => "timestamp without time zone",
        "timestamptz" => "timestamp with time zone",
        name if name.starts_with('_') => "ARRAY",
        name => name,
    }
}

fn text(name: &str, values: impl Iterator<Item = Option<String>>) -> (Field, ArrayRef) {
    (Field::new(name, DataType::Utf8, true), Arc::new(values.collect::<StringArray>()))
}

fn batch(columns: Vec<(Field, ArrayRef)>) -> Result<RecordBatch> {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}
