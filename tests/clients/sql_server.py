"""A service that serves SQL over PostgreSQL's protocol, with users, and psql on it."""

import os

from authority import Authority
from service import KEYTRAIL, Service, run, wait_for

PASSWORD = "correct horse battery"
# A query that runs for hours if nothing ends it.
SLOW = "SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 3000000) b WHERE a.value * b.value = 7"


class SqlServer:
    """`keytrail up` with `[sql]`: user alice is an analyst, grace sees one table for half a second."""

    def __init__(self, folder):
        self.authority = Authority(folder)
        self.authority.make("server")
        self.service = Service(folder / "data").init()
        self.password_file = folder / "password"
        self.password_file.write_text(PASSWORD + "\n")
        with open(self.service.folder / "keytrail.toml", "a", encoding="utf-8") as file:
            tls = f'cert_file = "{folder}/server.pem", key_file = "{folder}/server.key"'
            file.write(f'\n[sql]\npostgres = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\ntls = {{ {tls} }}\n')
        self.add_user("alice")
        with open(self.service.folder / "sql-users.toml", "a", encoding="utf-8") as file:
            file.write('\n[roles.narrow]\ntimeout = "500ms"\nrows_max = 5\ntables = ["events"]\n')
        self.add_user("grace", "--role", "narrow")

    def add_user(self, name, *flags):
        run(KEYTRAIL, "sql-user", "add", name, "--data", self.service.folder, "--password-file", self.password_file, *flags)

    def __enter__(self):
        self.service.start()
        self.host, self.port = self.service.ready["postgres"].rsplit(":", 1)
        kms = self.service.client()
        self.key = kms.create_key(Description="one")["KeyMetadata"]["Arn"]
        kms.create_key(Description="two")
        # An answered call reaches the trail a moment later: tests ask for rows once both are there.
        created = "SELECT seq FROM events WHERE event_name = 'CreateKey'"
        wait_for("two keys in the trail", lambda: len(self.service.sql(created)) == 2)
        return self

    def __exit__(self, *error):
        self.service.stop()

    def parameters(self, user="alice", password=PASSWORD, **more):
        """As libpq and what is built like it take them."""
        known = {"host": self.host, "port": self.port, "user": user, "password": password, "dbname": "keytrail"}
        return known | {"sslmode": "verify-full", "sslrootcert": str(self.authority.pem)} | more

    def dsn(self, **more):
        return " ".join(f"{name}='{value}'" for name, value in self.parameters(**more).items())

    def psql(self, *commands, check=True, **parameters):
        arguments = [part for command in commands for part in ("-c", command)]
        flags = ["-X", "-v", "ON_ERROR_STOP=1", "-At", "--set", "VERBOSITY=verbose"]
        environment = os.environ | {"PGCONNECT_TIMEOUT": "30"}
        return run("psql", self.dsn(**parameters), *flags, *arguments, check=check, env=environment)

    def recorded(self, where="true"):
        """RunQuery and EndQuery of the log, oldest first, as the shell of a stopped or running node reads them."""
        names = "('RunQuery', 'EndQuery')"
        columns = "seq, event_name, request_parameters"
        rows = self.service.sql(f"SELECT {columns} FROM events WHERE event_name IN {names} AND {where} ORDER BY seq")
        return rows
