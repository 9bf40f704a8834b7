// The AI SDK with its provider for OpenAI-compatible servers, and with OpenAI's own, which asks for responses and reads
// them by a schema; unmodified, against omni serve.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, embed, embedMany, generateText, streamText, tool } from 'ai';
import { z } from 'zod';
import { serve, until } from './server.mjs';

let server, provider, openai;
const asked = { prompt: 'The sea was calm, and', maxOutputTokens: 12, seed: 7, maxRetries: 5 };

before(async () => {
  server = await serve();
  provider = createOpenAICompatible({ name: 'omni', baseURL: `${server.url}/v1`, includeUsage: true });
  openai = createOpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' });
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

test('a response is what its schema says, whole and streamed', async () => {
  const look = tool({ inputSchema: z.object({ where: z.string() }), execute: async () => 'fog' });
  const spoken = {
    model: openai('mini'), temperature: 0, maxOutputTokens: 12, tools: { look },
    messages: [{ role: 'user', content: 'Tell me.' }, { role: 'assistant', content: 'Of what?' },
      { role: 'user', content: 'Of the sea.' }],
    providerOptions: { openai: { logprobs: 2 } },
  };
  const whole = await generateText(spoken);
  assert.ok(whole.text.length > 0);
  assert.equal(whole.finishReason, 'length');
  assert.equal(whole.usage.outputTokens, 12);
  assert.equal(whole.providerMetadata.openai.logprobs[0][0].top_logprobs.length, 2);
  const stream = streamText(spoken);
  let text = '';
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal(await stream.finishReason, 'length');
  assert.deepEqual((await stream.usage).raw, whole.usage.raw);
});

test('an error is the server\'s', async () => {
  const error = await generateText({ ...asked, model: provider('other') }).catch((caught) => caught);
  assert.ok(APICallError.isInstance(error));
  assert.equal(error.statusCode, 404);
  assert.match(error.message, /is not served here/);
});
