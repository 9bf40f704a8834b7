// An `omni serve` of the shipped model, on a free port of loopback, for a test to ask.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

// OMNI: the program; OMNI_MODEL: the model's folder. `more`: further arguments.
export async function serve(...more) {
  const state = mkdtempSync(join(tmpdir(), 'omni-clients-'));
  const args = ['serve', '-m', process.env.OMNI_MODEL, '--listen', '127.0.0.1:0', '--grpc', '127.0.0.1:0'];
  const child = spawn(process.env.OMNI, [...args, '--state', state, '--threads', '1', ...more], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, HOME: state },
  });
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal)));
  const lines = createInterface({ input: child.stdout });
  const address = await new Promise((resolve, reject) => {
    lines.on('line', (line) => line.startsWith('listening on ') && resolve(line.slice('listening on '.length)));
    ended.then((how) => reject(new Error(`omni serve ended before it could be asked: ${how}`)));
  });
  return {
    url: `http://${address}`,
    // A number that the server tells Prometheus.
    async metric(name) {
      const text = await (await fetch(`http://${address}/metrics`)).text();
      return Number(text.split('\n').find((line) => line.startsWith(`${name} `))?.split(' ')[1]);
    },
    async stop() {
      child.kill('SIGTERM');
      assert.equal(await ended, 0, 'omni serve ends well');
      rmSync(state, { recursive: true, force: true });
    },
  };
}

// Until it is so; the test runner's own limit ends what never is.
export async function until(isSo) {
  while (!(await isSo())) {
    /* asking takes time itself */
  }
}
