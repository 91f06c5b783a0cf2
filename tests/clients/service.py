"""A Keytrail service of its own, driven through its command line only, and clients that speak to it.

Nothing here imports Keytrail's code: what these tests know is what a stranger reads in the README.
"""

import configparser
import json
import os
import pathlib
import secrets
import signal
import subprocess
import time

import boto3
import botocore.config
import botocore.session

ACCOUNT = "123456789012"
OTHER_ACCOUNT = "210987654321"
REGION = "us-east-1"
PATIENCE_SECS = 90

KEYTRAIL = os.environ.get("KEYTRAIL_BIN", "keytrail")
ROOT = pathlib.Path(__file__).resolve().parents[2]

# One user who may use keys, one who may do everything but is no administrator, one who may do nothing, and someone of
# another account whose own account allows everything.
PEOPLE = [
    (ACCOUNT, "app", ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*", "kms:DescribeKey"]),
    (ACCOUNT, "engineer", ["kms:*"]),
    (ACCOUNT, "nobody", []),
    (OTHER_ACCOUNT, "partner", ["kms:*"]),
]


def wait_for(what, probe):
    """Polls until probe gives something true, and gives that."""
    end = time.monotonic() + PATIENCE_SECS
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < end, f"gave up waiting for {what}"
        time.sleep(0.05)


def run(*arguments, check=True, **options):
    done = subprocess.run([str(part) for part in arguments], capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def access_key_id(name):
    return f"AKIA{name.upper():0<16}"


class Person:
    """Access key of a user, as a section of an AWS shared-credentials file."""

    def __init__(self, name, credentials, profile="default"):
        self.name, self.credentials, self.profile = name, credentials, profile

    def environment(self):
        """For the AWS CLI."""
        return {"AWS_SHARED_CREDENTIALS_FILE": str(self.credentials), "AWS_PROFILE": self.profile}


class Service:
    """`keytrail up` on a folder."""

    def __init__(self, folder, *flags):
        self.folder, self.flags = pathlib.Path(folder), [str(flag) for flag in flags]
        self.people = {"administrator": Person("administrator", self.folder / "credentials")}
        self.process = None
        self.endpoint = None

    def init(self, *flags):
        """Makes the folder with people in it. `up` would make one by itself."""
        run(KEYTRAIL, "init", "--data", self.folder, "--account", ACCOUNT, *flags)
        credentials, identities = configparser.ConfigParser(), []
        identities.append(f'\n[[account]]\nid = "{OTHER_ACCOUNT}"\n')
        for account, name, actions in PEOPLE:
            key, secret = access_key_id(name), secrets.token_hex(20)
            credentials[name] = {"aws_access_key_id": key, "aws_secret_access_key": secret}
            policies = ""
            if actions:
                statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
                document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
                policies = f"policies = ['{document}']\n"
            identities.append(f'\n[[user]]\naccount = "{account}"\nname = "{name}"\n{policies}')
            identities.append(
                f'\n[[access_key]]\nid = "{key}"\nsecret = "{secret}"\naccount = "{account}"\nuser = "{name}"\n'
            )
        with open(self.folder / "identities.toml", "a", encoding="utf-8") as file:
            file.writelines(identities)
        path = self.folder.parent / f"{self.folder.name}-people"
        with open(path, "w", encoding="utf-8") as file:
            credentials.write(file)
        for _, name, _ in PEOPLE:
            self.people[name] = Person(name, path, name)
        return self

    def start(self):
        command = [KEYTRAIL, "up", "--data", self.folder, "--listen", "127.0.0.1:0", "--account", ACCOUNT, *self.flags]
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("ready "):
                fields = dict(word.split("=", 1) for word in line.split()[1:])
                self.endpoint = fields["kms"]
                self.ready = fields
                return self
        raise AssertionError(f"no ready line; exit {self.process.wait()}")

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(timeout=PATIENCE_SECS) == 0
            self.process.stdout.close()
            self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def client(self, who="administrator", service="kms", region=REGION, verify=None, **config):
        """A boto3 client that finds its credentials in the file, as a user's would."""
        person = self.people[who]
        session = botocore.session.Session(profile=person.profile)
        session.set_config_variable("credentials_file", str(person.credentials))
        session.set_config_variable("config_file", os.devnull)
        config = botocore.config.Config(retries={"max_attempts": 0}, **config)
        session = boto3.Session(botocore_session=session)
        return session.client(service, region_name=region, endpoint_url=self.endpoint, verify=verify, config=config)

    def aws(self, *arguments, who="administrator", check=True):
        """The AWS CLI; its answer parsed when there is one."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        environment |= self.people[who].environment()
        environment |= {"AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": REGION, "AWS_CONFIG_FILE": os.devnull}
        environment |= {"AWS_MAX_ATTEMPTS": "1", "AWS_PAGER": ""}
        done = run("aws", "--output", "json", *arguments, check=check, env=environment)
        if not check:
            return done
        return json.loads(done.stdout) if done.stdout.strip() else None

    def sql(self, query):
        """Rows of `keytrail sql`, while it runs or when it is stopped."""
        out = run(KEYTRAIL, "sql", "--data", self.folder, "--format", "jsonl", query).stdout
        return [json.loads(line) for line in out.splitlines()]

    def verify(self):
        return run(KEYTRAIL, "verify", self.folder, check=False)


class Broker:
    """An Apache Kafka broker of its own, by scripts/kafka."""

    def __init__(self, folder):
        self.folder = folder
        self.address = self.script("start").stdout.split()[-1]

    def script(self, verb):
        return run(ROOT / "scripts" / "kafka", verb, self.folder)
