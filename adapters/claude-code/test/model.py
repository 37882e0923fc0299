"""A model that says what a test tells it to: Anthropic Messages and OpenAI Responses, streamed, on loopback.

The n-th answer follows from how many results of tools the request holds, so that it needs no memory of its own.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Model:
    """One scripted model; `script` is a list of (tool, input)."""

    def __init__(self):
        self.script = []
        self.seen = []
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
                model.seen.append((self.path, body))
                if self.path.startswith("/v1/messages/count_tokens"):
                    return self.reply("application/json", json.dumps({"input_tokens": 1}))
                if self.path.startswith("/v1/messages"):
                    return self.reply("text/event-stream", messages(body, model.script))
                if self.path.endswith("/responses"):
                    return self.reply("text/event-stream", responses(body, model.script))
                return self.reply("application/json", "{}", 404)

            def reply(self, kind, text, status=200):
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def events(pairs):
    return "".join(f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n" for kind, data in pairs)


def messages(body, script):
    """One answer of Anthropic Messages as server-sent events."""
    blocks = [b for m in body.get("messages", []) if isinstance(m["content"], list) for b in m["content"]]
    done = sum(1 for b in blocks if b.get("type") == "tool_result")
    names = {tool["name"] for tool in body.get("tools", [])}
    usage = {"input_tokens": 100, "output_tokens": 1, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    head = {"id": f"msg_{done}", "type": "message", "role": "assistant", "model": body.get("model"), "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": usage}
    if done < len(script) and script[done][0] in names:
        tool, given = script[done]
        block = {"type": "tool_use", "id": f"toolu_{done:04}", "name": tool, "input": {}}
        delta, stop = {"type": "input_json_delta", "partial_json": json.dumps(given)}, "tool_use"
    else:
        block, stop = {"type": "text", "text": ""}, "end_turn"
        delta = {"type": "text_delta", "text": "done"}
    return events([
        ("message_start", {"message": head}),
        ("content_block_start", {"index": 0, "content_block": block}),
        ("content_block_delta", {"index": 0, "delta": delta}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 50}}),
        ("message_stop", {}),
    ])


def responses(body, script):
    """One answer of OpenAI Responses as server-sent events."""
    items = body.get("input", [])
    done = sum(1 for item in items if isinstance(item, dict) and item.get("type", "").endswith("_call_output"))
    if done < len(script):
        tool, given = script[done]
        item = {"type": "function_call", "id": f"fc_{done}", "call_id": f"call_{done}", "name": tool,
                "arguments": json.dumps(given)}
    else:
        item = {"type": "message", "id": f"msg_{done}", "role": "assistant",
                "content": [{"type": "output_text", "text": "done", "annotations": []}]}
    usage = {"input_tokens": 100, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 50,
             "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 150}
    answer = {"id": f"resp_{done}", "object": "response", "status": "completed", "output": [item], "usage": usage}
    return events([
        ("response.created", {"response": {**answer, "status": "in_progress", "output": []}}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        ("response.completed", {"response": answer}),
    ])
