"""Random questions for two policy evaluators: a caller, a call, and the policies between them.

A case is a function of its seed. `facts` is what `crates/kms/examples/judge.rs` reads, `context` the same facts under the
names of condition keys, as the simulator takes them.
"""

import random

ACCOUNT, OTHER = "111122223333", "444455556666"
KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NOW = 1_767_614_400  # 2026-01-05T12:00:00Z
ACTIONS = {
    "kms:Decrypt": "crypto",
    "kms:Encrypt": "crypto",
    "kms:GenerateDataKey": "crypto",
    "kms:DescribeKey": "read",
    "kms:PutKeyPolicy": "admin",
    "kms:ScheduleKeyDeletion": "deletion",
    "kms:CreateGrant": "grant",
    "kms:TagResource": "tags",
}
KINDS = ["user", "session", "root", "other-user", "other-session", "other-root"]


def case(seed):
    rng = random.Random(seed)
    action = rng.choice(list(ACTIONS))
    kind = rng.choices(KINDS, weights=[6, 5, 1, 3, 3, 1])[0]
    caller = make_caller(rng, kind)
    facts = make_facts(rng, ACTIONS[action], caller)
    policies = Policies(rng, action, caller)
    one = {
        "id": seed,
        "kind": kind,
        "caller": caller,
        "action": action,
        "resource": KEY,
        "keyAccount": ACCOUNT,
        "facts": facts,
        "context": context_keys(caller, facts),
        "keyPolicy": policies.document(named=True),
        "identity": [policies.document() for _ in range(rng.choice([0, 1, 1, 2]))],
    }
    if not kind.endswith("root") and rng.random() < 0.35:
        one["boundary"] = policies.document()
    if kind.endswith("session") and rng.random() < 0.4:
        one["session"] = policies.document()
    return one


def make_caller(rng, kind):
    account = OTHER if kind.startswith("other") else ACCOUNT
    name = rng.choice(["alice", "bob"])
    tags = {"team": rng.choice(["red", "blue"])} if rng.random() < 0.7 else {}
    if rng.random() < 0.3:
        tags["shard"] = rng.choice(["1234", "9", "*"])
    caller = {"account": account, "tags": tags}
    if kind.endswith("root"):
        return caller | {"kind": "Root", "arn": f"arn:aws:iam::{account}:root", "userId": account, "tags": {}}
    if kind.endswith("session"):
        role = f"arn:aws:iam::{account}:role/reader"
        issued = {"issuedAt": NOW - rng.choice([60, 7200])}
        mfa = rng.choice([{}, {"mfa": False}, {"mfa": NOW - 600}])
        arn = f"arn:aws:sts::{account}:assumed-role/reader/{name}"
        return caller | issued | mfa | {"kind": "Session", "arn": arn, "roleArn": role, "userId": f"AROAREADERREADER:{name}"}
    return caller | {"kind": "User", "arn": f"arn:aws:iam::{account}:user/{name}", "userId": f"AIDA{name.upper():X<16}", "userName": name}


def make_facts(rng, group, caller):
    facts = {
        "sourceIp": rng.choice(["203.0.113.7", "10.1.2.3", "2001:db8::7"]),
        "secureTransport": rng.random() < 0.7,
        "userAgent": rng.choice(["aws-cli/2", "Boto3/1"]),
        "keySpec": "SYMMETRIC_DEFAULT",
        "keyUsage": "ENCRYPT_DECRYPT",
        "keyTags": rng.choice([{}, {"team": "red"}, {"team": "blue"}]),
        "aliases": rng.choice([[], ["alias/orders"], ["alias/orders", "alias/pay"]]),
    }
    if group in ("crypto", "read") and rng.random() < 0.5:
        facts["requestAlias"] = rng.choice(["alias/orders", "alias/pay"])
    if rng.random() < 0.25:
        facts["viaService"] = rng.choice(["ec2.eu-central-1.amazonaws.com", "s3.eu-central-1.amazonaws.com"])
    if group == "crypto":
        facts["encryptionAlgorithm"] = "SYMMETRIC_DEFAULT"
        pairs = rng.choice([None, {"tenant": "7"}, {"tenant": "8", "app": "web"}, {"app": "web"}])
        if pairs:
            facts["encryptionContext"] = pairs
    if group == "deletion":
        facts["pendingWindowDays"] = rng.choice([7, 14, 30])
    if group == "admin":
        facts["bypassLockout"] = rng.random() < 0.5
    if group == "tags":
        facts["requestTags"] = rng.choice([{"team": "red"}, {"team": "blue", "cost": "1"}, {"cost": "1"}])
    if group == "grant":
        facts["grant"] = {
            "grantee": rng.choice([f"arn:aws:iam::{ACCOUNT}:user/bob", f"arn:aws:iam::{OTHER}:role/reader"]),
            "operations": rng.choice([["Decrypt"], ["Decrypt", "Encrypt"], ["Encrypt", "CreateGrant"]]),
        }
        if rng.random() < 0.5:
            facts["grant"]["retiring"] = f"arn:aws:iam::{ACCOUNT}:user/alice"
        if rng.random() < 0.5:
            facts["grant"]["subset"] = {"tenant": "7"}
            facts["encryptionContext"] = {"tenant": "7"}
    return facts


def iso(secs):
    from datetime import datetime, timezone

    return datetime.fromtimestamp(secs, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def context_keys(caller, facts):
    word = lambda truth: "true" if truth else "false"
    kind = {"User": "User", "Root": "Account", "Session": "AssumedRole"}[caller["kind"]]
    context = {
        "aws:CurrentTime": iso(NOW),
        "aws:EpochTime": str(NOW),
        "aws:PrincipalArn": caller.get("roleArn", caller["arn"]),
        "aws:PrincipalAccount": caller["account"],
        "aws:PrincipalType": kind,
        "aws:userid": caller["userId"],
        "aws:SourceIp": facts["sourceIp"],
        "aws:SecureTransport": word(facts["secureTransport"]),
        "aws:UserAgent": facts["userAgent"],
        "aws:RequestedRegion": "eu-central-1",
        "aws:ViaAWSService": word("viaService" in facts),
        "aws:PrincipalIsAWSService": "false",
        "kms:CallerAccount": caller["account"],
        "kms:KeySpec": facts["keySpec"],
        "kms:KeyUsage": facts["keyUsage"],
        "kms:KeyOrigin": "AWS_KMS",
        "kms:MultiRegion": "false",
    }
    maybe = {
        "aws:username": caller.get("userName"),
        "aws:TokenIssueTime": iso(caller["issuedAt"]) if "issuedAt" in caller else None,
        "kms:ResourceAliases": facts["aliases"] or None,
        "kms:RequestAlias": facts.get("requestAlias"),
        "kms:ViaService": facts.get("viaService"),
        "kms:EncryptionAlgorithm": facts.get("encryptionAlgorithm"),
        "kms:EncryptionContextKeys": list(facts.get("encryptionContext", {})) or None,
        "kms:ScheduleKeyDeletionPendingWindowInDays": str(facts["pendingWindowDays"]) if "pendingWindowDays" in facts else None,
        "kms:BypassPolicyLockoutSafetyCheck": word(facts["bypassLockout"]) if "bypassLockout" in facts else None,
        "aws:TagKeys": list(facts.get("requestTags", {})) or None,
    }
    if "mfa" in caller:
        maybe["aws:MultiFactorAuthPresent"] = word(caller["mfa"])
        maybe["aws:MultiFactorAuthAge"] = str(NOW - caller["mfa"]) if caller["mfa"] else None
    if "grant" in facts:
        grant = facts["grant"]
        maybe["kms:GranteePrincipal"] = grant["grantee"]
        maybe["kms:RetiringPrincipal"] = grant.get("retiring")
        maybe["kms:GrantOperations"] = grant["operations"]
        maybe["kms:GrantConstraintType"] = "EncryptionContextSubset" if "subset" in grant else None
        maybe["kms:GrantIsForAWSResource"] = word("viaService" in facts)
    for head, pairs in [
        ("aws:PrincipalTag/", caller["tags"]),
        ("aws:ResourceTag/", facts["keyTags"]),
        ("aws:RequestTag/", facts.get("requestTags", {})),
        ("kms:EncryptionContext:", facts.get("encryptionContext", {})),
    ]:
        maybe |= {head + name: value for name, value in pairs.items()}
    return context | {name: value for name, value in maybe.items() if value is not None}


TEXTS = {
    "aws:PrincipalType": ["User", "AssumedRole", "Account"],
    "aws:PrincipalAccount": [ACCOUNT, OTHER],
    "aws:userid": ["AIDAALICEXXXXXXXXXXX", "AROAREADERREADER:alice", "AROA*"],
    "aws:username": ["alice", "bob", "al*"],
    "aws:UserAgent": ["aws-cli/2", "aws*"],
    "aws:RequestedRegion": ["eu-central-1", "us-*"],
    "aws:PrincipalTag/team": ["red", "blue", "${aws:ResourceTag/team}"],
    "aws:ResourceTag/team": ["red", "${aws:PrincipalTag/team}", "${aws:PrincipalTag/team, 'blue'}"],
    "aws:RequestTag/team": ["red", "blue"],
    "kms:CallerAccount": [ACCOUNT, OTHER],
    "kms:KeySpec": ["SYMMETRIC_DEFAULT", "RSA_2048"],
    "kms:KeyUsage": ["ENCRYPT_DECRYPT", "SIGN_VERIFY"],
    "kms:KeyOrigin": ["AWS_KMS", "EXTERNAL"],
    "kms:RequestAlias": ["alias/orders", "alias/*"],
    "kms:ViaService": ["ec2.eu-central-1.amazonaws.com", "*.eu-central-1.amazonaws.com"],
    "kms:EncryptionAlgorithm": ["SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1"],
    "kms:EncryptionContext:tenant": ["7", "8", "?"],
    "kms:EncryptionContext:app": ["web", "w*"],
    "kms:GrantConstraintType": ["EncryptionContextSubset", "EncryptionContextEquals"],
}
SETS = {
    "kms:EncryptionContextKeys": ["tenant", "app"],
    "kms:ResourceAliases": ["alias/orders", "alias/pay", "alias/o*"],
    "kms:GrantOperations": ["Decrypt", "Encrypt", "CreateGrant"],
    "aws:TagKeys": ["team", "cost"],
}
ARNS = {
    "aws:PrincipalArn": [f"arn:aws:iam::{ACCOUNT}:user/alice", f"arn:aws:iam::{ACCOUNT}:role/*", "arn:aws:iam::*:user/b?b", f"arn:aws:iam::{OTHER}:role/reader"],
    "kms:GranteePrincipal": [f"arn:aws:iam::{ACCOUNT}:user/*", f"arn:aws:iam::{OTHER}:role/reader"],
    "kms:RetiringPrincipal": [f"arn:aws:iam::{ACCOUNT}:user/alice"],
}
NUMBERS = {"kms:ScheduleKeyDeletionPendingWindowInDays": ["7", "14", "29"], "aws:MultiFactorAuthAge": ["300", "600", "3600"], "aws:EpochTime": [str(NOW), str(NOW + 60)]}
DATES = {"aws:CurrentTime": ["2026-01-05T12:00:00Z", "2026-06-01T00:00:00Z", "2025-01-01T00:00:00Z"], "aws:TokenIssueTime": ["2026-01-05T11:30:00Z"]}
BOOLS = ["aws:SecureTransport", "aws:MultiFactorAuthPresent", "aws:ViaAWSService", "kms:MultiRegion", "kms:BypassPolicyLockoutSafetyCheck", "kms:GrantIsForAWSResource"]
BLOCKS = ["203.0.113.0/24", "10.0.0.0/8", "2001:db8::/32", "203.0.113.7", "0.0.0.0/0"]
ORDERS = ["Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals"]


class Policies:
    def __init__(self, rng, action, caller):
        self.rng, self.action, self.caller = rng, action, caller

    def document(self, named=False):
        statements = [self.statement(named, str(index)) for index in range(self.rng.choice([1, 1, 2, 3]))]
        return {"Version": "2012-10-17", "Statement": statements}

    def statement(self, named, sid):
        rng = self.rng
        effect = "Deny" if rng.random() < 0.2 else "Allow"
        statement = {"Sid": f"S{sid}", "Effect": effect}
        if named:
            statement |= self.principal(effect)
        patterns = ["kms:*", "*", self.action, self.action[:8] + "*", "kms:Decrypt", "kms:?ncrypt", "kms:Create*", "s3:GetObject"]
        names = rng.sample(patterns, rng.choice([1, 1, 2]))
        if rng.random() < 0.12:
            statement["NotAction"] = rng.choice([["s3:*"], ["kms:PutKeyPolicy"], [self.action], ["kms:Decrypt", "kms:Tag*"]])
        else:
            statement["Action"] = names if len(names) > 1 else names[0]
        if rng.random() < 0.1:
            statement["NotResource"] = rng.choice([KEY, f"arn:aws:kms:*:{OTHER}:key/*", f"arn:aws:kms:*:{ACCOUNT}:alias/*"])
        else:
            statement["Resource"] = rng.choices(
                ["*", KEY, f"arn:aws:kms:*:{ACCOUNT}:key/*", f"arn:aws:kms:eu-*:{ACCOUNT}:key/1234*", "arn:aws:kms:us-east-1:*:key/*", f"arn:aws:kms:*:{ACCOUNT}:key/${{aws:PrincipalTag/shard, '1234'}}*", "arn:aws:kms:*:${aws:PrincipalAccount}:key/*"],
                weights=[12, 6, 4, 2, 1, 3, 1],
            )[0]
        count = rng.choices([0, 1, 2], weights=[6, 3, 1])[0]
        if count:
            statement["Condition"] = {}
            for _ in range(count):
                operator, key, values = self.condition()
                statement["Condition"].setdefault(operator, {})[key] = values
        return statement

    def principal(self, effect):
        rng, caller = self.rng, self.caller
        arn, account = caller["arn"], caller["account"]
        root = f"arn:aws:iam::{account}:root"
        role = caller.get("roleArn", f"arn:aws:iam::{account}:role/reader")
        strangers = [f"arn:aws:iam::{ACCOUNT}:user/carol", f"arn:aws:iam::{OTHER}:root"]
        if effect == "Deny" and rng.random() < 0.25:
            lists = [[arn, root], [arn, role, root], [root], [arn], strangers, [role, root]]
            return {"NotPrincipal": {"AWS": rng.choice(lists)}}
        choices = [{"AWS": root}, {"AWS": arn}, {"AWS": role}, {"AWS": account}, "*", {"AWS": "*"}, {"AWS": strangers}, {"AWS": [strangers[0], root]}]
        return {"Principal": rng.choices(choices, weights=[6, 4, 3, 1, 2, 1, 2, 1])[0]}

    def condition(self):
        rng = self.rng
        family = rng.choices(["text", "set", "arn", "number", "date", "bool", "address", "null", "binary"], weights=[8, 4, 3, 2, 2, 3, 2, 2, 1])[0]
        some = lambda values: rng.sample(values, rng.randint(1, min(2, len(values))))
        suffix = "IfExists" if rng.random() < 0.25 else ""
        if family == "text":
            key = rng.choice(list(TEXTS))
            operator = rng.choice(["StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase"])
            values = some(TEXTS[key])
            if operator.endswith("IgnoreCase"):
                values = [value.upper() for value in values if "$" not in value] or ["RED"]
            return operator + suffix, key, values
        if family == "set":
            key = rng.choice(list(SETS))
            operator = rng.choice(["StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase"])
            return rng.choice(["ForAllValues:", "ForAnyValue:"]) + operator + suffix, key, some(SETS[key])
        if family == "arn":
            key = rng.choice(list(ARNS))
            operator = rng.choice(["ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike", "StringLike", "StringEquals"])
            return operator + suffix, key, some(ARNS[key])
        if family == "number":
            key = rng.choice(list(NUMBERS))
            return "Numeric" + rng.choice(ORDERS) + suffix, key, rng.choice(NUMBERS[key])
        if family == "date":
            key = rng.choice(list(DATES))
            return "Date" + rng.choice(ORDERS) + suffix, key, rng.choice(DATES[key])
        if family == "bool":
            return "Bool" + suffix, rng.choice(BOOLS), rng.choice(["true", "false"])
        if family == "address":
            return rng.choice(["IpAddress", "NotIpAddress"]) + suffix, "aws:SourceIp", some(BLOCKS)
        if family == "binary":
            return "BinaryEquals" + suffix, "kms:EncryptionContext:app", rng.choice(["d2Vi", "YWJj"])
        keys = ["kms:ViaService", "kms:RequestAlias", "aws:MultiFactorAuthPresent", "kms:EncryptionContext:tenant", "kms:GrantOperations", "aws:PrincipalTag/team", "aws:username"]
        return "Null", rng.choice(keys), rng.choice(["true", "false"])
