"""A client that knows the token endpoint from discovery alone, with a library of OAuth.

Usage: oauth_client.py BASE ID SECRET. Prints one JSON object for each step.
"""

import json
import sys

import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.jose import JsonWebKey, jwt

base, client, secret = sys.argv[1:]


def show(value):
    print(json.dumps(value), flush=True)


discovery = f"{base}/realms/dodil/.well-known/openid-configuration"
found = requests.get(discovery, timeout=30).json()
show({"issuer": found["issuer"]})
keys = JsonWebKey.import_key_set(requests.get(found["jwks_uri"], timeout=30).json())
for method in ("client_secret_basic", "client_secret_post"):
    session = OAuth2Session(client, secret, token_endpoint_auth_method=method)
    token = session.fetch_token(
        found["token_endpoint"], grant_type="client_credentials", scope="ListApps"
    )
    claims = jwt.decode(token["access_token"], keys)
    claims.validate()
    apps = session.get(f"{base}/v1/ignite/app/acme", timeout=30)
    show({"scope": token["scope"], "client": claims["client_id"], "status": apps.status_code})
try:
    OAuth2Session(client, "wrong").fetch_token(
        found["token_endpoint"], grant_type="client_credentials"
    )
except OAuthError as error:
    show({"error": error.error})
