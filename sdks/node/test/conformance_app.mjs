// The nodes of tests/conformance/README.md: what `emit conformance` tests this SDK with.

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { log, node as register, Reject, Retry, serve } from 'emit-graph-sdk';

const BAD = {
  nan: NaN,
  infinity: Infinity,
  big: 2n ** 64n,
  small: -(2n ** 63n) - 1n,
  bytes: Buffer.from([0x00, 0xff]),
  time: new Date(),
  surrogate: '\ud800',
  object: () => {},
};

const chosen = process.env.CONFORMANCE_NODES?.split(',');

function node(...given) {
  const name = typeof given[0] === 'string' ? given[0] : given[0].name;
  if (!chosen || chosen.includes(name)) register(...given);
}

node('echo', ({ value }) => value);
node('none', () => {});
node(function* count({ n }) {
  for (let i = 0; i < n; i++) yield i;
});
node('text', ({ n }) => 'x'.repeat(n));
node('slow', async ({ seconds, value }) => {
  await sleep(seconds * 1000);
  return value;
});
node(function fail({ text, cause = undefined }) {
  if (cause === undefined) throw new Error(text);
  try {
    throw new RangeError(cause);
  } catch (error) {
    throw new Error(text, { cause: error });
  }
});
node(function* partial({ n, text }) {
  for (let i = 0; i < n; i++) yield i;
  throw new Error(text);
});
node('print', ({ text }) => {
  process.stdout.write(text);
  spawnSync('printf', ['%s', text], { stdio: 'inherit' });
  return 'printed';
});
node('kind', ({ value }) => kindOf(value));
node('bad', ({ what }) => {
  // A key is always a text in JavaScript.
  return what in BAD ? { items: [0, { price: BAD[what] }] } : 'impossible';
});
node('deep', ({ n }) => {
  let value = [];
  for (let i = 1; i < n; i++) value = [value];
  return value;
});
node('wide', ({ n }) => new Array(n).fill(0));
node('native', () => null.missing);
node(function retry({ text, after = undefined }) {
  throw new Retry(text, { after });
});
node(function reject({ text }) {
  throw new Reject(text);
});
node('stdin', () => {
  const child = spawnSync('cat', { stdio: ['inherit', 'pipe', 'inherit'], encoding: 'utf8' });
  return readFileSync(0, 'utf8') + child.stdout;
});
node('log', ({ level, text }) => log[level](text));
node('context', (_, { id, node, origin, attempt, traceparent, config, remaining }) => ({
  id,
  node,
  origin,
  attempt,
  traceparent,
  config,
  has_deadline: remaining() !== null,
  remaining: remaining(),
}));
node('trickle', async function* ({ n, seconds }) {
  for (let i = 0; i < n; i++) {
    yield i;
    await sleep(seconds * 1000);
  }
});
node('wait', async function* ({ seconds }, { signal }) {
  yield 'began';
  try {
    await sleep(seconds * 1000, null, { signal });
    yield 'waited';
  } catch {
    yield 'cancelled';
  }
});
node('spin', ({ seconds }) => {
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end);
  return 'spun';
});

node('late', async ({ seconds }, { signal }) => sleep(seconds * 1000, 'waited', { signal }));
node('exit', () => process.exit());
node('leave', () => process.reallyExit(0));

let met = 0;
let most = 0;
node('meet', async ({ n, seconds }) => {
  met += 1;
  most = Math.max(most, met);
  const end = performance.now() + seconds * 1000;
  while (most < n && performance.now() < end) await sleep(5);
  met -= 1;
  return most;
});

function kindOf(value) {
  if (value === null) return 'null';
  if (typeof value === 'boolean') return 'bool';
  if (typeof value === 'bigint' || Number.isInteger(value)) return 'int';
  if (typeof value === 'number') return 'float';
  if (typeof value === 'string') return 'text';
  if (value instanceof Uint8Array) return 'bytes';
  if (value instanceof Date) return 'time';
  return Array.isArray(value) ? 'list' : 'map';
}

process.on('exit', () => process.stderr.write('cleaned up\n'));
serve({ concurrency: Number(process.env.CONFORMANCE_CONCURRENCY ?? 1) });
