"""A client of the Model Context Protocol, by the protocol's own library.

Usage: mcp_client.py URL TOKEN MODE TOOL... with MODE "legacy" (the handshake of older versions) or
"auto" (the newest version). Lists the tools and calls each TOOL, and prints one JSON object a line.
"""

import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

url, token, mode, *names = sys.argv[1:]


def show(**what):
    print(json.dumps(what), flush=True)


async def main():
    http = httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False
    )
    async with http, Client(
        streamable_http_client(url, http_client=http), mode=mode
    ) as client:
        session = client.session
        show(version=session.protocol_version, server=session.server_info.name)
        listed = await client.list_tools()
        show(tools=[tool.model_dump(by_alias=True, exclude_none=True) for tool in listed.tools])
        for name in names:
            try:
                result = await client.call_tool(name, {"question": "why", "n": 7})
                show(result=result.model_dump(by_alias=True, exclude_none=True))
            except Exception as error:
                show(error=str(error))


asyncio.run(main())
