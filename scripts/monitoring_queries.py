"""Asks Prometheus every query of a Grafana dashboard, and fails if one has no data.

    monitoring_queries.py DASHBOARD.json PROMETHEUS_URL

What only appears with a fault or after a scale-down may be empty, and is named here.
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

# The reasons of failed calls exist once a call failed.
MAY_BE_EMPTY = {'outcome!="ok"'}
# Prometheus scrapes each second here; a rate needs two samples.
RANGE = "10s"
LIMIT = 90


def ask(url, query):
    for name, value in {"$__rate_interval": RANGE, "$org": ".*", "$app": ".*"}.items():
        query = query.replace(name, value)
    parameters = urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?{parameters}", timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        sys.exit(f"Prometheus refuses {query}: {error.read().decode()}")
    return [row for row in result if row["value"][1] != "NaN"]


def main():
    dashboard, url = sys.argv[1:]
    with open(dashboard, encoding="utf-8") as file:
        panels = json.load(file)["panels"]
    waiting = [(p["title"], t["expr"]) for p in panels for t in p.get("targets", [])]
    queries = len(waiting)
    end = time.monotonic() + LIMIT
    while waiting and time.monotonic() < end:
        waiting = [(title, query) for title, query in waiting if not ask(url, query)]
        time.sleep(0.5)
    missing = [(t, q) for t, q in waiting if not any(part in q for part in MAY_BE_EMPTY)]
    for title, query in missing:
        print(f"no data: {title}: {query}", file=sys.stderr)
    print(f"{queries - len(waiting)} of {queries} queries have data")
    sys.exit(1 if missing else 0)


main()
