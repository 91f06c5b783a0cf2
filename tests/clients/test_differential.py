"""Ten thousand random questions to the policy evaluator and to another implementation of AWS's rules.

Each difference must have one of the explanations below, and each explanation is a fact about the case, not about the
answers: what both were asked, changed in the one respect that is explained, gets one answer. differential/DIFFERENCES.md
says which side is right, and why.
"""

import collections
import copy
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "differential"
sys.path.insert(0, str(FOLDER))
import cases  # noqa: E402
from workplace import need  # noqa: E402

CASES = 10_000
CACHE = Path(os.environ.get("KEYTRAIL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keytrail")
# From the table in AWS's "Allowing users in other accounts to use a KMS key"; the others here work in one account only.
ACROSS_ACCOUNTS = {"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:DescribeKey", "kms:CreateGrant"}
ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def ask(command, questions):
    text = "".join(json.dumps(question) + "\n" for question in questions)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=600)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [question["id"] for question in questions]
    return answers


def simulated(questions):
    """The simulator's answers. Two things it does not do are asked for in other words that mean the same: it drops
    kms:EncryptionContext:<name>, and it takes 0.0.0.0/0 for an empty block."""
    texts = [json.dumps(question) for question in questions]
    for old, new in [("kms:EncryptionContext:", "aws:PrincipalTag/context-"), ('"0.0.0.0/0"', '"0.0.0.0/1", "128.0.0.0/1"')]:
        texts = [text.replace(old, new) for text in texts]
    answers = ask(["node", FOLDER / "simulate.mjs", CACHE / "iam-simulate"], [json.loads(text) for text in texts])
    for answer in answers:
        assert "error" not in answer and not answer["ignored"], answer
    return [answer["result"] == "Allowed" for answer in answers]


def judged(questions):
    judge = Path(os.environ["KEYTRAIL_BIN"]).parent / "examples" / "judge"
    answers = ask([judge], questions)
    assert not [answer for answer in answers if "refused" in answer]
    return answers


def statements(question):
    for policy in [question["keyPolicy"], *question["identity"], question.get("boundary"), question.get("session")]:
        yield from policy["Statement"] if policy else []


def root_without_policies(question, ours):
    """An account's root user needs no identity policy."""
    if not question["kind"].endswith("root") or not ours["allowed"]:
        return None
    question["identity"].append(ALL)
    return question


def one_account_only(question, ours):
    """PutKeyPolicy, ScheduleKeyDeletion and TagResource do not reach into another account."""
    if ours["reason"] != "NotAcrossAccounts" or question["action"] in ACROSS_ACCOUNTS:
        return None
    return question | {"keyPolicy": {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*"}]}}


def everyone_is_shared(question, ours):
    """What everyone may do is limited by the caller's boundary, here."""
    named = [statement for statement in question["keyPolicy"]["Statement"] if statement.get("Principal") in ("*", {"AWS": "*"})]
    if ours["reason"] != "BoundarySilent" or not named:
        return None
    role = question["caller"].get("roleArn")
    for statement in named:
        if statement["Effect"] == "Allow":
            # A role's ARN is what both sides take as limited by the boundary; for a user its account with an identity policy.
            statement["Principal"] = {"AWS": role or f"arn:aws:iam::{question['caller']['account']}:root"}
    return question | {"identity": question["identity"] + ([] if role else [ALL])}


def session_named_itself(question, ours):
    """A session that the key policy names by its own ARN is not limited by its session policy."""
    statement = ours["decidedBy"].removeprefix("KeyPolicy/")
    named = [one for one in question["keyPolicy"]["Statement"] if one["Sid"] == statement]
    if "session" not in question or not ours["allowed"] or not named or named[0].get("Principal") != {"AWS": question["caller"]["arn"]}:
        return None
    del question["session"]
    return question


def exceptions_need_all(question, ours):
    """NotPrincipal spares whom it names together with its account and role, and nobody who has a boundary."""
    changed = False
    caller = question["caller"]
    needed = {caller["arn"], f"arn:aws:iam::{caller['account']}:root"} | ({caller["roleArn"]} if "roleArn" in caller else set())
    for statement in question["keyPolicy"]["Statement"]:
        names = set(statement.get("NotPrincipal", {}).get("AWS", []))
        if names and (question.get("boundary") or not needed <= names):
            del statement["NotPrincipal"]
            statement["Principal"] = "*"
            changed = True
    return question if changed else None


def variable_too_early(question, ours):
    """A variable before the fifth colon of a resource: AWS replaces none there, here a Deny with one applies."""
    changed = False
    for statement in statements(question):
        for name in ("Resource", "NotResource"):
            if statement.get(name) == "arn:aws:kms:*:${aws:PrincipalAccount}:key/*":
                del statement[name]
                statement["Resource"] = "*" if statement["Effect"] == "Deny" else "arn:aws:kms:::nothing"
                changed = True
    return question if changed else None


def absent_counts_as_held(question, ours):
    """ForAnyValue with IfExists holds when the key is absent."""
    changed = False
    for statement in statements(question):
        for operator, keys in statement.get("Condition", {}).items():
            if operator.startswith("ForAnyValue:") and operator.endswith("IfExists"):
                absent = [key for key in keys if key not in question["context"]]
                changed |= bool(absent)
                for key in absent:
                    del keys[key]
    return without_empty(question) if changed else None


def families_never_match(question, ours):
    """An address of one family is in no block of the other, so that NotIpAddress holds."""
    changed = False
    six = ":" in question["context"]["aws:SourceIp"]
    for statement in statements(question):
        for operator, keys in statement.get("Condition", {}).items():
            if operator.startswith("NotIpAddress"):
                blocks = [block for block in keys["aws:SourceIp"] if (":" in block) == six]
                changed |= blocks != keys["aws:SourceIp"]
                keys["aws:SourceIp"] = blocks
                if not blocks:
                    del keys["aws:SourceIp"]
    return without_empty(question) if changed else None


def without_empty(question):
    for statement in statements(question):
        if "Condition" in statement:
            statement["Condition"] = {operator: keys for operator, keys in statement["Condition"].items() if keys}
            if not statement["Condition"]:
                del statement["Condition"]
    return question


EXPLANATIONS = [
    root_without_policies,
    one_account_only,
    everyone_is_shared,
    session_named_itself,
    exceptions_need_all,
    variable_too_early,
    absent_counts_as_held,
    families_never_match,
]


def test_both_evaluators_agree_but_for_what_is_explained():
    need("node")
    questions = [cases.case(seed) for seed in range(CASES)]
    ours, theirs = judged(questions), simulated(questions)
    allowed = sum(answer["allowed"] for answer in ours)
    assert allowed > CASES / 20, "cases that nothing allows would prove little"
    open_ones = [index for index in range(CASES) if ours[index]["allowed"] != theirs[index]]
    found = collections.Counter()
    # What is left when each was tried alone may have two of them at once.
    for explains in [*((one,) for one in EXPLANATIONS), *itertools.combinations(EXPLANATIONS, 2)]:
        changed = []
        for index in open_ones:
            question = copy.deepcopy(questions[index])
            for explain in explains:
                question = question and explain(question, ours[index])
            if question:
                changed.append((index, question))
        if changed:
            again = simulated([question for _, question in changed])
            explained = {index for (index, _), answer in zip(changed, again) if answer == ours[index]["allowed"]}
            found.update({explain.__name__: len(explained) for explain in explains})
            open_ones = [index for index in open_ones if index not in explained]
    print(f"{CASES} cases, {allowed} allowed; differences explained: {dict(found)}")
    unexplained = [json.dumps({"case": questions[index], "ours": ours[index], "theirs": theirs[index]}) for index in open_ones[:5]]
    assert not open_ones, f"{len(open_ones)} unexplained: " + "\n".join(unexplained)
    assert all(found[explain.__name__] for explain in EXPLANATIONS), "an explanation that explains nothing is to be deleted"
