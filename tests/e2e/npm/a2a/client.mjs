// The Agent2Agent protocol's own library, unmodified, over its three bindings, against `omni serve`: programs that a
// file allows do the tasks, and the served model.
import assert from 'node:assert/strict';
import { createHmac, randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Role, TaskState } from '@a2a-js/sdk';
import { ClientFactory, JsonRpcTransportFactory, RestTransportFactory } from '@a2a-js/sdk/client';
import { GrpcTransportFactory } from '@a2a-js/sdk/client/grpc';
import { TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError } from '@a2a-js/sdk/errors';
import { newFolder, omni, removeFolder, serve, until } from '../server.mjs';

const folder = newFolder();
let server;

// Who is told: what came to each path, and what each is answered (200, if nothing else is said).
const told = new Map(), answers = new Map(), secret = 'a secret of sixteen or more';
const receiver = createServer((request, response) => {
  let body = '';
  request.on('data', (piece) => { body += piece; });
  request.on('end', () => {
    told.set(request.url, [...(told.get(request.url) ?? []), { headers: request.headers, body }]);
    response.writeHead(answers.get(request.url) ?? 200).end();
  });
});
const hook = (path) => `http://127.0.0.1:${receiver.address().port}${path}`;
const updates = (path) => (told.get(path) ?? []).map(({ body }) => JSON.parse(body).statusUpdate);
const statesTold = (path) => updates(path).map((update) => update.status.state);
const isTold = (path, state) => until(async () => {
  await new Promise((resolve) => { setImmediate(resolve); });
  return statesTold(path).includes(state);
});
const whoIsTold = () => ['--push', join(folder, 'push.json')];

before(async () => {
  await new Promise((resolve) => { receiver.listen(0, '127.0.0.1', resolve); });
  writeFileSync(join(folder, 'push.key'), secret);
  writeFileSync(join(folder, 'push.json'), JSON.stringify({ allow: [hook('')], key_file: join(folder, 'push.key') }));
  const executors = join(folder, 'executors.json');
  writeFileSync(executors, JSON.stringify({
    commands: {
      echo: { argv: ['/bin/cat'], slots: 8 },
      wait: { argv: ['/bin/sleep', '600'], slots: 8 },
      fail: { argv: ['/bin/false'] },
    },
  }));
  server = await serve({ more: ['--executors', executors, ...whoIsTold()] });
});
after(async () => {
  await server.stop();
  receiver.close();
  removeFolder(folder);
});

const request = (skill, text, { messageId = randomUUID(), returnImmediately = false, data } = {}) => ({
  tenant: '',
  metadata: undefined,
  message: {
    messageId,
    contextId: '',
    taskId: '',
    role: Role.ROLE_USER,
    parts: [
      { content: { $case: 'text', value: text }, metadata: undefined, filename: '', mediaType: '' },
      ...(data === undefined ? [] : [
        { content: { $case: 'data', value: data }, metadata: undefined, filename: '', mediaType: '' }]),
    ],
    metadata: { skill },
    extensions: [],
    referenceTaskIds: [],
  },
  configuration: { acceptedOutputModes: ['text/plain'], taskPushNotificationConfig: undefined, returnImmediately },
});
const byId = (id) => ({ tenant: '', id, metadata: undefined });
const textOf = (artifact) => artifact.parts.map((part) => part.content.value).join('');
const collect = async (stream, onEach = () => {}) => {
  const all = [];
  for await (const one of stream) {
    all.push(one.payload);
    await onEach(one.payload, all);
  }
  return all;
};

const bindings = [
  ['JSON-RPC', JsonRpcTransportFactory], ['HTTP+JSON', RestTransportFactory], ['gRPC', GrpcTransportFactory]];
for (const [name, factory] of bindings) {
  const connect = () => new ClientFactory({ transports: [new factory()] }).createFromUrl(server.url);

  test(`${name}: the card names the binding and what is offered`, async () => {
    const card = await (await connect()).getAgentCard();
    assert.ok(card.supportedInterfaces.some((one) => one.protocolBinding === name.replace('JSON-RPC', 'JSONRPC')
      .replace('gRPC', 'GRPC')));
    const skills = card.skills.map((skill) => skill.id);
    for (const id of ['model', 'command/echo', 'command/wait']) assert.ok(skills.includes(id), `${id} in ${skills}`);
  });

  test(`${name}: a message is answered with its task, over`, async () => {
    const client = await connect();
    const task = await client.sendMessage(request('command/echo', 'the sea'));
    assert.equal(task.status.state, TaskState.TASK_STATE_COMPLETED);
    assert.equal(textOf(task.artifacts[0]), 'the sea');
    const again = await client.getTask(byId(task.id));
    assert.equal(again.history[0].parts[0].content.value, 'the sea');
    assert.equal(textOf(again.artifacts[0]), 'the sea');
  });

  test(`${name}: the same message is the same task`, async () => {
    const client = await connect();
    const once = () => request('command/echo', 'once', { messageId: `same-${name}` });
    const one = await client.sendMessage(once());
    assert.equal((await client.sendMessage(once())).id, one.id);
  });

  test(`${name}: a stream begins with the task, and its pieces are what the model says`, async () => {
    const client = await connect();
    const all = await collect(client.sendMessageStream(request('model', 'The sea', { data: { maxTokens: 24 } })));
    assert.equal(all[0].$case, 'task');
    const { id } = all[0].value;
    const text = all.map((one) => (one.$case === 'artifactUpdate' ? textOf(one.value.artifact) : '')).join('');
    const begun = all[0].value.artifacts.map(textOf).join('');
    const last = all.at(-1).value;
    assert.equal(last.status.state, TaskState.TASK_STATE_COMPLETED);
    assert.ok((begun + text).length > 0);
    assert.equal((await client.getTask(byId(id))).artifacts.map(textOf).join(''), begun + text);
  });

  test(`${name}: a task is subscribed to and cancelled`, async () => {
    const client = await connect();
    const { id } = await client.sendMessage(request('command/wait', '', { returnImmediately: true }));
    const all = await collect(client.resubscribeTask(byId(id)), async (_, seen) => {
      if (seen.length === 1) await client.cancelTask(byId(id));
    });
    assert.equal(all[0].$case, 'task');
    assert.equal(all.at(-1).value.status.state, TaskState.TASK_STATE_CANCELED);
    await assert.rejects(client.cancelTask(byId(id)), TaskNotCancelableError);
    await assert.rejects(collect(client.resubscribeTask(byId(id))), UnsupportedOperationError);
  });

  test(`${name}: what fails says why`, async () => {
    const task = await (await connect()).sendMessage(
      request('command/fail', '', { data: {}, returnImmediately: false }));
    assert.equal(task.status.state, TaskState.TASK_STATE_FAILED);
    assert.match(task.status.message.parts[0].content.value, /exit code 1/);
  });

  test(`${name}: tasks are listed in pages`, async () => {
    const client = await connect();
    const seen = new Set();
    let pageToken = '', total;
    do {
      const page = await client.listTasks({ tenant: '', contextId: '', status: 0, pageSize: 2, pageToken });
      for (const task of page.tasks) seen.add(task.id);
      total = page.totalSize;
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
    assert.equal(seen.size, total);
    assert.ok(total >= 5);
  });

  test(`${name}: who is to be told is, signed, and is set, asked for, listed and deleted`, async () => {
    const client = await connect();
    assert.equal((await client.getAgentCard()).capabilities.pushNotifications, true);
    const path = `/${name.replace('+', '-')}`;
    const config = (taskId, id, url) => ({
      tenant: '', id, taskId, url, token: 'mine', authentication: { scheme: 'Bearer', credentials: 'known' },
    });
    const message = request('command/echo', 'the sea');
    message.configuration.taskPushNotificationConfig = config('', 'first', hook(path));
    const task = await client.sendMessage(message);
    await isTold(path, 'TASK_STATE_COMPLETED');
    assert.deepEqual(statesTold(path), ['TASK_STATE_WORKING', 'TASK_STATE_COMPLETED']);
    for (const { headers, body } of told.get(path)) {
      const mac = createHmac('sha256', secret).update(`${headers['omni-timestamp']}.${body}`).digest('hex');
      assert.equal(headers['omni-signature'], `sha256=${mac}`);
      assert.equal(headers['x-a2a-notification-token'], 'mine');
      assert.equal(headers.authorization, 'Bearer known');
    }
    const numbers = updates(path).map((update) => update.metadata['urn:omni:a2a:events:1'].sequence);
    assert.deepEqual(numbers, [...numbers].sort((a, b) => a - b));
    const made = await client.createTaskPushNotificationConfig(config(task.id, 'second', hook('/later')));
    assert.equal(made.id, 'second');
    const get = { tenant: '', taskId: task.id, id: 'second' };
    assert.equal((await client.getTaskPushNotificationConfig(get)).url, hook('/later'));
    const list = { tenant: '', taskId: task.id, pageSize: 0, pageToken: '' };
    assert.equal((await client.listTaskPushNotificationConfig(list)).configs.length, 2);
    await client.deleteTaskPushNotificationConfig(get);
    assert.equal((await client.listTaskPushNotificationConfig(list)).configs.length, 1);
    await assert.rejects(client.createTaskPushNotificationConfig(config(task.id, 'x', 'http://127.0.0.1:1/')));
  });

  test(`${name}: a task that is not there is not found`, async () => {
    await assert.rejects((await connect()).getTask(byId('none')), TaskNotFoundError);
  });
}

test('keys want the scope tasks, and each caller sees its own alone', async () => {
  const keys = join(folder, 'keys.json');
  const key = (caller, scope) => omni('key', 'create', '--keys', keys, '--name', caller, '--scope', scope).trim();
  const headers = (secret) => ({ Authorization: `Bearer ${secret}`, 'Content-Type': 'application/json' });
  const [anna, ben, infer] = [key('anna', 'tasks'), key('ben', 'tasks'), key('chris', 'infer')];
  const guarded = await serve({ more: ['--keys', keys] });
  try {
    const ask = (secret, path) => fetch(`${guarded.url}/a2a${path}`, { headers: headers(secret) });
    const body = JSON.stringify({
      message: { messageId: 'm', role: 'ROLE_USER', parts: [{ text: 'sea' }, { data: { maxTokens: 4 } }] },
    });
    const sent = await fetch(`${guarded.url}/a2a/message:send`, { method: 'POST', headers: headers(anna), body });
    const { task } = await sent.json();
    assert.equal(task.status.state, 'TASK_STATE_COMPLETED');
    assert.equal((await ask(anna, `/tasks/${task.id}`)).status, 200);
    assert.equal((await ask(ben, `/tasks/${task.id}`)).status, 404);
    assert.equal((await ask(infer, '/tasks')).status, 403);
    assert.equal((await fetch(`${guarded.url}/a2a/tasks`)).status, 401);
    const card = await (await fetch(`${guarded.url}/.well-known/agent-card.json`)).json();
    assert.equal(card.securitySchemes.key.httpAuthSecurityScheme.scheme, 'Bearer');
  } finally {
    await guarded.stop();
  }
});

test('what a killed server had not told is told by the next one', async () => {
  const state = join(folder, 'state');
  const more = ['--executors', join(folder, 'executors.json'), ...whoIsTold()];
  const path = '/killed';
  answers.set(path, 503);
  const first = await serve({ state, more });
  const client = await new ClientFactory({ transports: [new JsonRpcTransportFactory()] }).createFromUrl(first.url);
  const message = request('command/echo', 'the sea');
  message.configuration.taskPushNotificationConfig = { tenant: '', id: '', taskId: '', url: hook(path), token: 'mine' };
  const task = await client.sendMessage(message);
  assert.equal(task.status.state, TaskState.TASK_STATE_COMPLETED);
  await isTold(path, 'TASK_STATE_WORKING');
  first.child.kill('SIGKILL');
  await first.ended;
  assert.ok(!statesTold(path).includes('TASK_STATE_COMPLETED'), 'its turn has not come while the first is refused');
  answers.delete(path);
  const second = await serve({ state, more });
  try {
    await isTold(path, 'TASK_STATE_COMPLETED');
    assert.equal(updates(path).at(-1).taskId, task.id);
  } finally {
    await second.stop();
  }
});
