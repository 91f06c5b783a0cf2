//! The names that a statement can use, for a shell that completes them.

use datafusion::execution::context::SessionContext;
use std::collections::BTreeSet;

/// Tables, their columns, and functions of a session, sorted. Tables that cannot be opened have no columns here.
pub async fn names(session: &SessionContext) -> Vec<String> {
    let mut names = BTreeSet::new();
    for schema in session.catalog_names().iter().filter_map(|catalog| session.catalog(catalog)) {
        for schema in schema.schema_names().iter().filter_map(|name| schema.schema(name)) {
            for table in schema.table_names() {
                if let Ok(Some(provider)) = schema.table(&table).await {
                    names.extend(provider.schema().fields().iter().map(|field| field.name().clone()));
                }
                names.insert(table);
            }
        }
    }
    let state = session.state();
    names.extend(state.scalar_functions().keys().cloned());
    names.extend(state.aggregate_functions().keys().cloned());
    names.extend(state.window_functions().keys().cloned());
    names.into_iter().collect()
}
