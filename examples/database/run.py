"""Notes of tenants in a SQLite database: a data key for each tenant, a column sealed under it.

    run.py put TENANT ROW     the note comes on standard input
    run.py get TENANT ROW
"""

import os
import sqlite3
import sys

import boto3
from botocore.exceptions import ClientError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = "alias/database"
TABLES = """
CREATE TABLE IF NOT EXISTS data_keys (tenant TEXT PRIMARY KEY, sealed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS notes (tenant TEXT, row TEXT, note BLOB NOT NULL, PRIMARY KEY (tenant, row));
"""


def data_key(database, tenant):
    """The tenant's data key in clear, for this process only; made at the tenant's first note."""
    kms, context = boto3.client("kms"), {"tenant": tenant}
    found = database.execute("SELECT sealed FROM data_keys WHERE tenant = ?", [tenant]).fetchone()
    if found:
        return AESGCM(kms.decrypt(KeyId=KEY, CiphertextBlob=found[0], EncryptionContext=context)["Plaintext"])
    made = kms.generate_data_key(KeyId=KEY, KeySpec="AES_256", EncryptionContext=context)
    database.execute("INSERT INTO data_keys VALUES (?, ?)", [tenant, made["CiphertextBlob"]])
    return AESGCM(made["Plaintext"])


def place(tenant, row):
    """Bound to the ciphertext: a note that was moved to another row does not open. No part may hold the separator."""
    assert "\0" not in tenant + row
    return f"notes\0note\0{tenant}\0{row}".encode()


def put(database, tenant, row, note):
    nonce = os.urandom(12)
    sealed = nonce + data_key(database, tenant).encrypt(nonce, note.encode(), place(tenant, row))
    database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", [tenant, row, sealed])


def get(database, tenant, row):
    (sealed,) = database.execute("SELECT note FROM notes WHERE tenant = ? AND row = ?", [tenant, row]).fetchone()
    return data_key(database, tenant).decrypt(sealed[:12], sealed[12:], place(tenant, row)).decode()


if __name__ == "__main__":
    verb, tenant, row = sys.argv[1:]
    try:
        with sqlite3.connect("notes.db") as database:
            database.executescript(TABLES)
            if verb == "put":
                put(database, tenant, row, sys.stdin.readline().strip())
            else:
                print(get(database, tenant, row))
    except (ClientError, InvalidTag) as error:
        sys.exit(f"{type(error).__name__}: {error}")
