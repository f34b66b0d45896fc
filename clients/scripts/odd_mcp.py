"""A server of the Model Context Protocol on standard input and output, whose tools have the schemas of real servers."""

import json
import sys
from pathlib import Path

TOOLS = json.loads((Path(__file__).parent / "odd_tools.json").read_text())
INFO = {"capabilities": {"tools": {}}, "serverInfo": {"name": "odd", "version": "1"}}

for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    match request["method"]:
        case "initialize":
            result = {"protocolVersion": request["params"]["protocolVersion"], **INFO}
        case "tools/list":
            result = {"tools": TOOLS}
        case "tools/call":
            text = f"ODD-2718 {json.dumps(request['params'].get('arguments'))}"
            result = {"content": [{"type": "text", "text": text}], "isError": False}
        case _:
            result = {}
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
