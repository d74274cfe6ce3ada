// Values: what passes unchanged in each codec, and what is refused, with its place.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Timestamp } from 'emit-graph-sdk';
import { choose, Splitter } from '../lib/codec.js';
import { parse, stringify } from '../lib/json.js';
import { pack, unpack } from '../lib/msgpack.js';

/** Each value, its JSON, and its msgpack in hex. */
const VECTORS = [
  [null, 'null', 'c0'],
  [true, 'true', 'c3'],
  [false, 'false', 'c2'],
  [0, '0', '00'],
  [127, '127', '7f'],
  [128, '128', 'cc80'],
  [256, '256', 'cd0100'],
  [65536, '65536', 'ce00010000'],
  [2 ** 32, '4294967296', 'cf0000000100000000'],
  [-1, '-1', 'ff'],
  [-32, '-32', 'e0'],
  [-33, '-33', 'd0df'],
  [-129, '-129', 'd1ff7f'],
  [-32769, '-32769', 'd2ffff7fff'],
  [-(2 ** 31) - 1, '-2147483649', 'd3ffffffff7fffffff'],
  [2 ** 53 - 1, '9007199254740991', 'cf001fffffffffffff'],
  [2n ** 53n, '9007199254740992', 'cf0020000000000000'],
  [2n ** 53n + 1n, '9007199254740993', 'cf0020000000000001'],
  [-(2n ** 53n) - 1n, '-9007199254740993', 'd3ffdfffffffffffff'],
  [2n ** 64n - 1n, '18446744073709551615', 'cfffffffffffffffff'],
  [-(2n ** 63n), '-9223372036854775808', 'd38000000000000000'],
  [-0, '-0.0', 'cb8000000000000000'],
  [1.5, '1.5', 'cb3ff8000000000000'],
  [2 ** 53, '9007199254740992.0', 'cb4340000000000000'],
  [1e20, '100000000000000000000.0', 'cb4415af1d78b58c40'],
  [1e21, '1e+21', 'cb444b1ae4d6e2ef50'],
  ['', '""', 'a0'],
  ['é\u2028\0', '"é\u2028\\u0000"', 'a6c3a9e280a800'],
  ['x'.repeat(32), `"${'x'.repeat(32)}"`, `d920${'78'.repeat(32)}`],
  ['9007199254740993', '"9007199254740993"', 'b039303037313939323534373430393933'],
  [[], '[]', '90'],
  [[1, [2n ** 60n]], '[1,[1152921504606846976]]', '920191cf1000000000000000'],
  [{}, '{}', '80'],
  [{ 'a"': 2n ** 63n }, '{"a\\"":9223372036854775808}', '81a26122cf8000000000000000'],
  [JSON.parse('{"__proto__":1}'), '{"__proto__":1}', '81a95f5f70726f746f5f5f01'],
];

test('vectors pass in both codecs, both ways', () => {
  for (const [value, json, hex] of VECTORS) {
    assert.equal(stringify(value), json);
    assert.equal(pack(value).toString('hex'), hex);
    same(parse(json), value);
    same(unpack(Buffer.from(hex, 'hex')), value);
  }
});

function same(got, wanted) {
  assert.deepEqual(got, wanted);
  if (Object.is(wanted, -0)) assert.ok(Object.is(got, -0));
}

test('an integer is a number where that is exact, however it was written', () => {
  same(unpack(Buffer.from('d30000000000000005', 'hex')), 5);
  same(unpack(Buffer.from('cf001fffffffffffff', 'hex')), 2 ** 53 - 1);
  assert.equal(pack(5n).toString('hex'), '05');
  assert.equal(stringify({ n: 5n }), '{"n":5}');
  same(parse('[3.0, 1e3, 9007199254740993.0]'), [3, 1000, 2 ** 53]);
  // The first half of this character is what stands for a long integer inside.
  same(parse('[9007199254740993, "\u{10000}7"]'), [2n ** 53n + 1n, '\u{10000}7']);
});

test('quotes, escapes and long digits in texts do not disturb long integers', () => {
  const text = String.raw`{"a\\\"12345678901234567890":[12345678901234567890,"\"1234567890123456789"]}`;
  same(parse(text), { [String.raw`a\"12345678901234567890`]: [12345678901234567890n, '"1234567890123456789'] });
  same(parse('{"__proto__":12345678901234567890}').__proto__, 12345678901234567890n);
});

test('msgpack carries bytes, instants, NaN and infinity', () => {
  for (const value of [NaN, Infinity, -Infinity, new Date(0), new Date(-1), new Date(1e14)]) {
    same(unpack(pack([value])), [value]);
  }
  same(unpack(pack(new Uint8Array([0, 255]))), Buffer.from([0, 255]));
});

test('an instant keeps the digits that a Date has not', () => {
  const packed = Buffer.from('d7ff0000138865e07bc0', 'hex'); // 64 bits: nanoseconds and seconds
  const instant = unpack(packed);
  assert.ok(instant instanceof Date && instant instanceof Timestamp);
  assert.equal(instant.nanoseconds, (0x00001388 >>> 2) % 1e6);
  same(unpack(pack(instant)), instant);
  assert.ok(!(unpack(Buffer.from('d6ff00000001', 'hex')) instanceof Timestamp));
});

class Money {
  amount = 1;
}

/** What no codec carries, and what the error says. */
const REFUSED = [
  [2n ** 64n, 'an integer beyond 64 bits'],
  [-(2n ** 63n) - 1n, 'an integer beyond 64 bits'],
  ['\ud800', 'no valid text'],
  [undefined, 'undefined, which no codec carries; use null'],
  [() => {}, 'a function'],
  [Symbol('s'), 'a symbol'],
  [new Map(), 'a Map'],
  [new Set(), 'a Set'],
  [new Money(), 'a Money'],
  [/a/, 'a RegExp'],
  [new Float64Array(1), 'a Float64Array'],
  [new ArrayBuffer(1), 'a ArrayBuffer'],
  [new Date(NaN), 'an invalid Date|a Date'],
];
const ONLY_MSGPACK = [NaN, Infinity, Buffer.from('x'), new Date(0)];

test('what cannot be carried is refused with its path', () => {
  for (const [value, says] of REFUSED) {
    for (const encode of [stringify, pack]) {
      const bad = { items: [0, { price: value }] };
      assert.throws(() => encode(bad), { name: 'EncodeError', message: new RegExp(`^result.items\\[1\\].price is (${says})`) });
    }
  }
  for (const value of ONLY_MSGPACK) {
    assert.throws(() => stringify([value]), /^EncodeError: result\[0\] is .*: JSON cannot carry it; msgpack can/);
  }
});

test('odd keys, holes and toJSON are refused, not dropped', () => {
  for (const encode of [stringify, pack]) {
    assert.throws(() => encode({ [Symbol('s')]: 1 }), /result has a key of type symbol/);
    assert.throws(() => encode({ b: 1, '4111-1': { 'unit-price': 2n ** 64n } }), /result\[key 2\]\.unit-price is an integer/);
    assert.throws(() => encode({ '\ud800': 1 }), /a key of result is no valid text/);
    assert.throws(() => encode([, 1]), /result\[0\] is undefined/);
    assert.throws(() => encode({ toJSON: () => 1 }), /result.toJSON is a function/);
  }
  const hidden = Object.defineProperty({ a: 1 }, 'toJSON', { value: () => 2 });
  assert.equal(stringify(hidden), '{"a":1}');
  assert.equal(stringify(Object.assign(Object.create(null), { a: 1 })), '{"a":1}');
});

test('128 levels pass, one more and a circle do not', () => {
  const deep = (levels) => (levels ? [deep(levels - 1)] : 0);
  const circle = [];
  circle.push(circle);
  for (const [encode, decode] of [[stringify, parse], [pack, unpack]]) {
    same(decode(encode(deep(128))), deep(128));
    assert.throws(() => encode(deep(129)), /nests deeper than 128 levels/);
    assert.throws(() => encode(circle), /nests deeper than 128 levels/);
  }
});

test('what is no JSON, no UTF-8 or no msgpack is refused', async () => {
  const { decode } = await import('../lib/json.js');
  for (const text of ['NaN', '{', '"\\ud800"', '18446744073709551616', '-9223372036854775809']) {
    assert.throws(() => parse(text), { name: 'DecodeError' }, text);
  }
  assert.throws(() => decode(Buffer.from([0x22, 0xff, 0x22])), /no valid UTF-8/);
  assert.equal(decode(Buffer.from('\ufffd')), '\ufffd');
  for (const hex of ['c1', 'a5', '9101ff', 'a1ff', '8101', '8102', 'd40100', 'c70cff', 'c70dff' + '00'.repeat(13)]) {
    assert.throws(() => unpack(Buffer.from(hex, 'hex')), { name: 'DecodeError' }, hex);
  }
});

test('random values come back as they went, in both codecs', () => {
  const random = numbers(7);
  const makers = [
    () => null,
    () => random() > 0.5,
    () => Math.floor((random() - 0.5) * 2 ** Math.floor(random() * 53)) + 0,
    () => (BigInt(Math.floor(random() * 2 ** 32)) << 31n) + 2n ** 53n,
    () => (random() - 0.5) * 10 ** Math.floor(random() * 600 - 300),
    () => String.fromCodePoint(...Array.from({ length: random() * 40 }, () => Math.floor(random() * 0xd000))),
  ];
  const make = (depth) => {
    if (depth && random() < 0.5) return Array.from({ length: random() * 20 }, () => make(depth - 1));
    if (depth) return Object.fromEntries(Array.from({ length: random() * 20 }, () => [makers[5](), make(depth - 1)]));
    return makers[Math.floor(random() * makers.length)]();
  };
  for (let i = 0; i < 300; i++) {
    const value = make(Math.floor(random() * 4));
    same(parse(stringify(value)), value);
    same(unpack(pack(value)), value);
  }
});

/** Numbers from 0 to 1, the same in each run. */
function numbers(seed) {
  let state = seed;
  return () => (state = (state * 48271) % 2147483647) / 2147483647;
}

test('frames come in pieces of any size, their lengths as well', () => {
  const sent = [{ op: 'ping', id: 1 }, { op: 'call', id: 2, msg: { text: 'x'.repeat(300) } }, { op: 'bye' }];
  for (const name of ['json', 'msgpack']) {
    const codec = choose([name]);
    const bytes = codec.join(sent.map((fields) => codec.frame(fields)));
    for (const size of [1, 2, 3, 5, 7, 311]) {
      const splitter = new Splitter(codec, 400);
      const read = [];
      for (let at = 0; at < bytes.length; at += size) read.push(...splitter.feed(bytes.subarray(at, at + size)));
      assert.deepEqual(read, sent, `${name} in pieces of ${size}`);
    }
  }
});
