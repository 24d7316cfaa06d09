"""A small OpenID Connect provider on a port of its own: it keeps the rules of the code flow, and signs."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID, CLIENT_SECRET = "gpufleet-console", "a secret of the client"
KEY, OTHER_KEY = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))


class Provider:
    """Who logs in next (``claims``), and what is wrong with the answer (``wrong``: claims put in place of the right
    ones; ``key``: another key)."""

    def __init__(self, port: int) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        self.claims: dict[str, Any] = {"sub": "u-1", "preferred_username": "ada", "groups": ["gpu-ops"]}
        self.more: dict[str, Any] = {}
        self.wrong: dict[str, Any] = {}
        self.key: Any = KEY
        self.algorithm = "RS256"
        self.asked: dict[str, dict[str, str]] = {}
        self.refusals: list[str] = []

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/me",
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        }

    def keys(self) -> dict[str, Any]:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
        return {"keys": [{**public, "kid": "1", "alg": "RS256", "use": "sig"}]}

    def authorize(self, query: dict[str, str]) -> str:
        """The person agrees at once: where they are sent."""
        code = f"code-{len(self.asked)}"
        self.asked[code] = query
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: dict[str, str], basic: str) -> dict[str, Any] | None:
        """The tokens of a code, once, to the client that it was given to and that proves it."""
        asked = self.asked.pop(form.get("code", ""), None)
        proof = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest()).rstrip(b"=")
        user, _, secret = base64.b64decode(basic.removeprefix("Basic ")).decode().partition(":")
        right = (
            asked is not None
            and (unquote(user), unquote(secret)) == (CLIENT_ID, CLIENT_SECRET)
            and form.get("redirect_uri") == asked["redirect_uri"]
            and asked["code_challenge_method"] == "S256"
            and proof.decode() == asked["code_challenge"]
        )
        if not right or asked is None:
            self.refusals.append("token")
            return None
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        claims = {**claims, **self.claims, **self.wrong}
        claims = {name: claim for name, claim in claims.items() if claim is not None}
        signed = jwt.encode(claims, self.key, algorithm=self.algorithm, headers={"kid": "1"})
        return {"access_token": "an access token", "token_type": "Bearer", "id_token": signed}


@contextmanager
def provider() -> Iterator[Provider]:
    """It listens as long as it is looked at."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.path == "/authorize":
                self.send_response(302)
                self.send_header("Location", served.authorize(dict(parse_qsl(address.query))))
                self.end_headers()
                return None
            pages = {"/.well-known/openid-configuration": served.discovery, "/keys": served.keys}
            if address.path == "/me":
                right = self.headers["Authorization"] == "Bearer an access token"
                return self.answer({**served.claims, **served.more} if right else None)
            return self.answer(pages[address.path]() if address.path in pages else None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self.answer(served.token(form, self.headers.get("Authorization", "")))

        def answer(self, body: Any) -> None:
            content = json.dumps(body if body is not None else {"error": "invalid_grant"}).encode()
            self.send_response(200 if body is not None else 400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            """Into no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Provider(server.server_port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
