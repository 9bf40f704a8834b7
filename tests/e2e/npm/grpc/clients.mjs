// gRPC clients that know nothing of Omni, against omni serve: what there is to call they are told by reflection.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { newFolder, removeFolder, serve } from '../server.mjs';

const require = createRequire(import.meta.url);
const grpc = require('@grpc/grpc-js');
const { GrpcReflection } = require('grpc-js-reflection-client');
const health = require('grpc-health-check');

const state = newFolder();
const plain = grpc.credentials.createInsecure();
let server;

// The Inference client as reflection of that version describes it.
async function inference(version) {
  const reflection = new GrpcReflection(server.grpc, plain, {}, version);
  const descriptor = await reflection.getDescriptorBySymbol('omni.inference.v1.Inference');
  const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
  const { Inference } = descriptor.getPackageObject(options).omni.inference.v1;
  return new Inference(server.grpc, plain);
}
const call = (client, method, request) => new Promise((resolve, reject) => {
  client[method](request, (error, response) => (error ? reject(error) : resolve(response)));
});
const collect = (stream, stopAt = Infinity) => new Promise((resolve, reject) => {
  const tokens = [];
  let finished = null;
  stream.on('data', (message) => {
    if (message.token) tokens.push({ id: message.token.id, number: message.token.number });
    if (message.finished) finished = message.finished;
    if (tokens.length >= stopAt) stream.cancel();
  });
  stream.on('error', (error) => (error.code === grpc.status.CANCELLED ? resolve({ tokens, finished }) : reject(error)));
  stream.on('end', () => resolve({ tokens, finished }));
});
const asked = (more) => ({
  prompt: Buffer.from('The sea was calm, and'), max_tokens: 12, ignore_end_of_text: true,
  sampler: { temperature: 0.7, top_k: 40, top_p: 0.95, repetition_penalty: 1, seed: 7 }, ...more,
});

before(async () => { server = await serve({ state }); });
after(() => {
  server.child.kill('SIGKILL');
  removeFolder(state);
});

for (const version of ['v1', 'v1alpha']) {
  test(`reflection ${version} lists the services and describes their methods`, async () => {
    const reflection = new GrpcReflection(server.grpc, plain, {}, version);
    const services = await reflection.listServices();
    for (const name of ['omni.inference.v1.Inference', 'omni.cluster.v1.Admin', 'grpc.health.v1.Health',
      'grpc.reflection.v1.ServerReflection', 'grpc.reflection.v1alpha.ServerReflection']) {
      assert.ok(services.includes(name), `${name} in ${services}`);
    }
    for (const service of services) assert.ok((await reflection.listMethods(service)).length > 0, service);
    const methods = (await reflection.listMethods('omni.inference.v1.Inference')).map((method) => method.name);
    for (const name of ['Generate', 'GenerateStream', 'Tokenize', 'ListModels', 'ForkSession'])
      assert.ok(methods.includes(name), `${name} in ${methods}`);
    await assert.rejects(reflection.getDescriptorBySymbol('omni.nothing'));
  });

  test(`a client made of reflection ${version} is answered`, async () => {
    const client = await inference(version);
    const whole = await call(client, 'Generate', asked({ alternatives: 3 }));
    assert.equal(whole.tokens.length, 12);
    assert.equal(whole.tokens[0].alternatives.length, 3);
    const streamed = await collect(client.GenerateStream(asked()));
    assert.deepEqual(streamed.tokens.map((token) => token.id), whole.tokens.map((token) => token.id));
    assert.equal(streamed.finished.reason, 'length');
    const { models } = await call(client, 'ListModels', {});
    assert.equal(models[0].name, 'mini');
    client.close();
  });
}

test('health is checked and watched', async () => {
  const Health = grpc.makeClientConstructor(health.service, 'Health');
  const client = new Health(server.grpc, plain);
  for (const service of ['', 'omni.inference.v1.Inference', 'omni.cluster.v1.Admin'])
    assert.equal((await call(client, 'check', { service })).status, 'SERVING', service);
  await assert.rejects(call(client, 'check', { service: 'nobody' }), { code: grpc.status.NOT_FOUND });
  client.close();
});

test('an error has its details', async () => {
  const client = await inference('v1');
  const error = await call(client, 'Generate', asked({ session: 'nothing' })).catch((caught) => caught);
  assert.equal(error.code, grpc.status.NOT_FOUND);
  const [details] = error.metadata.get('grpc-status-details-bin');
  assert.ok(details.includes('google.rpc.ErrorInfo') && details.includes('SESSION_NOT_FOUND'));
  client.close();
});

test('killed in mid-stream and started again, the server gives exactly the rest', async () => {
  let client = await inference('v1');
  await call(client, 'Generate', asked({ save_as: 'kept' }));
  const request = asked({ max_tokens: 3000 });
  const { tokens: want } = await collect(client.GenerateStream(request));
  const { tokens: had } = await collect(client.GenerateStream({ ...request, request_id: 'answer' }), 20);
  server.child.kill('SIGKILL');
  await server.ended;
  client.close();
  server = await serve({ state });
  client = await inference('v1');
  const { tokens: rest, finished } = await collect(
    client.GenerateStream({ request_id: 'answer', have: had.length }));
  assert.deepEqual([...had, ...rest], want);
  assert.equal(finished.generated_tokens, 3000);
  const { sessions } = await call(client, 'ListSessions', {});
  assert.deepEqual(sessions.map((session) => session.id), ['kept']);
  client.close();
});

test('told to end, it says so to who watches, finishes and ends', async () => {
  const Health = grpc.makeClientConstructor(health.service, 'Health');
  const watcher = new Health(server.grpc, plain);
  const seen = [];
  const watched = new Promise((resolve) => {
    const watch = watcher.watch({ service: 'omni.inference.v1.Inference' });
    watch.on('data', ({ status }) => {
      seen.push(status);
      if (status === 'NOT_SERVING') resolve();
    });
    watch.on('error', resolve);
    watch.on('end', resolve);
  });
  const client = await inference('v1');
  const stream = client.GenerateStream(asked({ max_tokens: 2000 }));
  const first = new Promise((resolve) => stream.once('data', resolve));
  const answer = collect(stream);
  await first;
  server.child.kill('SIGTERM');
  await watched;
  assert.deepEqual(seen, ['SERVING', 'NOT_SERVING']);
  const { tokens, finished } = await answer;
  assert.equal(tokens.length, 2000);
  assert.equal(finished.reason, 'length');
  assert.equal(await server.ended, 0);
  watcher.close();
  client.close();
});
