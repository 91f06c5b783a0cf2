"""AssumeRoleWithWebIdentity as boto3 uses it: an identity provider on this machine, its tokens made by PyJWT, and the SDK's own provider
that reads a token from a file."""

import http.server
import json
import os
import threading
import time

import boto3
import botocore.config
import jwt
import pytest
from botocore import UNSIGNED
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service import ACCOUNT, REGION, Service

SUBJECT = "system:serviceaccount:orders:app"
CLIENT = "sts.amazonaws.com"


class Issuer:
    """An OpenID Connect issuer: discovery document, key set, tokens."""

    def __init__(self):
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        issuer = self

        class Pages(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                page = {"/.well-known/openid-configuration": issuer.discovery, "/keys": issuer.keys}.get(self.path)
                body = json.dumps(page() if page else {}).encode()
                self.send_response(200 if page else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.name = self.url.removeprefix("http://")
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def discovery(self):
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}

    def keys(self):
        def published(algorithm, key, kid):
            return json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"}

        return {
            "keys": [
                published(jwt.algorithms.RSAAlgorithm, self.rsa, "rsa"),
                published(jwt.algorithms.ECAlgorithm, self.ec, "ec"),
            ]
        }

    def token(self, algorithm="RS256", **claims):
        now = int(time.time())
        claims = {"iss": self.url, "sub": SUBJECT, "aud": CLIENT, "iat": now, "exp": now + 600} | claims
        key, kid = (self.rsa, "rsa") if algorithm == "RS256" else (self.ec, "ec")
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def issuer():
    issuer = Issuer()
    yield issuer
    issuer.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory, issuer):
    with Service(tmp_path_factory.mktemp("web-identity") / "data").init() as service:
        iam = service.client(service="iam")
        provider = iam.create_open_id_connect_provider(Url=issuer.url, ClientIDList=[CLIENT])["OpenIDConnectProviderArn"]
        assert provider == f"arn:aws:iam::{ACCOUNT}:oidc-provider/{issuer.name}"
        trust = {
            "Effect": "Allow",
            "Principal": {"Federated": provider},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {"StringEquals": {f"{issuer.name}:aud": CLIENT, f"{issuer.name}:sub": SUBJECT}},
        }
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        iam.create_role(RoleName="orders", AssumeRolePolicyDocument=document)
        statement = {"Effect": "Allow", "Action": "kms:GenerateRandom", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_role_policy(RoleName="orders", PolicyName="random", PolicyDocument=policy)
        yield service
    done = service.verify()
    assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr


ROLE = {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/orders", "RoleSessionName": "app1"}


def stranger(service):
    """An STS client without any credentials."""
    config = botocore.config.Config(signature_version=UNSIGNED, retries={"max_attempts": 0})
    return boto3.client("sts", region_name=REGION, endpoint_url=service.endpoint, config=config)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_token_is_traded_for_a_session(service, issuer, algorithm):
    answer = stranger(service).assume_role_with_web_identity(**ROLE, WebIdentityToken=issuer.token(algorithm))
    assert answer["SubjectFromWebIdentityToken"] == SUBJECT and answer["Audience"] == CLIENT
    assert answer["Provider"].endswith(f":oidc-provider/{issuer.name}")
    keys = answer["Credentials"]
    kms = boto3.client(
        "kms",
        region_name=REGION,
        endpoint_url=service.endpoint,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    assert len(kms.generate_random(NumberOfBytes=16)["Plaintext"]) == 16
    with pytest.raises(ClientError, match=r"\(AccessDeniedException\)"):
        kms.create_key()


def test_what_is_wrong_has_awss_exception(service, issuer):
    sts = stranger(service)
    assume = sts.assume_role_with_web_identity
    forged = Issuer()
    forged.stop()
    now = int(time.time())
    for token, exception in [
        (issuer.token(exp=now - 1), sts.exceptions.ExpiredTokenException),
        (issuer.token(aud="elsewhere"), sts.exceptions.InvalidIdentityTokenException),
        (issuer.token(nbf=now + 3600), sts.exceptions.IDPRejectedClaimException),
        (forged.token(iss=issuer.url), sts.exceptions.InvalidIdentityTokenException),
    ]:
        with pytest.raises(exception):
            assume(**ROLE, WebIdentityToken=token)
    with pytest.raises(ClientError, match=r"\(AccessDenied\).*Not authorized to perform sts:AssumeRoleWithWebIdentity"):
        assume(**ROLE, WebIdentityToken=issuer.token(sub="system:serviceaccount:other:app"))


def test_the_sdk_finds_the_token_by_itself(service, issuer, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "token"
    file.write_text(issuer.token())
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE["RoleArn"])
    monkeypatch.setenv("AWS_ROLE_SESSION_NAME", "by-itself")
    monkeypatch.setenv("AWS_ENDPOINT_URL", service.endpoint)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    session = boto3.Session(region_name=REGION)
    arn = session.client("sts").get_caller_identity()["Arn"]
    assert arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/orders/by-itself"
    assert len(session.client("kms").generate_random(NumberOfBytes=8)["Plaintext"]) == 8
