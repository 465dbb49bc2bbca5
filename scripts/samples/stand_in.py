"""Stands in for two services of the cloud that apps call over HTTP: K3 (buckets of objects, tables
with SQL, a search) and chat completions. As small as programs that use them need, in memory.

    python stand_in.py ADDRESS    prints the port that it listens on

Needs the package duckdb. Every call has to carry a token with an organization, as these services
demand it; whose key signed it is not checked.
"""

import base64
import json
import re
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

import duckdb

TYPES = {"STRING": "VARCHAR", "LONG": "BIGINT", "INT": "INTEGER", "DOUBLE": "DOUBLE",
         "BOOLEAN": "BOOLEAN", "TIMESTAMP": "VARCHAR"}
S3 = "http://s3.amazonaws.com/doc/2006-03-01/"


class Bucket:
    """Objects, tables, and what has been configured of the search."""

    def __init__(self):
        self.objects = {}
        self.collections = []
        self.rules = []
        self.engine = None
        self.tables = duckdb.connect(":memory:")
        self.lock = threading.Lock()

    def sql(self, text, values=()):
        with self.lock:
            cursor = self.tables.execute(text, list(values))
            names = [column[0] for column in cursor.description or []]
            return [dict(zip(names, row)) for row in cursor.fetchall()]

    def create(self, body):
        columns = [f'"{c["name"]}" {TYPES[c["type"].removeprefix("COLUMN_TYPE_")]}' for c in body["columns"]]
        if keys := body.get("merge_keys"):
            columns.append("PRIMARY KEY (" + ", ".join(f'"{key}"' for key in keys) + ")")
        self.sql(f'CREATE TABLE "{body["name"]}" ({", ".join(columns)})')

    def insert(self, table, rows):
        for row in map(json.loads, rows):
            names = ", ".join(f'"{name}"' for name in row)
            self.sql(f'INSERT OR REPLACE INTO "{table}" ({names}) VALUES ({", ".join("?" * len(row))})', row.values())

    def search(self, text, most):
        """By the share of the question's words that an object has, where a real one asks a model."""
        words = set(re.findall(r"[a-z0-9]{4,}", text.lower()))
        hits = []
        for key, (content, _) in self.objects.items():
            found = words & set(re.findall(r"[a-z0-9]{4,}", content.decode("utf-8", "replace").lower()))
            if found:
                hits.append((len(found) / len(words), key, content.decode("utf-8", "replace")))
        hits.sort(reverse=True)
        return [{"object": {"key": key}, "content": content, "score": score} for score, key, content in hits[:most]]


def complete(messages):
    """A model's answer, by what the first message demands."""
    demand = next((m["content"] for m in messages if m["role"] == "system"), "")
    asked = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    if "category" in demand and "JSON" in demand:
        words = asked.lower()
        category = "how_to" if "how do" in words else "billing" if "charge" in words else "other"
        return json.dumps({"category": category, "priority": "high", "sentiment": "neutral", "tags": ["stand-in"]})
    if "confident" in demand and "JSON" in demand:
        knows = "[KB]" in asked
        return json.dumps({"confident": knows, "reply": "As the article says." if knows else "", "reason": "stand-in"})
    if '"tool"' in demand and not asked.startswith("[tool:"):
        if asked.lower().startswith("remember"):
            return json.dumps({"tool": "save_memory", "args": {"title": "a fact", "content": asked}})
        if "remember" in asked.lower():
            return json.dumps({"tool": "search_memory", "args": {"query": asked}})
    return f"The stand-in's answer to: {asked[-200:]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    buckets = {}
    lock = threading.Lock()

    def log_message(self, *args):
        pass

    def organization(self):
        try:
            part = self.headers["Authorization"].removeprefix("Bearer ").split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
            return next(iter(claims["organization"]))
        except (AttributeError, IndexError, KeyError, ValueError, StopIteration):
            return None

    def answer(self, status, body=None, kind="application/json"):
        if not isinstance(body, bytes):
            body = (json.dumps(body, default=str) if kind.endswith("json") else body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        org = self.organization()
        if org is None:
            return self.answer(401, {"message": "no token with an organization"})
        path, _, query = self.path.partition("?")
        parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
        if parts == ["v1", "chat", "completions"]:
            text = complete(json.loads(body)["messages"])
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return self.answer(200, {"status": "success", "data": {"choices": [choice]}})
        if parts == ["admin", "buckets"]:
            name = json.loads(body)["name"]
            with self.lock:
                is_new = self.buckets.setdefault((org, name), bucket := Bucket()) is bucket
            return self.answer(200 if is_new else 409, {"name": name})
        bucket = self.buckets.get((org, parts[0]))
        if bucket is None:
            return self.answer(404, {"message": f"there is no bucket {parts[0]}"})
        try:
            self.in_bucket(bucket, parts[1:], urllib.parse.parse_qs(query), body)
        except duckdb.Error as e:
            self.answer(400, {"message": str(e)})

    def in_bucket(self, bucket, parts, query, body):
        route = (self.command, *parts)
        match route:
            case ("POST", "tables"):
                bucket.create(json.loads(body))
                self.answer(200, {})
            case ("POST", "tables", "_execute"):
                rows = bucket.sql(json.loads(body)["sql"])
                self.answer(200, {"query": {"rows": [json.dumps(row, default=str) for row in rows]}})
            case ("POST", "tables", table, "insert"):
                bucket.insert(table, json.loads(body)["rows"])
                self.answer(200, {})
            case ("POST", "tables", _, "_compact"):
                self.answer(200, {})
            case (_, "vector"):
                if self.command == "POST":
                    bucket.engine = "engine-1"
                self.answer(200, {"engineId": bucket.engine})
            case ("GET", "vector", "collections"):
                self.answer(200, {"collections": bucket.collections})
            case ("POST", "vector", "pipelines"):
                asked = json.loads(body)
                made = {"name": asked["name"], "embedPipelineName": asked["template_id"], "embedPipelineId": "p-1"}
                bucket.collections.append(made)
                self.answer(200, made)
            case ("POST", "vector", "search"):
                asked = json.loads(body)
                self.answer(200, {"results": bucket.search(asked["text"], asked.get("top_k", 5))})
            case ("GET", "sources"):
                self.answer(200, {"sources": [{"sourceId": "s-1"}]})
            case ("POST", "sources", _, "discover" | "ingest"):
                self.answer(200, {})
            case (_, "rules"):
                if self.command == "POST":
                    bucket.rules.append(json.loads(body))
                self.answer(200, {"rules": bucket.rules})
            case ("GET",):
                prefix = query.get("prefix", [""])[0]
                keys = sorted(key for key in bucket.objects if key.startswith(prefix))
                items = "".join(f"<Contents><Key>{escape(key)}</Key><Size>{len(bucket.objects[key][0])}</Size></Contents>"
                                for key in keys)
                self.answer(200, f'<ListBucketResult xmlns="{S3}">{items}</ListBucketResult>', "application/xml")
            case _:
                self.object(bucket, "/".join(parts), body)

    def object(self, bucket, key, body):
        if self.command == "PUT":
            bucket.objects[key] = (body, self.headers.get("content-type", "text/plain"))
            self.answer(200, {})
        elif key not in bucket.objects:
            self.answer(404, {"message": f"there is no object {key}"})
        elif self.command == "DELETE":
            del bucket.objects[key]
            self.answer(200, {})
        else:
            self.answer(200, *bucket.objects[key])

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve


server = ThreadingHTTPServer((sys.argv[1], 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
