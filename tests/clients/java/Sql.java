// pgjdbc as DBeaver, Metabase and DataGrip use it: its metadata calls, parameters prepared on the server, a cursor.
// test_sql_drivers.py says what it is told and what it must find. Started from its source: java -cp 'JARS/*' Sql.java.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Timestamp;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

public class Sql {
    public static void main(String[] arguments) throws Exception {
        var properties = new Properties();
        properties.setProperty("user", System.getenv("SQL_USER"));
        properties.setProperty("password", System.getenv("SQL_PASSWORD"));
        properties.setProperty("sslmode", "verify-full");
        properties.setProperty("sslrootcert", System.getenv("SQL_CA"));
        properties.setProperty("channelBinding", "require");
        try (var connection = DriverManager.getConnection(System.getenv("SQL_URL"), properties)) {
            metadata(connection);
            queries(connection);
            cursor(connection);
        }
    }

    static void say(String name, Object value) {
        System.out.println(name + "=" + value);
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        var values = new ArrayList<String>();
        while (rows.next()) {
            values.add(rows.getString(name));
        }
        rows.close();
        return values;
    }

    static void metadata(Connection connection) throws SQLException {
        var metadata = connection.getMetaData();
        say("product", metadata.getDatabaseProductName() + " " + metadata.getDatabaseMajorVersion());
        say("read_only", metadata.isReadOnly());
        say("schemas", column(metadata.getSchemas(), "TABLE_SCHEM"));
        say("catalogs", column(metadata.getCatalogs(), "TABLE_CAT"));
        say("table_types", column(metadata.getTableTypes(), "TABLE_TYPE").contains("TABLE"));
        say("tables", column(metadata.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME"));
        say("columns", column(metadata.getColumns(null, "public", "events", "event_%"), "COLUMN_NAME"));
        say("types", column(metadata.getColumns(null, "public", "events", "event_time"), "TYPE_NAME"));
        say("primary_keys", column(metadata.getPrimaryKeys(null, "public", "events"), "COLUMN_NAME"));
        say("indexes", column(metadata.getIndexInfo(null, "public", "events", false, false), "INDEX_NAME"));
        var types = column(metadata.getTypeInfo(), "TYPE_NAME");
        say("type_info", types.contains("int8") && types.contains("timestamptz") && types.contains("text"));
        say("functions", column(metadata.getFunctions(null, null, "%"), "FUNCTION_NAME").size() >= 0);
        say("function_columns", column(metadata.getFunctionColumns(null, null, "%", "%"), "COLUMN_NAME").size() >= 0);
        say("procedures", column(metadata.getProcedures(null, "public", "%"), "PROCEDURE_NAME"));
        say("exported_keys", column(metadata.getExportedKeys(null, "public", "events"), "FKCOLUMN_NAME"));
        say("best_row", column(metadata.getBestRowIdentifier(null, "public", "events", 0, true), "COLUMN_NAME"));
        say("privileges", column(metadata.getTablePrivileges(null, "public", "events"), "PRIVILEGE"));
        say("column_privileges", column(metadata.getColumnPrivileges(null, "public", "events", "%"), "PRIVILEGE"));
        // Some 600 types in one CASE are more than the server plans for anyone.
        try {
            say("udts", column(metadata.getUDTs(null, "public", "%", null), "TYPE_NAME"));
        } catch (SQLException error) {
            say("udts", error.getSQLState());
        }
        say("views", column(metadata.getTables(null, "public", "%", new String[] {"VIEW"}), "TABLE_NAME"));
        say("version_columns", column(metadata.getVersionColumns(null, "public", "events"), "COLUMN_NAME").size());
        say("all_tables", column(metadata.getTables(null, null, "%", null), "TABLE_NAME").contains("events"));
        say("all_columns", column(metadata.getColumns(null, null, "%", "%"), "COLUMN_NAME").contains("event_time"));
        say("client_info", column(metadata.getClientInfoProperties(), "NAME").contains("ApplicationName"));
        say("name_length", metadata.getMaxColumnNameLength());
        say("keywords", metadata.getSQLKeywords().length() > 100);
        say("imported_keys", column(metadata.getImportedKeys(null, "public", "events"), "FKCOLUMN_NAME"));
    }

    static void queries(Connection connection) throws SQLException {
        // More than prepareThreshold, so that the server's own prepared statement is used.
        for (int round = 0; round < 7; round++) {
            var query = "SELECT event_name, event_time, seq, read_only FROM events WHERE event_name = ? AND event_time > ? LIMIT ?";
            try (var statement = connection.prepareStatement(query)) {
                statement.setString(1, "CreateKey");
                statement.setTimestamp(2, Timestamp.from(Instant.now().minusSeconds(3600)));
                statement.setInt(3, 1);
                var rows = statement.executeQuery();
                rows.next();
                say("row", rows.getString(1) + " " + (rows.getTimestamp(2) != null) + " " + (rows.getLong(3) > 0));
            }
        }
        try (var statement = connection.createStatement()) {
            statement.execute("DROP TABLE events");
        } catch (SQLException error) {
            say("refused", error.getSQLState());
        }
        try (var statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            statement.executeQuery(System.getenv("SLOW"));
        } catch (SQLException error) {
            say("timeout", error.getSQLState());
        }
    }

    static void cursor(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (var statement = connection.prepareStatement("SELECT value FROM generate_series(1, 25)")) {
            statement.setFetchSize(10);
            var rows = statement.executeQuery();
            int count = 0;
            while (rows.next()) {
                count++;
            }
            say("cursor", count);
        }
        connection.commit();
    }
}
