"""Where other people's clients are tried: a service over TLS or plain HTTP, a developer with a long-lived key, two roles.

A client starts as the developer and assumes a role through STS, so whatever it does to keys it does with a session token.
Programs in other languages are told all of it in environment variables, and answer in lines `name=value`.
"""

import json
import os
import pathlib
import sys

import boto3
import botocore.config
import pytest

from authority import Authority
from service import ACCOUNT, REGION, Service, run

TESTS = pathlib.Path(__file__).resolve().parent
# scripts/setup puts the clients of other languages beside the venv that runs this.
INSTALLED = pathlib.Path(sys.prefix).parent / "sdks"
NODE = ["env", f"NODE_PATH={INSTALLED}/node/node_modules", "node"]

WORK = ["Encrypt", "Decrypt", "ReEncrypt*", "GenerateDataKey*", "DescribeKey", "ListKeys", "GetKeyRotationStatus"]
WORK += ["Sign", "Verify", "GetPublicKey", "GenerateMac", "VerifyMac", "DeriveSharedSecret"]


def need(language):
    """`make test` says what could be set up; CI must have all of it."""
    if language not in os.environ.get("KEYTRAIL_TEST_SDKS", "").split():
        assert os.environ.get("CI") != "true", "CI must run the clients in every language: use make test"
        pytest.skip(f"THE CLIENTS IN {language.upper()} DID NOT RUN: scripts/setup {language} was not done")


def document(*actions, **more):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions} | more]})


class Workplace:
    def __init__(self, folder, secure):
        self.folder, self.flags = folder, []
        folder.mkdir()
        self.authority = None
        if secure:
            self.authority = Authority(folder)
            self.authority.make("server")
            self.flags = self.authority.flags("server")
        self.verify = str(self.authority.pem) if secure else None
        self.service = Service(folder / "data", *self.flags).init()
        self.roles, self.sessions = {}, {}

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.service.stop()
            raise

    def __exit__(self, *_):
        """A service that any client was at must still be provable."""
        self.service.stop()
        done = self.service.verify()
        assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr

    def start(self):
        self.service.start()
        assert self.service.endpoint.startswith("https://" if self.authority else "http://")
        iam = self.service.client(service="iam", verify=self.verify)
        iam.create_user(UserName="developer")
        iam.put_user_policy(UserName="developer", PolicyName="roles", PolicyDocument=document("sts:AssumeRole", Resource="*"))
        keys = iam.create_access_key(UserName="developer")["AccessKey"]
        self.developer = {"aws_access_key_id": keys["AccessKeyId"], "aws_secret_access_key": keys["SecretAccessKey"]}
        trust = document("sts:AssumeRole", Principal={"AWS": ACCOUNT})
        for name in ("worker", "visitor"):
            role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
            self.roles[name] = role["Role"]["Arn"]
        policy = document(*(f"kms:{name}" for name in WORK), Resource="*")
        iam.put_role_policy(RoleName="worker", PolicyName="work", PolicyDocument=policy)
        self.admin = self.service.client(verify=self.verify)
        return self

    def key(self, **kind):
        return self.admin.create_key(**kind)["KeyMetadata"]["Arn"]

    def session(self, role):
        """Credentials of a session, as boto3 takes them."""
        if role not in self.sessions:
            sts = self.boto("sts", self.developer)
            keys = sts.assume_role(RoleArn=self.roles[role], RoleSessionName="python")["Credentials"]
            self.sessions[role] = {
                "aws_access_key_id": keys["AccessKeyId"],
                "aws_secret_access_key": keys["SecretAccessKey"],
                "aws_session_token": keys["SessionToken"],
            }
        return self.sessions[role]

    def boto(self, service, credentials, **config):
        config = botocore.config.Config(**config)
        options = {"endpoint_url": self.service.endpoint, "region_name": REGION, "verify": self.verify}
        return boto3.Session().client(service, config=config, **options, **credentials)

    def kms(self, role="worker", **config):
        return self.boto("kms", self.session(role), **config)

    def environment(self, credentials=None, **more):
        """What a program in any language needs to be here, as the developer unless with other credentials."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        credentials = self.developer if credentials is None else credentials
        kept |= {name.upper(): value for name, value in credentials.items()}
        kept |= {"AWS_ENDPOINT_URL": self.service.endpoint, "AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"}
        # None of the files of whoever runs the tests.
        kept |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        kept |= {"WORKER": self.roles["worker"], "VISITOR": self.roles["visitor"]}
        if self.authority:
            # Each knows one of these.
            names = ["AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"]
            kept |= dict.fromkeys(names, self.verify)
        return kept | more

    def run(self, command, check=True, cwd=None, **environment):
        return run(*command, check=check, cwd=cwd, env=self.environment(**environment), timeout=120)

    def program(self, command, **environment):
        """The lines `name=value` that it prints."""
        return dict(line.split("=", 1) for line in self.run(command, **environment).stdout.splitlines())

    def events(self, key, columns="event_name, error_code"):
        return self.service.sql(f"SELECT {columns} FROM events WHERE key_arn = '{key}' ORDER BY seq")
