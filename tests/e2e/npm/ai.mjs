// The AI SDK with its provider for OpenAI-compatible servers, unmodified, against omni serve.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, embed, embedMany, generateText, streamText } from 'ai';
import { serve, until } from './server.mjs';

let server, provider;
const asked = { prompt: 'The sea was calm, and', maxOutputTokens: 12, seed: 7, maxRetries: 5 };

before(async () => {
  server = await serve();
  provider = createOpenAICompatible({ name: 'omni', baseURL: `${server.url}/v1`, includeUsage: true });
});
after(() => server.stop());

test('text is generated', async () => {
  const answer = await generateText({ ...asked, model: provider('mini') });
  assert.ok(answer.text.length > 0);
  assert.ok(['stop', 'length'].includes(answer.finishReason));
  assert.ok(answer.usage.outputTokens > 0);
});

test('streamed text is the same', async () => {
  const whole = await generateText({ ...asked, model: provider('mini') });
  const stream = streamText({ ...asked, model: provider('mini') });
  let text = '';
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal(await stream.finishReason, whole.finishReason);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
});

test('a completion is generated', async () => {
  assert.ok((await generateText({ ...asked, model: provider.completionModel('mini') })).text.length > 0);
});

test('an aborted stream ends its session', async () => {
  const controller = new AbortController();
  const stream = streamText({
    ...asked, model: provider('mini'), maxOutputTokens: 900000, abortSignal: controller.signal,
    providerOptions: { omni: { ignore_eos: true } }, onError: () => {},
  });
  for await (const piece of stream.textStream) {
    if (piece.length > 0) controller.abort();
  }
  await until(async () => (await server.metric('omni_sessions_active')) === 0);
});

test('values are embedded', async () => {
  const one = await embed({ model: provider.embeddingModel('mini'), value: 'The sea' });
  const many = await embedMany({ model: provider.embeddingModel('mini'), values: ['The sea', 'A ship'] });
  assert.ok(one.embedding.length > 0);
  assert.deepEqual(many.embeddings[0], one.embedding);
  assert.equal(many.embeddings.length, 2);
  assert.ok(one.usage.tokens > 0);
});

test('an error is the server\'s', async () => {
  const error = await generateText({ ...asked, model: provider('other') }).catch((caught) => caught);
  assert.ok(APICallError.isInstance(error));
  assert.equal(error.statusCode, 404);
  assert.match(error.message, /is not served here/);
});
