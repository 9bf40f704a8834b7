// The Agent2Agent protocol's own library, unmodified, over both of HTTP's bindings, against a server of the protocol
// (A2A_SERVER) whose model says each text again.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { Role, TaskState } from '@a2a-js/sdk';
import { ClientFactory, JsonRpcTransportFactory, RestTransportFactory } from '@a2a-js/sdk/client';
import { TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError } from '@a2a-js/sdk/errors';

let child, url;

before(async () => {
  child = spawn(process.env.A2A_SERVER, { stdio: ['pipe', 'pipe', 'inherit'] });
  url = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once('line', (line) => resolve(`http://${line.split(' ').pop()}`));
    child.once('exit', () => reject(new Error('the server ended before it could be asked')));
  });
});
after(() => child.stdin.end());

const request = (text, messageId = randomUUID(), returnImmediately = false) => ({
  tenant: '',
  metadata: undefined,
  message: {
    messageId,
    contextId: '',
    taskId: '',
    role: Role.ROLE_USER,
    parts: [{ content: { $case: 'text', value: text }, metadata: undefined, filename: '', mediaType: '' }],
    metadata: undefined,
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

for (const [name, factory] of [['JSON-RPC', JsonRpcTransportFactory], ['HTTP+JSON', RestTransportFactory]]) {
  const connect = () => new ClientFactory({ transports: [new factory()] }).createFromUrl(url);

  test(`${name}: a message is answered with its task, over`, async () => {
    const client = await connect();
    const task = await client.sendMessage(request('the sea'));
    assert.equal(task.status.state, TaskState.TASK_STATE_COMPLETED);
    assert.equal(textOf(task.artifacts[0]), 'the sea');
    const again = await client.getTask(byId(task.id));
    assert.equal(again.history[0].parts[0].content.value, 'the sea');
    assert.equal(textOf(again.artifacts[0]), 'the sea');
  });

  test(`${name}: the same message is the same task`, async () => {
    const client = await connect();
    const one = await client.sendMessage(request('once', `same-${name}`));
    assert.equal((await client.sendMessage(request('once', `same-${name}`))).id, one.id);
  });

  test(`${name}: a stream begins with the task, and its pieces are the text`, async () => {
    const client = await connect();
    const all = await collect(client.sendMessageStream(request('calm')));
    assert.equal(all[0].$case, 'task');
    const text = all.map((one) => (one.$case === 'artifactUpdate' ? textOf(one.value.artifact) : '')).join('');
    const begun = all[0].value.artifacts.map(textOf).join('');
    assert.equal(begun + text, 'calm');
    const last = all.at(-1).value;
    assert.equal(last.status.state, TaskState.TASK_STATE_COMPLETED);
  });

  test(`${name}: a task is subscribed to and cancelled`, async () => {
    const client = await connect();
    const { id } = await client.sendMessage(request('wait', randomUUID(), true));
    const all = await collect(client.resubscribeTask(byId(id)), async (_, seen) => {
      if (seen.length === 1) await client.cancelTask(byId(id));
    });
    assert.equal(all[0].$case, 'task');
    assert.equal(all.at(-1).value.status.state, TaskState.TASK_STATE_CANCELED);
    await assert.rejects(client.cancelTask(byId(id)), TaskNotCancelableError);
    await assert.rejects(collect(client.resubscribeTask(byId(id))), UnsupportedOperationError);
  });

  test(`${name}: what is rejected says why`, async () => {
    const task = await (await connect()).sendMessage(request('fail'));
    assert.equal(task.status.state, TaskState.TASK_STATE_REJECTED);
    assert.equal(task.status.message.parts[0].content.value, 'invalid: as was asked');
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

  test(`${name}: a task that is not there is not found`, async () => {
    await assert.rejects((await connect()).getTask(byId('none')), TaskNotFoundError);
  });
}
