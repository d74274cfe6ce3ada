// Several calls in one frame, several answers in one, and the configuration.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { Msgpack } from '../lib/codec.js';
import { unpack } from '../lib/msgpack.js';

const SDK = path.resolve(import.meta.dirname, '..');
const folder = mkdtempSync(path.join(tmpdir(), 'emit-node-'));
mkdirSync(path.join(folder, 'node_modules'));
symlinkSync(SDK, path.join(folder, 'node_modules/emit-graph-sdk'));
const children = [];
after(() => children.forEach((child) => child.kill('SIGKILL')));

const NODES = `
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { context, node, serve } from 'emit-graph-sdk';

node('echo', (msg) => {
  if ('fail' in msg) throw new Error(msg.fail);
  return msg.value;
});
node('meta', (_, { id, origin, attempt }) => [id, origin, attempt]);
node('count', function* ({ n }) {
  for (let i = 0; i < n; i++) yield i;
});
node('text', ({ n }) => 'x'.repeat(n));
const shared = { n: 0 };
node('shared', () => {
  shared.n += 1;
  return shared;
});
node('wait', async ({ go }) => {
  while (!existsSync(go)) await sleep(5);
});
node('block', ({ go }) => {
  while (!existsSync(go));
});
let met = 0;
node('meet', async ({ n }) => {
  met += 1;
  while (met < n) await sleep(1);
});
node('asleep', async function* (_, { signal }) {
  yield 'began';
  await sleep(1e6, null, { signal });
});
node('config', () => [context().config, 'EMIT_CONFIG' in process.env]);
`;

/** The other end of the pipes of a program: frames in JSON, or msgpack after ready. */
class Host {
  constructor({ program = NODES, codec = 'json', env = {}, ...hello } = {}) {
    const file = path.join(mkdtempSync(path.join(folder, 'run-')), 'nodes.mjs');
    writeFileSync(file, program);
    const { NODE_TEST_CONTEXT: _, ...clean } = process.env;
    this.child = spawn(process.execPath, [file], { env: { ...clean, ...env }, stdio: ['pipe', 'pipe', 'pipe'] });
    children.push(this.child);
    this.codec = codec;
    this.out = this.child.stdout[Symbol.asyncIterator]();
    this.rest = Buffer.alloc(0);
    this.ended = new Promise((resolve) => this.child.on('close', resolve));
    const fields = { op: 'hello', v: [1], codecs: [codec], node: 'echo', max_frame: 2 ** 24 - 1, ...hello };
    this.child.stdin.write(`${JSON.stringify(fields)}\n`);
  }

  write(...frames) {
    const packed = new Msgpack();
    const json = (frame) => Buffer.from(`\n${JSON.stringify(frame)}\n`);
    this.child.stdin.write(Buffer.concat(frames.map((frame) => (this.codec === 'json' ? json(frame) : packed.frame(frame)))));
  }

  /** Return the next frame; undefined at the end. The first one is always JSON. */
  async read(codec = this.codec) {
    for (;;) {
      const frame = codec === 'json' ? this.line() : this.packed();
      if (frame) return frame;
      const { value, done } = await this.out.next();
      if (done) return undefined;
      this.rest = Buffer.concat([this.rest, value]);
    }
  }

  line() {
    for (let end; (end = this.rest.indexOf(10)) >= 0; ) {
      const line = this.rest.subarray(0, end).toString();
      this.rest = this.rest.subarray(end + 1);
      if (line) return JSON.parse(line);
    }
    return undefined;
  }

  packed() {
    const end = this.rest.length < 4 ? Infinity : 4 + this.rest.readUInt32BE(0);
    if (this.rest.length < end) return undefined;
    const frame = unpack(this.rest, 4, end);
    this.rest = this.rest.subarray(end);
    return frame;
  }

  /** Return the answers of the next *count* calls by id: their results, or the text of the error. */
  async answers(count, ops = []) {
    const found = {};
    for (let done = 0; done < count; ) {
      const frame = await this.read();
      ops.push(frame.op);
      const lists = frame.op === 'ends' ? frame.msgs : [frame.msgs];
      lists.forEach((msgs, at) => {
        const id = frame.id + at;
        found[id] = msgs ? [...(found[id] ?? []), ...msgs] : frame.message;
      });
      if (frame.op !== 'out') done += lists.length;
    }
    return found;
  }
}

const group = (node, id, msgs, fields) => ({ op: 'calls', id, node, msgs, ...fields });

async function serving(options, use) {
  const host = new Host(options);
  const ready = await host.read('json');
  await use(host, ready);
  host.child.stdin.end();
  return host.ended;
}

for (const codec of ['json', 'msgpack']) {
  test(`a group is answered in groups (${codec})`, async () => {
    const status = await serving({ codec }, async (host, ready) => {
      assert.ok(ready.caps.includes('groups'));
      const ops = [];
      host.write(group('echo', 1, Array.from({ length: 1000 }, (_, n) => ({ value: n }))));
      const found = await host.answers(1000, ops);
      assert.deepEqual(Object.values(found), Array.from({ length: 1000 }, (_, n) => [n]));
      assert.ok(ops.length < 500, ops.length);
      host.write(group('count', 2001, [{ n: 0 }, { n: 2 }, { n: 1 }]));
      assert.deepEqual(await host.answers(3), { 2001: [], 2002: [0, 1], 2003: [0] });
      host.write(group('echo', 5, [{ value: 1 }, { fail: 'no' }, { value: null }, {}]));
      assert.deepEqual(await host.answers(4), { 5: [1], 6: 'no', 7: [null], 8: [] });
    });
    assert.equal(status, 0);
  });
}

test('a result is what it was when its handler returned', () =>
  serving({}, async (host) => {
    host.write(group('shared', 1, [{}, {}, {}]));
    assert.deepEqual(await host.answers(3), { 1: [{ n: 1 }], 2: [{ n: 2 }], 3: [{ n: 3 }] });
  }));

test('an older host, which sends no groups, gets none', () =>
  serving({}, async (host) => {
    host.write(...Array.from({ length: 50 }, (_, n) => ({ op: 'call', id: n + 1, msg: { value: n } })));
    const ops = [];
    await host.answers(50, ops);
    assert.deepEqual([...new Set(ops)], ['end']);
  }));

test('a message has its own meta before that of the group', () =>
  serving({}, async (host) => {
    host.write(group('meta', 3, [{}, {}], { meta: { origin: 'a', attempt: 2 }, metas: [{ attempt: 3 }, null] }));
    assert.deepEqual(await host.answers(2), { 3: [[3, 'a', 3]], 4: [[4, 'a', 2]] });
    host.write(group('meta', 5, [{}, {}], { metas: [null, { origin: 'b' }] }));
    assert.deepEqual(await host.answers(2), { 5: [[5, null, 1]], 6: [[6, 'b', 1]] });
  }));

test('answers are split at max_frame', () =>
  serving({ max_frame: 1000 }, async (host) => {
    host.write(group('text', 1, [300, 300, 600, 900, 1100, 5].map((n) => ({ n }))));
    const found = await host.answers(6);
    assert.match(found[5], /a frame holds at most 1000/);
    assert.deepEqual([1, 2, 3, 4, 6].map((id) => found[id][0].length), [300, 300, 600, 900, 5]);
  }));

test('no answer waits for a call that waits, or that is known to keep the thread', () =>
  serving({}, async (host) => {
    const go = path.join(folder, 'go');
    host.write(group('echo', 1, [{ value: 1 }, { value: 2 }]), { op: 'call', id: 3, node: 'wait', msg: { go } });
    assert.deepEqual(Object.keys(await host.answers(2)), ['1', '2']);
    writeFileSync(go, '');
    await host.answers(1);
    const other = path.join(folder, 'other');
    host.write(group('echo', 4, [{ value: 1 }]), { op: 'call', id: 5, node: 'block', msg: { go: other } });
    assert.deepEqual(Object.keys(await host.answers(1)), ['4']);
    writeFileSync(other, '');
    await host.answers(1);
  }));

test('the calls of a group run at a time, and answers come as they are ready', () =>
  serving({ program: `${NODES}serve({ concurrency: 3 });` }, async (host) => {
    host.write(group('meet', 1, [{ n: 3 }, { n: 3 }, { n: 3 }]));
    assert.deepEqual(await host.answers(3), { 1: [], 2: [], 3: [] });
  }));

test('each call of a group can be cancelled', () =>
  serving({}, async (host) => {
    host.write(group('asleep', 1, [{}, {}, {}]), { op: 'cancel', id: 2 });
    assert.deepEqual(await host.read(), { op: 'out', id: 1, msgs: ['began'] });
    host.write({ op: 'cancel', id: 1 });
    const found = await host.answers(2);
    assert.match(found[1], /aborted/);
    assert.equal(found[2], 'cancelled by the host before it began');
    assert.deepEqual(await host.read(), { op: 'out', id: 3, msgs: ['began'] });
    host.write({ op: 'cancel', id: 3 });
    assert.match((await host.answers(1))[3], /aborted/);
  }));

test('a broken group ends the process', async () => {
  const broken = [
    { id: 1 },
    { id: 1, msgs: [] },
    { id: 1, msgs: [{}, 5] },
    { id: '1', msgs: [{}] },
    { msgs: [{}] },
    { id: 1, msgs: [{}], metas: [] },
    { id: 1, msgs: [{}], metas: [1] },
    { id: 1, msgs: [{}], meta: 1 },
    { id: 1, msgs: [{}], node: 1 },
  ];
  for (const fields of broken) {
    const status = await serving({}, async (host) => {
      host.write({ op: 'calls', ...fields });
      const { op, id } = await host.read();
      assert.deepEqual([op, id], ['err', null], JSON.stringify(fields));
    });
    assert.equal(status, 76);
  }
});

test('the configuration comes with hello, or by hand from the environment', async () => {
  await serving({ config: { shop: 'north' } }, async (host) => {
    host.write({ op: 'call', id: 1, node: 'config', msg: {} });
    assert.deepEqual(await host.answers(1), { 1: [[{ shop: 'north' }, false]] });
  });
  for (const [text, expected] of [['{"n":1}', '[{"n":1},false]'], ['', '[{},false]']]) {
    const host = new Host({ env: { EMIT_NODE: 'config', EMIT_MSG: '{}', EMIT_CONFIG: text } });
    assert.deepEqual(JSON.stringify(await host.read()), expected);
  }
});

test('a configuration that cannot be read is not quoted', async () => {
  for (const text of ['secret', '["secret"]', '{"n":"secret"']) {
    const host = new Host({ env: { EMIT_NODE: 'config', EMIT_MSG: '{}', EMIT_CONFIG: text } });
    let errors = '';
    host.child.stderr.on('data', (chunk) => (errors += chunk));
    assert.equal(await host.ended, 1);
    assert.match(errors, /EMIT_CONFIG is not a map in JSON/);
    assert.doesNotMatch(errors, /secret/);
  }
});

test('the configuration cannot be read before the host has sent it', async () => {
  const status = await serving({ program: `${NODES}context().config;` }, async (host, ready) => {
    assert.match(ready.message, /read context\(\)\.config in a handler/);
  });
  assert.equal(status, 1);
});
