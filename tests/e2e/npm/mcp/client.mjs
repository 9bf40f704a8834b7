// The Model Context Protocol's own libraries, unmodified, against `omni mcp` over stdio and `omni serve` over HTTP, in
// both eras of the protocol; and its conformance kit.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { Client as Client1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport as Stdio1 } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport as Http1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { newFolder, omni, removeFolder, serve } from '../server.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const folder = newFolder();
let server;

before(async () => {
  const executors = join(folder, 'executors.json');
  writeFileSync(executors, JSON.stringify({
    commands: { echo: { argv: ['/bin/cat'], slots: 4 }, wait: { argv: ['/bin/sleep', '600'], slots: 8 } },
  }));
  server = await serve({ more: ['--executors', executors] });
});
after(async () => {
  await server.stop();
  removeFolder(folder);
});

const info = { name: 'test', version: '1' };
const stdio = () => ({ command: process.env.OMNI, args: ['mcp', '--cluster', server.grpc], stderr: 'inherit' });
const url = () => new URL(`${server.url}/mcp`);
const stateless = { versionNegotiation: { mode: { pin: '2026-07-28' } } };
const ways = [
  ['1.x over stdio', () => [new Client1(info), new Stdio1(stdio())]],
  ['1.x over HTTP', () => [new Client1(info), new Http1(url())]],
  ['2.x over stdio, with a handshake', () => [new Client(info), new StdioClientTransport(stdio())]],
  ['2.x over stdio, stateless', () => [new Client(info, stateless), new StdioClientTransport(stdio())]],
  ['2.x over HTTP, with a handshake', () => [new Client(info), new StreamableHTTPClientTransport(url())]],
  ['2.x over HTTP, stateless', () => [new Client(info, stateless), new StreamableHTTPClientTransport(url())]],
];

for (const [name, make] of ways) {
  const connected = async (run) => {
    const [client, transport] = make();
    await client.connect(transport);
    const call = async (tool, args, options) => {
      const request = { name: tool, arguments: args };
      const result = await (client instanceof Client1 ? client.callTool(request, undefined, options)
        : client.callTool(request, options));
      return result;
    };
    try {
      await run(client, call);
    } finally {
      await client.close();
    }
  };
  const told = (result) => {
    assert.ok(!result.isError, JSON.stringify(result));
    return result.structuredContent;
  };

  test(`${name}: tools are listed`, () => connected(async (client) => {
    const { tools } = await client.listTools();
    assert.deepEqual(tools.map((tool) => tool.name), ['generate', 'submit_task', 'watch_task', 'get_task',
      'list_tasks', 'cancel_task', 'list_executors']);
    assert.equal(client.getServerVersion().name, 'omni');
  }));

  test(`${name}: text is generated, with progress`, () => connected(async (client, call) => {
    const seen = [];
    const args = { prompt: 'The sea', max_tokens: 400, temperature: 0 };  // the last version drops progress that comes with the result
    const result = await call('generate', args, { onprogress: (progress) => seen.push(progress) });
    const { text, tokens, reason } = told(result);
    assert.equal(tokens, 400);
    assert.equal(reason, 'length');
    assert.equal(result.content[0].text, text);
    assert.ok(seen.length > 0 && seen.every((one) => one.total === 400));
    assert.equal(told(await call('generate', args)).text, text);
  }));

  test(`${name}: a task is handed in, watched from its middle on, and kept`, () => connected(async (client, call) => {
    const work = { command: { program: 'echo', input: Buffer.from('the sea').toString('base64') } };
    const key = `key ${name}`;
    const task = told(await call('submit_task', { work, idempotency_key: key, context: name }));
    assert.equal(told(await call('submit_task', { work, idempotency_key: key, context: name })).id, task.id);
    const all = [];
    let after = 0, over = false;
    while (!over) {
      const watched = told(await call('watch_task', { id: task.id, after, wait_seconds: 30 }));
      all.push(...watched.events);
      ({ last: after, over } = watched);
    }
    assert.deepEqual(all.map((event) => event.number), all.map((_, i) => i + 1));
    assert.equal(all.filter((event) => event.name === 'stdout').map((event) => event.data).join(''), 'the sea');
    assert.equal(all.at(-1).kind, 'OVER');
    const rest = told(await call('watch_task', { id: task.id, after: 2 }));
    assert.deepEqual(rest.events.map((event) => event.number), all.slice(2).map((event) => event.number));
    assert.equal(told(await call('get_task', { id: task.id })).status, 'SUCCEEDED');
    const { tasks } = told(await call('list_tasks', { context: name, statuses: ['succeeded'] }));
    assert.deepEqual(tasks.map((one) => one.id), [task.id]);
  }));

  test(`${name}: a task is cancelled, and what goes wrong is said`, () => connected(async (client, call) => {
    const task = told(await call('submit_task', { work: { command: { program: 'wait' } } }));
    told(await call('cancel_task', { id: task.id }));
    let watched;
    do watched = told(await call('watch_task', { id: task.id })); while (!watched.over);
    assert.equal(watched.status, 'CANCELLED');
    const again = await call('cancel_task', { id: task.id });
    assert.ok(again.isError);
    assert.match(again.content[0].text, /FAILED_PRECONDITION/);
    assert.ok((await call('get_task', { id: 'none' })).isError);
    assert.ok((await call('generate', { prompt: 'x', max_tokens: -1 })).isError);
    await assert.rejects(call('fly', {}), /fly/);
  }));

  test(`${name}: who gives a call up stops it`, () => connected(async (client, call) => {
    const given = new AbortController();
    const args = { prompt: 'The sea', max_tokens: 100000 };
    await assert.rejects(call('generate', args, {
      signal: given.signal, timeout: 60000, onprogress: () => given.abort(),
    }));
    const active = async () => server.metric('omni_sessions_active');
    while (await active() > 0) {
      /* asking takes time itself */
    }
    assert.equal(told(await call('list_executors', {})).executors.some((one) => one.target === 'echo'), true);
  }));
}

test('a key has the tools of its scopes, and a caller its own tasks', async () => {
  const keys = join(folder, 'keys.json');
  const key = (caller, scope) => omni('key', 'create', '--keys', keys, '--name', caller, '--scope', scope).trim();
  const [anna, ben, chris] = [key('anna', 'tasks'), key('ben', 'tasks'), key('chris', 'infer')];
  const guarded = await serve({ more: ['--keys', keys] });
  try {
    const as = async (secret) => {
      const client = new Client1(info);
      const requestInit = { headers: { Authorization: `Bearer ${secret}` } };
      await client.connect(new Http1(new URL(`${guarded.url}/mcp`), { requestInit }));
      return client;
    };
    const [a, b, c] = await Promise.all([anna, ben, chris].map(as));
    const task = (await a.callTool({
      name: 'submit_task', arguments: { work: { model: { prompt: 'The sea', max_tokens: 4 } } },
    })).structuredContent;
    assert.ok(!(await a.callTool({ name: 'get_task', arguments: { id: task.id } })).isError);
    assert.ok((await b.callTool({ name: 'get_task', arguments: { id: task.id } })).isError);
    assert.deepEqual((await c.listTools()).tools.map((tool) => tool.name), ['generate']);
    assert.ok((await c.callTool({ name: 'get_task', arguments: { id: task.id } })).isError);
    assert.equal((await fetch(`${guarded.url}/mcp`, { method: 'POST' })).status, 401);
    await Promise.all([a, b, c].map((client) => client.close()));
  } finally {
    await guarded.stop();
  }
});

// Those that ask for what is there. The kit's others want tools, prompts and resources of its own reference server.
const scenarios = {
  '2025-11-25': ['server-initialize', 'ping', 'tools-list', 'server-sse-multiple-streams', 'server-session-lifecycle',
    'dns-rebinding-protection'],
  '2026-07-28': ['tools-list', 'server-sse-multiple-streams', 'dns-rebinding-protection', 'http-header-validation'],
};
const kit = async (version, scenario) => {
  const results = mkdtempSync(join(tmpdir(), 'omni-conformance-'));
  try {
    return await promisify(execFile)(process.execPath, [
      join(here, 'node_modules/@modelcontextprotocol/conformance/dist/index.js'), 'server', '--url', url().href,
      '--scenario', scenario, '--spec-version', version], { cwd: results });
  } finally {
    removeFolder(results);
  }
};
for (const [version, names] of Object.entries(scenarios)) {
  for (const scenario of names) {
    test(`conformance with ${version}: ${scenario}`, () => kit(version, scenario));
  }
}
