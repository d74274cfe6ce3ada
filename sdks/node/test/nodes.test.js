// Nodes as an author writes them, called as a test of his would.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { context, node, Reject, Retry, serve } from 'emit-graph-sdk';
import { describe } from '../lib/errors.js';
import { inputsOf } from '../lib/nodes.js';

async function* three() {
  yield* [1, 2, 3];
}

/** Handlers, and what they emit. */
const EMITS = [
  [() => 1, [1]],
  [() => null, [null]],
  [() => {}, []],
  [() => [1, 2], [[1, 2]]],
  [() => 'text', ['text']],
  [async () => 1, [1]],
  [async () => {}, []],
  [() => Promise.resolve(null), [null]],
  [function* () { yield 1; yield null; return 3; }, [1, null]],
  [three, [1, 2, 3]],
  [async () => three(), [1, 2, 3]],
  [() => [1, 2].values(), [1, 2]],
];

test('what is returned is one result, what is yielded are several', async () => {
  for (const [handler, results] of EMITS) assert.deepEqual(await node('n', handler)({}), results);
});

test('a node tells its name, and its handler as it was written', () => {
  const handler = ({ n }) => n;
  assert.equal(node(function words() {}).name, 'words');
  assert.equal(node('shop', handler).handler, handler);
  assert.equal(node(() => {}).name, 'nodes.test'); // the file's
  for (const wrong of [[], ['name'], [3, handler], ['', handler]]) assert.throws(() => node(...wrong), TypeError);
});

test('errors of a handler, and results that no codec carries, reach the test', async () => {
  await assert.rejects(node('n', () => { throw new RangeError('no'); })({}), RangeError);
  await assert.rejects(node('n', function* () { yield undefined; })({}), /result is undefined.*use null/);
  await assert.rejects(node('n', () => new Map())({}), { name: 'EncodeError' });
  await assert.rejects(node('n', () => 1)([]), /a message is a map of fields, not a list/);
});

test('a field that is missing is named, unless it has a default', async () => {
  const price = node(function price({ sku, count = 1, ...rest }) { return [sku, count, rest]; });
  assert.deepEqual(await price({ sku: 'a', other: 2 }), [['a', 1, { other: 2 }]]);
  await assert.rejects(price({ count: 2 }), { name: 'TypeError', message: 'price needs "sku"; the message has: count' });
});

const INPUTS = [
  [({ a, b = 1 }) => [a, b], ['a'], ['b']],
  [async ({ a: other, 'b-c': c }) => [other, c], ['a', 'b-c'], []],
  [function ({ a = { x: [1, 2] }, b = '}', ...rest }) { return [a, b, rest]; }, [], ['a', 'b']],
  [function* words({ text, sep = ',' } = {}, { log }) { yield [text, sep, log]; }, ['text'], ['sep']],
  [async function* (/* of { the } shop */ { a, // one, {
    b = (x) => x === 1 }) { yield [a, b]; }, ['a'], ['b']],
  [({ a: { b = 1 }, c: [d] = [] }) => [b, d], ['a'], ['c']],
  [{ shop({ sku }) { return sku; } }.shop, ['sku'], []],
  [({}) => 1, [], []],
  [(msg) => msg],
  [() => 1],
  [({ ['a' + 1]: b }) => b],
  [Math.max],
  [((msg) => msg).bind(null)],
];

test('inputs are read from the parameters', () => {
  for (const [handler, required, optional] of INPUTS) {
    assert.deepEqual(inputsOf(handler), required && { required, optional }, String(handler));
  }
});

test('context() is the call, given or made up', async () => {
  const about = node('about', (_, given) => {
    assert.equal(context(), given);
    return [given.id, given.node, given.attempt, given.remaining(), given.cancelled, given.signal.aborted];
  });
  assert.deepEqual(await about({}), [[null, 'about', 1, null, false, false]]);
  assert.deepEqual(await node('n', (_, { attempt }) => attempt)({}, { attempt: 2 }), [2]);
  assert.equal(context().id, null);
});

test('a retry is told when, in seconds from 0 up', () => {
  assert.equal(new Retry('busy', { after: 1.5 }).after, 1.5);
  for (const after of [-1, NaN, Infinity, '2']) assert.throws(() => new Retry('busy', { after }), RangeError);
  for (const concurrency of [0, 1.5, '2', NaN]) assert.throws(() => serve({ concurrency }), RangeError);
});

test('an error is told with its cause, the authors lines first', () => {
  class ShopError extends Error {}
  const told = describe(new ShopError('closed', { cause: new Retry('busy', { after: 2 }) }));
  assert.deepEqual([told.type, told.message, told.cause.type], ['ShopError', 'closed', 'Retry']);
  assert.match(told.stack[0], /nodes\.test\.js:\d+/);
  assert.deepEqual(describe(new Reject('no')).retry, false);
  assert.deepEqual([describe(new Retry('r', { after: 2 })).retry, describe(new Retry('r', { after: 2 })).after], [true, 2]);
  assert.deepEqual(describe('text'), { type: 'Thrown', message: 'text' });
  assert.equal(describe(new Error('\ud800')).message, '\ufffd');
  assert.match(describe(new Error('x'.repeat(1e6))).message, /^x{8192}\.\.\. \(1000000 characters\)$/);
});

test('even an error that cannot be read is told', () => {
  const evil = new Error('x');
  Object.defineProperty(evil, 'message', { value: { toString() { throw new Error('no'); } } });
  assert.equal(typeof describe(evil).message, 'string');
  const loop = new Error('loop');
  loop.cause = loop;
  assert.equal(describe(loop).cause.message, 'loop');
});
