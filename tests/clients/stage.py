"""What the examples' tests stand on: a service with an example's people and key, and a folder where its programs run."""

import configparser
import os
import secrets
import subprocess
import sys

from service import ACCOUNT, OTHER_ACCOUNT, REGION, ROOT, Person

EXAMPLES = ROOT / "examples"
ENTRIES = """
[[user]]
account = "{other}"
name = "their-administrator"
policies = ["AdministratorAccess"]

[[access_key]]
id = "AKIATHEIRADMINISTRA0"
secret = "{secrets[0]}"
account = "{other}"
user = "their-administrator"

[[service_key]]
id = "AKIAS3S3S3S3S3S3S3S3"
secret = "{secrets[1]}"
account = "{account}"
service = "s3"

[[service_key]]
id = "AKIASSMSSMSSMSSMSSM0"
secret = "{secrets[2]}"
account = "{account}"
service = "ssm"
"""


class Stage:
    """A service with an example's people and key on it, and a folder in which the example's programs run."""

    def __init__(self, service, case, folder):
        self.service, self.case, self.folder = service, EXAMPLES / case, folder
        self.alias = f"alias/{case}"
        self.profiles, self.config = folder / "people", folder / "config"
        self.stores = []
        kept = [secrets.token_hex(20) for _ in range(3)]
        with open(service.folder / "identities.toml", "a", encoding="utf-8") as file:
            file.write(ENTRIES.format(account=ACCOUNT, other=OTHER_ACCOUNT, secrets=kept))
        ids = {"their-administrator": "AKIATHEIRADMINISTRA0", "s3": "AKIAS3S3S3S3S3S3S3S3", "ssm": "AKIASSMSSMSSMSSMSSM0"}
        for (name, key), secret in zip(ids.items(), kept, strict=True):
            self.write(self.profiles, name, aws_access_key_id=key, aws_secret_access_key=secret)
        service.start()
        self.kms, self.iam = service.client(), service.client(service="iam")

    def write(self, path, section, **values):
        file = configparser.ConfigParser()
        file.read(path)
        file[section] = values
        with open(path, "w", encoding="utf-8") as out:
            file.write(out)

    def document(self, name):
        return (self.case / name).read_text()

    def person(self, name, policy=None, iam=None, **tags):
        iam = iam or self.iam
        iam.create_user(UserName=name, Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
        if policy:
            iam.put_user_policy(UserName=name, PolicyName="use", PolicyDocument=self.document(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        self.write(
            self.profiles, name, aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"]
        )

    def key(self, description):
        made = self.kms.create_key(Description=description, Policy=self.document("key-policy.json"))["KeyMetadata"]
        self.kms.create_alias(AliasName=self.alias, TargetKeyId=made["KeyId"])
        return made["Arn"]

    def client(self, who, service="kms"):
        """A client of one of the example's people, for what no example's program does."""
        self.service.people[who] = Person(who, self.profiles, who)
        return self.service.client(who, service)

    def environment(self, who, **more):
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        kept |= {"AWS_ENDPOINT_URL": self.service.endpoint, "AWS_DEFAULT_REGION": REGION, "AWS_PROFILE": who}
        kept |= {"AWS_SHARED_CREDENTIALS_FILE": str(self.profiles), "AWS_CONFIG_FILE": str(self.config)}
        kept |= {"AWS_MAX_ATTEMPTS": "1", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        return kept | more

    def program(self, who, *arguments, text="", **more):
        command = [sys.executable, str(self.case / "run.py"), *arguments]
        options = {"cwd": self.folder, "env": self.environment(who, **more), "timeout": 60}
        return subprocess.run(command, input=text, capture_output=True, text=True, **options)

    def works(self, *arguments, **options):
        done = self.program(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, code, *arguments, **options):
        """A refusal is one line that names AWS's code, and no data."""
        done = self.program(*arguments, **options)
        assert done.returncode == 1 and done.stdout == "", done.stdout + done.stderr
        assert code in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr

    def store(self, name):
        """examples/service as one of the cloud's services."""
        folder = self.folder / name
        folder.mkdir()
        command = [sys.executable, str(EXAMPLES / "service" / "service.py"), name, str(folder), self.alias]
        environment = self.environment(name)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.stores.append(process)
        return folder, process.stdout.readline().strip()

    def evidence(self):
        """The rows of the example's SQL over the log of the stopped service."""
        self.service.stop()
        done = self.service.verify()
        assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr
        return self.service.sql(self.document("evidence.sql"))

    def close(self):
        for process in self.stores:
            process.terminate()
            process.wait()
            process.stdout.close()
