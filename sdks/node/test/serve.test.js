// A program as a shell and a host see it. A child's stdio are sockets here; tests/test_sdk_node.py
// has it at the pipes of a real host.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { pack, unpack } from '../lib/msgpack.js';

const SDK = path.resolve(import.meta.dirname, '..');
const LAUNCH = path.resolve(SDK, '../../runtimes/node/launch.cjs');
const HELLO = '{"op":"hello","v":[1],"codecs":["json"],"node":"count","max_frame":100000}\n';
const COUNT = `
import { node } from 'emit-graph-sdk';
export default node(function* count({ count }) {
  console.log('hi');
  for (let n = 0; n < count; n++) yield n;
});
`;

/** Runs count.mjs at the end of a pipe: a child of Node has a socket for one. */
const PIPED = `
const { spawnSync } = require('node:child_process');
spawnSync('sh', ['-c', 'cat input | "$0" count.mjs', process.execPath], { stdio: 'inherit' });
`;

/** A folder in which the SDK is installed, with these files; removed with the others in /tmp. */
function project(files, installed = true) {
  const folder = mkdtempSync(path.join(tmpdir(), 'emit-node-'));
  if (installed) {
    mkdirSync(path.join(folder, 'node_modules'));
    symlinkSync(SDK, path.join(folder, 'node_modules/emit-graph-sdk'));
  }
  for (const [name, text] of Object.entries(files)) writeFileSync(path.join(folder, name), text);
  return folder;
}

/** Run node to its end; what it printed, and its status or signal. */
function run(args, { cwd, input = '', env = {} }) {
  const { NODE_TEST_CONTEXT: _, ...clean } = process.env;
  const child = spawn(process.execPath, args, { cwd, env: { ...clean, ...env } });
  const chunks = { stdout: [], stderr: [] };
  for (const name of ['stdout', 'stderr']) child[name].on('data', (chunk) => chunks[name].push(chunk));
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  return new Promise((resolve) => {
    child.on('close', (status, signal) => {
      const bytes = Buffer.concat(chunks.stdout);
      resolve({ bytes, out: bytes.toString(), err: Buffer.concat(chunks.stderr).toString(), status: status ?? signal });
    });
  });
}

const calls = (...messages) =>
  HELLO + messages.map((msg, at) => `${JSON.stringify({ op: 'call', id: at + 1, ...msg })}\n`).join('');
const frames = ({ out }) => out.split('\n').filter(Boolean).map((line) => JSON.parse(line));

test('by hand: a message, several, one over several lines, one of the environment', async () => {
  const cwd = project({ 'count.mjs': COUNT });
  const inputs = [
    ['{"count": 2}', '0\n1\n'],
    ['\n{"count": 1}\n\n{"count": 2}\n', '0\n0\n1\n'],
    ['{\n  "count": 2\n}', '0\n1\n'],
    ['', ''],
  ];
  for (const [input, out] of inputs) {
    const ran = await run(['count.mjs'], { cwd, input });
    assert.deepEqual([ran.out, ran.status], [out, 0], input);
  }
  const ran = await run(['count.mjs'], { cwd, input: 'not read', env: { EMIT_MSG: '{"count": 1}' } });
  assert.deepEqual([ran.out, ran.err, ran.status], ['0\n', 'hi\n', 0]);
});

test('by hand: msgpack in, msgpack out', async () => {
  const cwd = project({ 'echo.mjs': "import { node } from 'emit-graph-sdk';\nnode(({ value }) => value);" });
  const { bytes } = await run(['echo.mjs'], { cwd, input: pack({ value: [new Date(5), Infinity, Buffer.from('\n')] }) });
  assert.equal(bytes.at(-1), 10);
  assert.deepEqual(unpack(bytes, 0, bytes.length - 1), [new Date(5), Infinity, Buffer.from('\n')]);
});

test('by hand: a failure, a bad message and a call that never ends are status 1', async () => {
  const cwd = project({
    'fail.mjs': "import { node } from 'emit-graph-sdk';\nnode(({ n }) => { if (n) throw new RangeError('no'); return n; });",
    'stuck.mjs': "import { node } from 'emit-graph-sdk';\nnode(() => new Promise(() => {}));",
  });
  const failed = await run(['fail.mjs'], { cwd, input: '{"n":1}\n{"n":0}\n' });
  assert.deepEqual([failed.out, failed.status], ['0\n', 1]);
  assert.match(failed.err, /RangeError: no[^]*fail\.mjs:2/);
  assert.equal((await run(['fail.mjs'], { cwd, input: 'x' })).status, 1);
  const stuck = await run(['stuck.mjs'], { cwd, input: '{}' });
  assert.deepEqual([stuck.out, stuck.status], ['', 1]);
  assert.match(stuck.err, /stuck never ends/);
});

test('by hand: EMIT_NODE chooses, EMIT_PROBE asks', async () => {
  const two = "import { node } from 'emit-graph-sdk';\nnode('a', () => 'a');\nnode('b', () => 'b');";
  const cwd = project({ 'two.mjs': two });
  assert.equal((await run(['two.mjs'], { cwd, input: '{}', env: { EMIT_NODE: 'b' } })).out, '"b"\n');
  const unclear = await run(['two.mjs'], { cwd, input: '{}' });
  assert.equal(unclear.status, 1);
  assert.match(unclear.err, /set EMIT_NODE to one of the program's nodes: a, b/);
  const wrong = await run(['two.mjs'], { cwd, input: '{}', env: { EMIT_NODE: 'c' } });
  assert.deepEqual([wrong.out, wrong.status], ['', 1]);
  assert.match(wrong.err, /there is no node "c" in this program; it has: a, b/);
  const probed = frames(await run(['two.mjs'], { cwd, input: '{}', env: { EMIT_NODE: 'a', EMIT_PROBE: '1' } }));
  assert.deepEqual([probed[0].op, probed[0].nodes, probed[1]], ['ready', ['a', 'b'], 'a']);
  assert.deepEqual(probed.slice(2), [{ op: 'end', id: null }]);
});

test('by hand: one node needs no name, and goes by any', async () => {
  const cwd = project({ 'one.mjs': "import { node } from 'emit-graph-sdk';\nnode('one', () => 1);" });
  for (const EMIT_NODE of ['', 'another']) {
    assert.equal((await run(['one.mjs'], { cwd, input: '{}', env: { EMIT_NODE } })).out, '1\n');
  }
});

test('by hand: a handler that ends the process has failed', async () => {
  const ways = {
    'process.exit()': 'undefined',
    'process.exit(0)': '0',
    'process.exit(3)': '3',
    'setTimeout(() => process.exit(0)); return new Promise(() => {})': '0',
    'process.exitCode = 0; exit()': 'undefined',
  };
  for (const [how, status] of Object.entries(ways)) {
    const text = `import { exit } from 'node:process';\nimport { node } from 'emit-graph-sdk';\nnode('n', () => { ${how}; });`;
    const ran = await run(['n.mjs'], { cwd: project({ 'n.mjs': text }), input: '{}\n{}\n', env: { EMIT_PROBE: '1' } });
    assert.deepEqual([frames(ran).length, ran.status], [1, 1], how);
    assert.match(ran.err, /^the handler ended the process: process\.exit\((undefined|0|3)\)\n$/, `${how} ${status}`);
  }
});

test('a file that is imported, and one that is required, serves nothing', async () => {
  const cwd = project({
    'count.mjs': COUNT,
    'import.mjs': "import count from './count.mjs';\nconsole.log(await count({ count: 2 }));",
    'half.cjs': "const { node } = require('emit-graph-sdk');\nmodule.exports = node('half', ({ n }) => n / 2);",
    'require.cjs': "require('./half.cjs')({ n: 4 }).then(console.log);",
  });
  assert.equal((await run(['import.mjs'], { cwd, input: HELLO })).out, 'hi\n[ 0, 1 ]\n');
  assert.equal((await run(['require.cjs'], { cwd, input: HELLO })).out, '[ 2 ]\n');
  assert.equal((await run(['half.cjs'], { cwd, input: '{"n":4}' })).out, '2\n');
  assert.equal((await run(['half'], { cwd, input: '{"n":4}' })).status, 1); // no such file for Node
});

test('a thread that runs the same file again serves nothing', async () => {
  const text = `import { Worker, isMainThread } from 'node:worker_threads';
import { node } from 'emit-graph-sdk';
node('n', () => new Promise((done) => new Worker(new URL(import.meta.url)).on('exit', done)));
if (!isMainThread) console.log('noise');`;
  const ran = await run(['n.mjs'], { cwd: project({ 'n.mjs': text }), input: calls({ msg: {} }) });
  assert.deepEqual(frames(ran).slice(1), [{ op: 'end', id: 1, msgs: [0] }], ran.err);
});

test('a file may await before it is ready', async () => {
  const late = "import { node } from 'emit-graph-sdk';\nnode('a', () => 'a');\nawait new Promise((done) => setTimeout(done, 50));\nnode('b', () => 'b');";
  const cwd = project({ 'late.mjs': late });
  assert.deepEqual(frames(await run(['late.mjs'], { cwd, input: HELLO }))[0].nodes, ['a', 'b']);
});

test('another version, and a file that does not load, are refused in words', async () => {
  const cwd = project({ 'count.mjs': COUNT, 'bad.mjs': 'export const x = 1;\nthrow new TypeError("no");' });
  const refused = await run(['count.mjs'], { cwd, input: '{"op":"hello","v":[2],"codecs":["json"]}\n' });
  const [err] = frames(refused);
  assert.deepEqual([err.op, err.id, err.type, refused.status], ['err', null, 'VersionError', 1]);
  const broken = await run([LAUNCH, 'bad.mjs'], { cwd, input: HELLO });
  const [failure] = frames(broken);
  assert.deepEqual([failure.id, failure.type, broken.status], [null, 'TypeError', 1]);
  assert.match(failure.stack[0], /bad\.mjs:2/);
  assert.equal((await run([LAUNCH, 'bad.mjs'], { cwd, input: '{}' })).status, 1);
});

test('what is no frame is answered once, with exit code 76', async () => {
  const cwd = project({ 'count.mjs': COUNT });
  const ran = await run(['count.mjs'], { cwd, input: `${HELLO}{"op":\n` });
  assert.deepEqual([frames(ran).at(-1).id, ran.status], [null, 76]);
});

test('what is no frame is told at once while a handler looks for a cancel, whose call is not to blame', async () => {
  const program = `
import { node } from 'emit-graph-sdk';
node('count', (msg, call) => {
  try {
    while (!call.cancelled);
  } catch (error) {
    return 'the error was thrown into the handler';
  }
});
`;
  const later = '{"op":"unknown"}\n'.repeat(2000); // more than is read before the first call begins
  const input = calls({ msg: {} }) + later + '{"op":"call","id":"one","msg":{}}\n';
  const cwd = project({ 'count.mjs': program, input });
  const [ready, ...rest] = frames(await run(['-e', PIPED], { cwd }));
  assert.equal(ready.op, 'ready');
  assert.deepEqual(rest.map(({ op, id }) => [op, id]), [['err', null]]);
});

test('a promise that nothing can settle is an error of its call', async () => {
  const stuck = `import { node } from 'emit-graph-sdk';
node('stuck', () => new Promise(() => {}));
node('one', () => 1);`;
  const cwd = project({ 'stuck.mjs': stuck });
  const answers = frames(await run(['stuck.mjs'], { cwd, input: calls({ node: 'stuck', msg: {} }, { node: 'one', msg: {} }) }));
  assert.match(answers[1].message, /stuck never ends/);
  assert.deepEqual(answers[2], { op: 'end', id: 2, msgs: [1] });
});

test('what ends the process fails the call that did it, and then tells that there will be no more', async () => {
  const odd = `import { node } from 'emit-graph-sdk';
node('leave', async () => process.exit(3));
node('late', () => { setTimeout(() => { throw new RangeError('late'); }); return new Promise((done) => setTimeout(done, 1e4)); });
node('reject', () => { Promise.reject(new RangeError('lost')); return new Promise((done) => setTimeout(done, 1e4)); });
node('empty', () => { setTimeout(() => { throw undefined; }); return new Promise((done) => setTimeout(done, 1e4)); });
node('thrown', () => { throw undefined; });`;
  const cwd = project({ 'odd.mjs': odd });
  const left = await run(['odd.mjs'], { cwd, input: calls({ node: 'leave', msg: {} }, { node: 'thrown', msg: {} }) });
  assert.deepEqual([frames(left)[1].id, frames(left)[1].type, left.status], [1, 'Exit', 3]);
  // What was sent ahead is not to blame.
  assert.deepEqual([frames(left)[2].id, frames(left)[2].type, frames(left).length], [null, 'Exit', 3]);
  for (const [name, type, said] of [['late', 'RangeError', /RangeError: late/], ['reject', 'RangeError', /RangeError: lost/], ['empty', 'TypeError', /undefined/]]) {
    const ran = await run(['odd.mjs'], { cwd, input: calls({ node: name, msg: {} }) });
    const told = frames(ran).slice(1).map((frame) => [frame.op, frame.id, frame.type]);
    assert.deepEqual(told, [['err', 1, type], ['err', null, type]], name);
    assert.equal(ran.status, 1);
    assert.match(ran.err, said);
  }
  const thrown = frames(await run(['odd.mjs'], { cwd, input: calls({ node: 'thrown', msg: {} }) }));
  assert.deepEqual([thrown[1].op, thrown[1].message], ['err', 'thrown threw undefined']);
});

test('one node has any name; several refuse a name that none has', async () => {
  const cwd = project({
    'one.mjs': "import { node } from 'emit-graph-sdk';\nnode('one', (_, call) => call.node);",
    'two.mjs': "import { node } from 'emit-graph-sdk';\nnode('one', () => 1);\nnode('two', () => 2);",
  });
  const input = calls({ msg: {} }, { node: 'three', msg: {} });
  assert.deepEqual(frames(await run(['one.mjs'], { cwd, input })).slice(1).map(({ msgs }) => msgs), [['one'], ['one']]);
  const refused = frames(await run(['two.mjs'], { cwd, input })).slice(1).map(({ message }) => message);
  assert.deepEqual(refused, ['count', 'three'].map((name) => `there is no node "${name}" in this program; it has: one, two`));
});

test('a ready frame leaves out what has no room', async () => {
  const names = Array.from({ length: 30 }, (_, n) => `parameter${n}`).join(', ');
  const text = (name) => `import { node } from 'emit-graph-sdk';\nnode('${name}', ({ ${names} }) => 1);`;
  const cwd = project({ 'one.mjs': text('one'), 'long.mjs': text('a_name'.repeat(20)) });
  const hello = (most) => HELLO.replace('100000', most);
  const [ready] = frames(await run(['one.mjs'], { cwd, input: hello(500) }));
  assert.deepEqual([ready.nodes, ready.inputs], [['one'], undefined]);
  const ran = await run(['long.mjs'], { cwd, input: hello(100) });
  const [err] = frames(ran);
  assert.deepEqual([err.op, err.id, err.type, ran.status === 0], ['err', null, 'FrameTooLarge', false]);
});

test('onStop is awaited before the end', async () => {
  const text = `import { node, onStop } from 'emit-graph-sdk';
node('n', () => 1);
onStop(async () => { await null; process.stderr.write('closed\\n'); });`;
  const ran = await run(['n.mjs'], { cwd: project({ 'n.mjs': text }), input: calls({ msg: {} }) });
  assert.deepEqual([frames(ran)[1].msgs, ran.err, ran.status], [[1], 'closed\n', 0]);
});

const PLAIN = {
  'words.mjs': "export default function* ({ text }) { yield* text.split(' '); }",
  'named.mjs': 'export const a = () => 1;\nexport const named = () => 2;',
  'common.cjs': "module.exports = { handler: ({ n }) => n * 2, other() {} };",
  'only.js': 'module.exports = function only() { return 1; };',
  'uses.mjs': "import { node } from 'emit-graph-sdk';\nnode('a', () => 'a');\nnode('b', () => 'b');",
  'requires.cjs': "const { node } = require('emit-graph-sdk');\nnode('r', () => 'r');",
  'two.mjs': 'export const a = () => 1;\nexport const b = () => 2;\nexport class C {}',
};

test('the launcher makes a node of any file, though nothing is installed', async () => {
  const cwd = project(PLAIN, false);
  const serves = async (...args) => {
    const [ready, end] = frames(await run([LAUNCH, ...args], { cwd, input: calls({ msg: { text: 'a', n: 2 } }) }));
    return [ready.nodes ?? ready.message, (end ?? ready).msgs];
  };
  assert.deepEqual((await serves('words.mjs'))[0], ['words']);
  assert.deepEqual(await serves('named.mjs'), [['named'], [2]]);
  assert.deepEqual(await serves('named.mjs', 'a'), [['a'], [1]]);
  assert.deepEqual(await serves('common.cjs'), [['handler'], [4]]);
  assert.deepEqual(await serves('only.js'), [['only'], [1]]);
  assert.deepEqual(await serves('uses.mjs'), [['a', 'b'], undefined]); // the host calls it "count"
  assert.deepEqual(await serves('uses.mjs', 'b'), [['b'], ['b']]);
  assert.deepEqual(await serves('requires.cjs'), [['r'], ['r']]);
  const which = 'two.mjs: which function is the node? Name it two, or say two.mjs:name (found: a, b)';
  assert.equal((await serves('two.mjs'))[0], which);
  assert.equal((await serves('two.mjs', 'c'))[0], 'two.mjs: there is no function "c" (found: a, b)');
});

const TSX = path.join(SDK, 'node_modules/tsx');
const skip = !existsSync(TSX) && process.env.CI !== 'true' && 'npm ci installs tsx';

test('TypeScript runs where Node can, or with tsx; else the error says what to install', { skip }, async () => {
  const typed = "import { node } from 'emit-graph-sdk';\nexport default node(function twice({ n }: { n: number }) { return n * 2; });";
  const bare = project({ 'twice.ts': typed, 'package.json': '{"type":"module"}' }, false);
  const [first] = frames(await run([LAUNCH, 'twice.ts'], { cwd: bare, input: HELLO }));
  if (process.features.typescript) assert.deepEqual(first.nodes, ['twice']);
  else assert.match(first.message, /twice\.ts: Node [\d.]+ cannot run TypeScript: use Node 22\.18 or newer, or npm install --save-dev tsx/);
  const cwd = project({ 'twice.ts': typed, 'package.json': '{"type":"module"}' });
  symlinkSync(TSX, path.join(cwd, 'node_modules/tsx'));
  const ran = await run([LAUNCH, 'twice.ts'], { cwd, input: calls({ msg: { n: 2 } }) });
  assert.deepEqual(frames(ran).at(-1), { op: 'end', id: 1, msgs: [4] }, ran.err);
  const direct = await run(['--import', 'tsx', 'twice.ts'], { cwd, input: '{"n":3}' });
  assert.deepEqual([direct.out, direct.status], ['6\n', 0], direct.err);
});

test('the package and the program say the same version', async () => {
  const { VERSION } = await import('emit-graph-sdk');
  const { default: manifest } = await import('../package.json', { with: { type: 'json' } });
  assert.equal(VERSION, manifest.version);
});
