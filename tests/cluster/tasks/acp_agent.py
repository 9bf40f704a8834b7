"""An agent of the Agent Client Protocol for tests: what it does is what the message says, word by word."""
import json
import os
import signal
import sys
import time

ids = 1000


def send(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def update(kind, **fields):
    send({"method": "session/update",
          "params": {"sessionId": "s1", "update": {"sessionUpdate": kind, **fields}}})


def say(text):
    update("agent_message_chunk", content={"type": "text", "text": text})


def receive():
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return json.loads(line)


def ask(method, params):
    global ids
    ids += 1
    send({"id": ids, "method": method, "params": params})
    while True:
        message = receive()
        if message.get("id") == ids and "method" not in message:
            return message


def prompt(words):
    """The answer's stopReason."""
    for word in words:
        if word == "think":
            update("agent_thought_chunk", content={"type": "text", "text": "hm"})
        elif word == "tool":
            update("tool_call", toolCallId="c1", title="looks", status="pending")
        elif word == "permission":
            options = [{"optionId": "o-" + kind, "name": kind, "kind": kind}
                       for kind in ("allow_always", "allow_once", "reject_once")]
            answer = ask("session/request_permission",
                         {"sessionId": "s1", "toolCall": {"toolCallId": "c1"}, "options": options})
            say(json.dumps(answer["result"]["outcome"], sort_keys=True))
        elif word.startswith("read:"):
            answer = ask("fs/read_text_file", {"sessionId": "s1", "path": word[5:]})
            say(answer.get("result", {}).get("content", "refused"))
        elif word.startswith("write:"):
            answer = ask("fs/write_text_file", {"sessionId": "s1", "path": word[6:], "content": "written\n"})
            say("written" if "result" in answer else "refused")
        elif word == "unknown":
            say(str(ask("terminal/create", {})["error"]["code"]))
        elif word == "here":
            say(os.getcwd())
        elif word == "wait":
            say("waits")
            while receive().get("method") != "session/cancel":
                pass
            say("cancelled")
            return "cancelled"
        elif word == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say("waits")
            while True:
                time.sleep(1)
        elif word == "flood":
            sys.stdout.write("x" * (9 << 20))
            sys.stdout.flush()
        elif word == "garbage":
            sys.stdout.write("this is no JSON\n")
            sys.stdout.flush()
        elif word == "die":
            sys.stderr.write("no more memory\n")
            sys.exit(0)
        elif word in ("refusal", "max_tokens", "surprise"):
            return word
        else:
            say(word + " ")
    return "end_turn"


while True:
    request = receive()
    method, params = request.get("method"), request.get("params")
    if method == "initialize":
        version = 2 if "old" in sys.argv else params["protocolVersion"]
        send({"id": request["id"], "result": {"protocolVersion": version,
                                              "agentCapabilities": {"loadSession": "loads" in sys.argv}}})
    elif method == "session/new":
        if "alias" in sys.argv and params.get("agentAlias") != "clerk":
            send({"id": request["id"], "error": {"code": -32602, "message": "no such alias"}})
            continue
        send({"id": request["id"], "result": {"sessionId": "s1"}})
    elif method == "session/load":
        say("what was said before")
        send({"id": request["id"], "result": None})
    elif method == "session/prompt":
        reason = prompt(params["prompt"][0]["text"].split())
        send({"id": request["id"], "result": {"stopReason": reason}})
