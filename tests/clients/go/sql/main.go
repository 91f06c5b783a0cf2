// pgx and lib/pq as Grafana's PostgreSQL data source uses them: the simple protocol, several statements in one text, TLS with
// SCRAM; and pgx with its own extended protocol. test_sql_drivers.py says what it is told and what it must find.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/lib/pq"
)

var ctx = context.Background()

func say(name string, value any) { fmt.Printf("%s=%v\n", name, value) }

func main() {
	if err := errors.Join(grafana(), extended(), oldGrafana()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// grafana is what the data source does since it has pgx only.
func grafana() error {
	connection, err := pgconn.Connect(ctx, os.Getenv("DSN"))
	if err != nil {
		return err
	}
	defer connection.Close(ctx)
	if _, err := connection.Exec(ctx, "-- ping").ReadAll(); err != nil {
		return fmt.Errorf("comment-only query: %w", err)
	}
	results, err := connection.Exec(ctx, os.Getenv("SERIES")+"; "+os.Getenv("TABLE")).ReadAll()
	if err != nil {
		return err
	}
	say("pgx.results", len(results))
	say("pgx.series_columns", fmt.Sprint(names(results[0].FieldDescriptions)))
	say("pgx.series_oids", fmt.Sprint(oids(results[0].FieldDescriptions)))
	say("pgx.series_rows", len(results[0].Rows))
	say("pgx.table", string(results[1].Rows[0][0]))
	_, err = connection.Exec(ctx, "SELECT no_such_column FROM events").ReadAll()
	var failure *pgconn.PgError
	if errors.As(err, &failure) {
		say("pgx.error", fmt.Sprintf("%s %d", failure.Code, failure.Position))
	}
	return nil
}

func names(fields []pgconn.FieldDescription) (names []string) {
	for _, field := range fields {
		names = append(names, field.Name)
	}
	return
}

func oids(fields []pgconn.FieldDescription) (oids []uint32) {
	for _, field := range fields {
		oids = append(oids, field.DataTypeOID)
	}
	return
}

// extended prepares, binds in binary, and reads binary results.
func extended() error {
	connection, err := pgx.Connect(ctx, os.Getenv("DSN"))
	if err != nil {
		return err
	}
	defer connection.Close(ctx)
	var name string
	var at time.Time
	var seq int64
	query := "SELECT event_name, event_time, seq FROM events WHERE event_name = $1 AND event_time >= $2 AND seq >= $3 LIMIT 1"
	if err := connection.QueryRow(ctx, query, "CreateKey", time.Now().Add(-time.Hour), 0).Scan(&name, &at, &seq); err != nil {
		return fmt.Errorf("parameters: %w", err)
	}
	say("pgx.parameters", name)
	say("pgx.recent", time.Since(at) < time.Hour && seq > 0)
	transaction, err := connection.Begin(ctx)
	if err != nil {
		return err
	}
	var n int
	if err := transaction.QueryRow(ctx, "SELECT 41 + $1::int", 1).Scan(&n); err != nil {
		return fmt.Errorf("in a transaction: %w", err)
	}
	say("pgx.sum", n)
	return transaction.Commit(ctx)
}

// oldGrafana is what the data source did before, and what many programs still do.
func oldGrafana() error {
	db, err := sql.Open("postgres", os.Getenv("DSN"))
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Ping(); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	if _, err := db.Exec(";"); err != nil {
		return fmt.Errorf("empty query: %w", err)
	}
	rows, err := db.Query(os.Getenv("SERIES") + "; " + os.Getenv("TABLE"))
	if err != nil {
		return err
	}
	defer rows.Close()
	sets, count := 1, 0
	for {
		for rows.Next() {
			count++
		}
		if !rows.NextResultSet() {
			break
		}
		sets++
	}
	if err := rows.Err(); err != nil {
		return err
	}
	say("pq.results", sets)
	say("pq.rows", count > 1)
	var name string
	if err := db.QueryRow("SELECT event_name FROM events WHERE event_name = $1 LIMIT 1", "CreateKey").Scan(&name); err != nil {
		return fmt.Errorf("parameters: %w", err)
	}
	say("pq.parameters", name)
	_, err = db.Exec("INSERT INTO events SELECT * FROM events")
	var failure *pq.Error
	if errors.As(err, &failure) {
		say("pq.insert", failure.Code)
	}
	return nil
}
