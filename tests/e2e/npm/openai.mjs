// OpenAI's own library, unmodified, against omni serve. OPENAI_PACKAGE: which of its versions.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { join } from 'node:path';
import { newFolder, omni, removeFolder, serve, until } from './server.mjs';

const sdk = await import(process.env.OPENAI_PACKAGE);
const OpenAI = sdk.default;
const model = 'mini';
const messages = [{ role: 'user', content: 'The sea was calm, and' }];
const settings = { model, messages, max_tokens: 12, seed: 7 };
let server, client;

before(async () => {
  server = await serve();
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 5 });
});
after(() => server.stop());

const collect = async (stream) => {
  const all = [];
  for await (const one of stream) all.push(one);
  return all;
};

test('models are listed and found', async () => {
  assert.deepEqual((await collect(await client.models.list())).map((one) => one.id), [model]);
  assert.equal((await client.models.retrieve(model)).owned_by, 'omni');
  await assert.rejects(client.models.retrieve('other'), OpenAI.NotFoundError);
});

test('a chat is answered, the same for the same seed', async () => {
  const one = await client.chat.completions.create(settings);
  const again = await client.chat.completions.create(settings);
  assert.equal(one.object, 'chat.completion');
  assert.ok(one.choices[0].message.content.length > 0);
  assert.ok(['stop', 'length'].includes(one.choices[0].finish_reason));
  assert.equal(one.choices[0].message.content, again.choices[0].message.content);
  assert.equal(one.usage.total_tokens, one.usage.prompt_tokens + one.usage.completion_tokens);
  assert.match(one._request_id ?? '', /^[0-9a-f]{32}$/);
});

test('a streamed chat is the same text in pieces', async () => {
  const whole = await client.chat.completions.create(settings);
  const options = { ...settings, stream: true, stream_options: { include_usage: true } };
  const pieces = await collect(await client.chat.completions.create(options));
  const text = pieces.map((piece) => piece.choices[0]?.delta.content ?? '').join('');
  assert.equal(text, whole.choices[0].message.content);
  const usage = pieces.pop();
  assert.deepEqual(usage.choices, []);
  assert.deepEqual(usage.usage, whole.usage);
  for (const piece of pieces) assert.equal(piece.usage, null);
  const reasons = pieces.map((piece) => piece.choices[0].finish_reason);
  assert.equal(reasons.pop(), whole.choices[0].finish_reason);
  for (const reason of reasons) assert.equal(reason, null);
  const helper = client.chat.completions.stream(settings);
  assert.equal(await helper.finalContent(), whole.choices[0].message.content);
});

test('logprobs bring the likeliest tokens', async () => {
  const answer = await client.chat.completions.create({
    ...settings, temperature: 0, logprobs: true, top_logprobs: 3,
  });
  const tokens = answer.choices[0].logprobs.content;
  assert.ok(tokens.length > 0);
  for (const token of tokens) {
    assert.equal(token.top_logprobs.length, 3);
    assert.equal(token.top_logprobs[0].logprob, token.logprob);
    assert.ok(token.logprob <= 0);
  }
});

test('tools are taken, whatever they are', async () => {
  const tools = [
    { type: 'function', function: { name: 'look', parameters: { type: 'object', properties: {} } } },
    { type: 'of_tomorrow', of_tomorrow: {} },
  ];
  const answer = await client.chat.completions.create({ ...settings, tools, tool_choice: 'auto', n: 2 });
  assert.equal(answer.choices.length, 2);
  assert.equal(answer.choices[1].message.tool_calls, undefined);
  await assert.rejects(client.chat.completions.create({ ...settings, tools, tool_choice: 'required' }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === 'tool_choice');
});

test('an aborted stream ends its session', async () => {
  const endless = { ...settings, max_tokens: 900000, stream: true, ignore_eos: true };
  const stream = await client.chat.completions.create(endless);
  for await (const piece of stream) {
    if (piece.choices[0].delta.content) break;
  }
  await until(async () => (await server.metric('omni_sessions_active')) === 0);
  const controller = new AbortController();
  const whole = client.chat.completions.create({ ...endless, stream: false }, { signal: controller.signal });
  await until(async () => (await server.metric('omni_sessions_active')) === 1);
  controller.abort();
  await assert.rejects(whole, OpenAI.APIUserAbortError);
  await until(async () => (await server.metric('omni_sessions_active')) === 0);
});

test('errors are of the classes that the library has for them', async () => {
  const bad = await client.chat.completions.create({ ...settings, temperature: -1 }).catch((error) => error);
  assert.ok(bad instanceof OpenAI.BadRequestError);
  assert.equal(bad.status, 400);
  assert.equal(bad.param, 'temperature');
  assert.equal(bad.type, 'invalid_request_error');
  assert.match(bad.message, /temperature/);
  const unknown = await client.chat.completions.create({ ...settings, model: 'other' }).catch((error) => error);
  assert.ok(unknown instanceof OpenAI.NotFoundError);
  assert.equal(unknown.code, 'model_not_found');
  const gone = new OpenAI({ baseURL: 'http://127.0.0.1:1/v1', apiKey: 'none', maxRetries: 0 });
  await assert.rejects(gone.models.list(), OpenAI.APIConnectionError);
});

test('a key that does not count, lacks a scope or has its share under way is told so', async () => {
  const folder = newFolder(), file = join(folder, 'keys.json');
  const make = (name, scope) =>
    JSON.parse(omni('key', 'create', '--name', name, '--scope', scope, '--keys', file, '--json')).key;
  const infer = make('notebook', 'infer'), admin = make('operator', 'admin');
  const guarded = await serve({ more: ['--keys', file, '--caller-requests', '1'] });
  const as = (apiKey, maxRetries = 0) => new OpenAI({ baseURL: `${guarded.url}/v1`, apiKey, maxRetries });
  const errorOf = (apiKey) => as(apiKey).chat.completions.create(settings).then(() => null, (error) => error);
  for (const wrong of ['none', `${infer.slice(0, -4)}0000`]) {
    const unknown = await errorOf(wrong);
    assert.ok(unknown instanceof OpenAI.AuthenticationError, `${unknown}`);
    assert.equal(unknown.status, 401);
    assert.equal(unknown.code, 'invalid_api_key');
  }
  const lacks = await errorOf(admin);
  assert.ok(lacks instanceof OpenAI.PermissionDeniedError, `${lacks}`);
  assert.equal(lacks.status, 403);
  assert.match(lacks.message, /infer/);

  const stream = await as(infer).chat.completions.create(
    { ...settings, max_tokens: 900000, stream: true, ignore_eos: true });
  for await (const piece of stream) {
    if (!piece.choices[0].delta.content) continue;
    const more = await errorOf(infer);
    assert.ok(more instanceof OpenAI.RateLimitError, `${more}`);
    assert.equal(more.status, 429);
    assert.equal(more.code, 'rate_limit_exceeded');
    assert.ok(Number(more.headers.get('retry-after')) >= 1);
    break;
  }
  // The library asks again by itself, and the one that was left makes way.
  assert.ok((await as(infer, 10).chat.completions.create(settings)).choices[0].message.content.length > 0);
  await guarded.stop();
  removeFolder(folder);
});

test('completions are whole, streamed, several, with logprobs and with their prompt', async () => {
  const asked = { model, prompt: 'The sea', max_tokens: 8, seed: 3 };
  const whole = await client.completions.create(asked);
  const pieces = await collect(await client.completions.create({ ...asked, stream: true }));
  assert.equal(pieces.map((piece) => piece.choices[0].text).join(''), whole.choices[0].text);
  const several = await client.completions.create({ ...asked, prompt: ['The sea', 'A ship'], n: 2, logprobs: 2 });
  assert.deepEqual(several.choices.map((choice) => choice.index), [0, 1, 2, 3]);
  assert.equal(several.choices[0].text, whole.choices[0].text);
  assert.equal(several.choices[3].logprobs.tokens.length, several.choices[3].logprobs.top_logprobs.length);
  const echo = await client.completions.create({ ...asked, echo: true });
  assert.equal(echo.choices[0].text, `The sea${whole.choices[0].text}`);
});

const spoken = { model, input: 'Tell me of the sea.', max_output_tokens: 12 };

test('a response is answered, stored, gone on from and deleted', async () => {
  const one = await client.responses.create({ ...spoken, instructions: 'Be brief.', metadata: { a: 'b' } });
  assert.ok(one.output_text.length > 0);
  assert.equal(one.status, 'incomplete');
  assert.equal(one.incomplete_details.reason, 'max_output_tokens');
  assert.deepEqual(one.metadata, { a: 'b' });
  assert.equal(one.usage.output_tokens, 12);
  assert.equal(one.usage.input_tokens_details.cached_tokens, 0);
  assert.equal(one.usage.output_tokens_details.reasoning_tokens, 0);
  assert.equal((await client.responses.retrieve(one.id)).output_text ?? one.output_text, one.output_text);
  const two = await client.responses.create({ ...spoken, previous_response_id: one.id });
  assert.equal(two.previous_response_id, one.id);
  assert.ok(two.usage.input_tokens > one.usage.input_tokens);
  await client.responses.delete(one.id);
  await assert.rejects(client.responses.retrieve(one.id), OpenAI.NotFoundError);
  await assert.rejects(client.responses.create({ ...spoken, previous_response_id: one.id }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === 'previous_response_not_found');
});

test('a streamed response is the whole sequence of events', async () => {
  const events = await collect(await client.responses.create({ ...spoken, stream: true, temperature: 0 }));
  const types = events.map((event) => event.type);
  const around = types.filter((type) => type !== 'response.output_text.delta');
  assert.deepEqual(around, [
    'response.created', 'response.in_progress', 'response.output_item.added', 'response.content_part.added',
    'response.output_text.done', 'response.content_part.done', 'response.output_item.done', 'response.incomplete',
  ]);
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, i) => i));
  const text = events.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta);
  const whole = await client.responses.create({ ...spoken, temperature: 0 });
  assert.equal(text.join(''), whole.output_text);
  assert.equal(events.at(-1).response.output[0].content[0].text, whole.output_text);
  const helper = client.responses.stream({ ...spoken, temperature: 0 });
  assert.equal((await helper.finalResponse()).output_text, whole.output_text);
});

test('a response that nobody bounded is completed', async () => {
  const events = await collect(await client.responses.create({ model, input: 'x', stream: true, store: false }));
  assert.equal(events.at(-1).type, 'response.completed');
  assert.equal(events.at(-1).response.status, 'completed');
});

test('a conversation of tools is read as text, and probes are answered', async () => {
  const input = [
    { role: 'developer', content: [{ type: 'input_text', text: 'You sail.' }] },
    { type: 'reasoning', id: 'rs_1', summary: [] },
    { type: 'function_call', call_id: 'c', name: 'look', arguments: '{}' },
    { type: 'function_call_output', call_id: 'c', output: 'fog' },
    { role: 'user', content: 'And now?' },
  ];
  assert.ok((await client.responses.create({ ...spoken, input })).output_text.length > 0);
  for (const nothing of ['', []]) {
    const probe = await client.responses.create({ model, input: nothing, max_output_tokens: 1 });
    assert.equal(probe.usage.output_tokens, 1);
  }
  await assert.rejects(
    client.responses.create({ ...spoken, input: [{ role: 'user', content: [{ type: 'input_image' }] }] }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === 'input[0].content[0]');
});

test('embeddings are the same as numbers and as bytes', async () => {
  const input = ['The sea was calm.', 'The sea was rough.', 'Two and two'];
  const coded = await client.embeddings.create({ model, input });
  const listed = await client.embeddings.create({ model, input, encoding_format: 'float' });
  assert.equal(coded.data.length, 3);
  assert.ok(coded.data[0].embedding.length > 0);
  for (const i of [0, 1, 2]) {
    assert.deepEqual(Array.from(coded.data[i].embedding), Array.from(Float32Array.from(listed.data[i].embedding)));
  }
  assert.ok(coded.usage.prompt_tokens > 3);
  await assert.rejects(client.embeddings.create({ model, input, dimensions: 8 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === 'dimensions');
});
