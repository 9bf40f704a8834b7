// An agent of the Agent Client Protocol, made with the protocol's own library: it asks permission, tells what it was
// asked, and answers once it may; told to wait, it does until the turn is cancelled.
import { Readable, Writable } from "node:stream";
import * as acp from "@agentclientprotocol/sdk";

const { agent, methods } = acp;
let cancel = () => {};

const app = agent({ name: "test" })
  .onRequest(methods.agent.initialize, () => ({ protocolVersion: 1, agentCapabilities: { loadSession: false } }))
  .onRequest(methods.agent.session.new, ({ params }) => {
    if (params.mcpServers.length !== 0 || !params.cwd.startsWith("/")) throw new Error("what a session is given");
    return { sessionId: "from the library" };
  })
  .onNotification(methods.agent.session.cancel, () => cancel())
  .onRequest(methods.agent.session.prompt, async ({ params, client }) => {
    const { sessionId } = params;
    const tell = (update) => client.notify(methods.client.session.update, { sessionId, update });
    const say = (text) => tell({ sessionUpdate: "agent_message_chunk", content: { type: "text", text } });
    const asked = params.prompt.map((block) => block.text).join("");
    if (asked === "wait") {
      const cancelled = new Promise((resolve) => (cancel = resolve));
      await say("waits");
      await cancelled;
      return { stopReason: "cancelled" };
    }
    await tell({ sessionUpdate: "tool_call", toolCallId: "t1", title: "counts", kind: "execute", status: "pending" });
    const { outcome } = await client.request(methods.client.session.requestPermission, {
      sessionId,
      toolCall: { toolCallId: "t1" },
      options: [
        { optionId: "yes", name: "yes", kind: "allow_once" },
        { optionId: "no", name: "no", kind: "reject_once" },
      ],
    });
    await say(`${asked}: `);
    await say(outcome.outcome === "selected" ? outcome.optionId : outcome.outcome);
    return { stopReason: "end_turn" };
  });

app.connect(acp.ndJsonStream(Writable.toWeb(process.stdout), Readable.toWeb(process.stdin)));
