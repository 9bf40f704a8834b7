// An `omni serve` of the shipped model, on free ports of loopback, for a test to ask.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export const newFolder = () => mkdtempSync(join(tmpdir(), 'omni-clients-'));
export const removeFolder = (folder) => rmSync(folder, { recursive: true, force: true });

// The program (OMNI) with these words, run to its end: what it prints.
export const omni = (...words) => execFileSync(process.env.OMNI, words, { encoding: 'utf8' });

// Of OMNI_MODEL's folder. `state`: a folder that outlives the server, which else has one of its own. `more`: further
// arguments; without --keys among them whoever asks may do everything.
export async function serve({ state, more = [] } = {}) {
  const folder = state ?? newFolder();
  const args = ['serve', '-m', process.env.OMNI_MODEL, '--listen', '127.0.0.1:0', '--grpc', '127.0.0.1:0',
    '--state', folder, '--threads', '1', ...(more.includes('--keys') ? [] : ['--keys', 'none']), ...more];
  const child = spawn(process.env.OMNI, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal)));
  const lines = createInterface({ input: child.stdout });
  const said = (what) => new Promise((resolve, reject) => {
    lines.on('line', (line) => line.startsWith(what) && resolve(line.slice(what.length)));
    ended.then((how) => reject(new Error(`omni serve ended before it could be asked: ${how}`)));
  });
  const [address, grpc] = await Promise.all([said('listening on '), said('gRPC at ')]);
  return {
    url: `http://${address}`,
    grpc,
    child,
    ended,  // becomes its exit code, or the signal that ended it
    // A number that the server tells Prometheus.
    async metric(name) {
      const text = await (await fetch(`http://${address}/metrics`)).text();
      return Number(text.split('\n').find((line) => line.startsWith(`${name} `))?.split(' ')[1]);
    },
    async stop() {
      child.kill('SIGTERM');
      assert.equal(await ended, 0, 'omni serve ends well');
      if (state === undefined) removeFolder(folder);
    },
  };
}

// Until it is so; the test runner's own limit ends what never is.
export async function until(isSo) {
  while (!(await isSo())) {
    /* asking takes time itself */
  }
}
