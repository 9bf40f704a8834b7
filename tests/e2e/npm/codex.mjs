// OpenAI's agent Codex, unmodified, takes one turn with omni serve as its model. It runs where loopback is all the
// network there is (clients.sh).
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { serve } from './server.mjs';

const codex = resolve('codex/node_modules/@openai/codex/bin/codex.js');
let server, home;

before(async () => {
  server = await serve();
  home = mkdtempSync(join(tmpdir(), 'omni-codex-'));
  mkdirSync(join(home, '.codex'));
  mkdirSync(join(home, 'work'));
  writeFileSync(join(home, '.codex', 'config.toml'), `model = "mini"
model_provider = "omni"
[model_providers.omni]
name = "omni"
base_url = "${server.url}/v1"
wire_api = "responses"
request_max_retries = 5
stream_max_retries = 0
`);
});
after(async () => {
  await server.stop();
  rmSync(home, { recursive: true, force: true });
});

// What it says as JSON, line by line, once it has ended well.
async function take(...args) {
  const child = spawn(process.execPath, [codex, 'exec', '--skip-git-repo-check', '--json', ...args], {
    cwd: join(home, 'work'),
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { PATH: process.env.PATH, HOME: home, CODEX_HOME: join(home, '.codex') },
  });
  let said = '';
  child.stdout.on('data', (data) => (said += data));
  const code = await new Promise((done) => child.once('close', done));
  assert.equal(code, 0, said);
  return said.trim().split('\n').map((line) => JSON.parse(line));
}

function check(events) {
  const types = events.map((event) => event.type);
  assert.ok(types.includes('turn.completed'), types.join(' '));
  assert.ok(!types.includes('turn.failed') && !types.includes('error'), JSON.stringify(events));
  const spoken = events.find((event) => event.item?.type === 'agent_message');
  assert.ok(spoken.item.text.length > 0);
  assert.ok(events.find((event) => event.type === 'turn.completed').usage.output_tokens > 0);
}

test('a turn and another after it end without an error', async () => {
  check(await take('Tell me of the sea.'));
  check(await take('resume', '--last', 'And of the ship?'));
  assert.equal(await server.metric('omni_http_requests_total{route="/v1/responses",status="200"}'), 2);
});
