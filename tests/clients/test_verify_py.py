"""The parts of the verifier in Python, against the numbers in docs/chain.md and against a library that is not ours."""

import ast
import base64
import re
import secrets
import sys

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import packs
from packs import Signer, sha256, verify
from past import Tree
from service import ROOT
from test_evidence import consistency

VECTORS = dict(
    line.split(" = ", 1) for line in (ROOT / "docs/chain.md").read_text().split("```vectors\n")[1].split("```")[0].splitlines()
)


def test_it_is_one_small_file_for_old_pythons():
    text = packs.VERIFIER.read_text()
    tree = ast.parse(text, feature_version=(3, 9))
    imported = set(re.findall(r"[a-z0-9]+", re.search(r"^import (.*)$", text, re.MULTILINE)[1]))
    assert imported <= set(sys.stdlib_module_names) and text.count("\nimport ") == 1 and "\nfrom " not in text
    described = set()
    for part in ast.walk(tree):
        if isinstance(part, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(part):
            described |= set(range(part.body[0].lineno, part.body[0].end_lineno + 1))
    code = [
        line for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and number not in described
    ]
    assert len(code) < 400


def test_links_leaves_roots_and_notes_are_those_of_the_page():
    leaves = [bytes.fromhex(VECTORS[f"leaf {seq}"]) for seq in range(3)]
    for seq, leaf in enumerate(leaves):
        assert packs.link(leaf).hex() == VECTORS[f"link {seq}"]
        assert sha256(b"\0", leaf).hex() == VECTORS[f"leaf hash {seq}"]
    hashes_ = [sha256(b"\0", leaf) for leaf in leaves]
    for size in (1, 2, 3):
        root = verify.range_root(0, size, 0, size - 1, iter([]), iter(hashes_[:size]))
        assert root.hex() == VECTORS[f"root at size {size}"]
    key = verify.Key(VECTORS["vkey"], 1)
    note = base64.b64decode(VECTORS["checkpoint in base64"]).decode()
    assert verify.checkpoint(note, key) == (3, bytes.fromhex(VECTORS["root at size 3"]))
    with pytest.raises(verify.Failed):
        verify.checkpoint(note.replace("\n3\n", "\n4\n"), key)


def test_proofs_hold_for_every_small_tree_and_for_no_other_leaf():
    tree = Tree()
    for size in range(1, 34):
        tree.leaves.append(sha256(bytes([size])))
        root = tree.root()
        for seq in range(size):
            log = packs.Log("o", [packs.Record(1, 0, b"")] * size)
            nodes = {}

            def fill(lo, hi):
                if hi == lo + 1:
                    nodes[lo, hi] = tree.leaves[lo]
                else:
                    middle = lo + packs.half(hi - lo)
                    nodes[lo, hi] = sha256(b"\1", fill(lo, middle), fill(middle, hi))
                return nodes[lo, hi]

            fill(0, size)
            proof = iter(log.path(nodes, seq))
            assert verify.path_root(seq, size, tree.leaves[seq], proof) == root and not list(proof)
            assert verify.path_root(seq, size, sha256(b"x"), iter(log.path(nodes, seq))) != root
        for old in range(1, size + 1):
            proof = iter(consistency(old, size, tree.leaves))
            assert verify.grown(old, size, tree.root(old), proof) == (tree.root(old), root) and not list(proof)
            other = verify.grown(old, size, sha256(b"x"), iter(consistency(old, size, tree.leaves)))
            assert other != (sha256(b"x"), root)


def test_signatures_are_judged_as_by_a_library():
    for number in range(20):
        key, message = Ed25519PrivateKey.generate(), secrets.token_bytes(number * 7)
        public, signature = key.public_key().public_bytes_raw(), key.sign(message)
        assert verify.ed25519(public, message, signature)
        for changed in (bytes([signature[0] ^ 1]) + signature[1:], signature[:-1] + bytes([signature[-1] ^ 32]), signature[:63], b""):
            assert not verify.ed25519(public, message, changed)
        assert not verify.ed25519(public, message + b"x", signature)
        # The same signature with another S modulo the order.
        s = int.from_bytes(signature[32:], "little") + verify.L
        assert not verify.ed25519(public, message, signature[:32] + s.to_bytes(32, "little"))
    for bits in (2048, 3072):
        key = rsa.generate_private_key(65537, bits)
        der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
        public, signature = base64.b64encode(der).decode(), key.sign(b"text", padding.PKCS1v15(), hashes.SHA256())
        assert verify.rsa(public, b"text", signature)
        assert not verify.rsa(public, b"other", signature)
        assert not verify.rsa(public, b"text", bytes(len(signature)))
    with pytest.raises(verify.Failed):
        verify.rsa(base64.b64encode(der[:-1] + b"\3").decode(), b"text", signature)


def test_policies_are_read_strictly():
    keys = [Signer(f"w{number}", bytes([number]) * 32, 4).vkey for number in range(3)]
    lines = "".join(f"witness w{number} {key} http://w.example/\n" for number, key in enumerate(keys))
    for rest in ("quorum none", "quorum w0", "group g any w0 w1\nquorum g", "group g all w0 w1\ngroup h 1 g w2\nquorum h"):
        verify.policy(f"# a comment\n\n{lines}{rest}\n")
    for rest in ("", "quorum x", "quorum w0\nquorum w1", "group g 3 w0 w1\nquorum g", "group g 0 w0\nquorum g", "witness w0 x\nquorum w0", "what w9\nquorum w0",
                 # Nobody is counted twice, under whatever name.
                 f"witness again {keys[0]}\nquorum w1", "group g 2 w0 w0\nquorum g", "group g any w0\ngroup h 2 g w0\nquorum h",
                 "group g any none\nquorum g"):
        with pytest.raises(Exception):
            verify.policy(lines + rest)
