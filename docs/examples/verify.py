"""Verifies that a request comes from the edge. Needs Python 3.9 and nothing else."""

import base64
import hashlib
import hmac
import json
import re
import sys
import time

# What a signature must cover, always in this order.
COMPONENTS = [
    "@method", "@path", "@query", "x-user-id", "x-client-id", "x-user-role", "x-user-tier", "x-user-email",
    "x-user-permissions", "x-request-id",
]
# Seconds that a signature is good for, and by which our clock may be behind.
WINDOW = 60

INPUT = re.compile(
    r"edge=(\("
    + " ".join(f'"{name}"' for name in COMPONENTS)
    + r'\);created=([0-9]{1,12});nonce="([0-9a-f]{32})";keyid="([A-Za-z0-9._-]{1,64})"'
    + r';alg="hmac-sha256";tag="persona-identity")'
)
SIGNATURE = re.compile(r"edge=:([A-Za-z0-9+/]+={0,2}):")


def verify(method, target, headers, keys, now):
    """Gives the nonce of a good signature, for those who refuse one that came before; else raises ValueError.

    `target` is path and query as on the wire, `headers` a list of pairs, `keys` a dict of secrets by their ids, `now`
    in seconds since 1970.
    """

    def header(name):
        values = [value for given, value in headers if given.lower() == name]
        if len(values) != 1:
            raise ValueError(f"{name} is missing, or there twice")
        return values[0].strip()

    said = INPUT.fullmatch(header("x-identity-signature-input"))
    signature = SIGNATURE.fullmatch(header("x-identity-signature"))
    if said is None or signature is None:
        raise ValueError("another kind of signature")
    params, created, nonce, key_id = said.groups()
    if abs(now - int(created)) > WINDOW:
        raise ValueError("too old, or of the future")
    if key_id not in keys:
        raise ValueError("an unknown key")

    path, _, query = target.partition("?")
    derived = {"@method": method, "@path": path, "@query": f"?{query}"}
    lines = [f'"{name}": {derived[name] if name in derived else header(name)}\n' for name in COMPONENTS]
    base = "".join(lines) + f'"@signature-params": {params}'
    expected = hmac.new(keys[key_id].encode(), base.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(expected, base64.b64decode(signature.group(1))):
        raise ValueError("a wrong signature")
    return nonce


if __name__ == "__main__":
    # One JSON object on standard input: method, target, headers, keys, and now if it is another time.
    seen = json.load(sys.stdin)
    try:
        print(verify(seen["method"], seen["target"], seen["headers"], seen["keys"], seen.get("now", time.time())))
    except ValueError as fault:
        sys.exit(f"refused: {fault}")
