// msgpack without silent changes. The packages on npm write integers beyond 2^32 as floats, or read
// all 64-bit ones as BigInt or rounded. Here an integer is a number if it is safe, else a BigInt.
// No I/O here.

import { isUtf8 } from 'node:buffer';
import { DecodeError } from './errors.js';
import { check, DEPTH, isMap } from './values.js';

/**
 * An instant with more digits than the milliseconds of a Date, as other languages send them.
 * Otherwise it is a Date; `nanoseconds` (0 to 999999) has the digits beyond the millisecond.
 */
export class Timestamp extends Date {
  constructor(milliseconds, nanoseconds) {
    super(milliseconds);
    this.nanoseconds = nanoseconds;
  }
}

// Writing. The finished bytes are copied out at the end, so one buffer serves all values.

let buffer = Buffer.allocUnsafe(1 << 16);
let at = 0;

/** Return *value* in msgpack, after the bytes of *prefix*. Throws EncodeError. */
export function pack(value, prefix = undefined) {
  at = 0;
  if (prefix) for (; at < prefix.length; at++) buffer[at] = prefix[at];
  if (!put(value, DEPTH)) {
    check(value, true); // says where the fault is and why
    throw new TypeError('a value changed while it was written');
  }
  const packed = Buffer.allocUnsafe(at);
  buffer.copy(packed, 0, 0, at);
  if (buffer.length > 1 << 20) buffer = Buffer.allocUnsafe(1 << 16); // not kept for one large value
  return packed;
}

// Each returns true if the value can be carried.

function put(value, levels) {
  switch (typeof value) {
    case 'string':
      return putText(value);
    case 'number':
      return putNumber(value);
    case 'object':
      return putObject(value, levels);
    case 'boolean':
      return putByte(value ? 0xc3 : 0xc2);
    case 'bigint':
      return putBigInt(value);
    default:
      return false;
  }
}

function putObject(value, levels) {
  if (value === null) return putByte(0xc0);
  if (Array.isArray(value)) return levels > 0 && putList(value, levels - 1);
  if (isMap(value)) return levels > 0 && putMap(value, levels - 1);
  if (value instanceof Uint8Array) return putBytes(value);
  return value instanceof Date && putTime(value);
}

function putList(value, levels) {
  putHead(value.length, 0x90, 16, 0, 0xdc);
  for (let i = 0; i < value.length; i++) if (!put(value[i], levels)) return false;
  return true;
}

function putMap(value, levels) {
  const keys = Object.keys(value);
  putHead(keys.length, 0x80, 16, 0, 0xde);
  for (let i = 0; i < keys.length; i++) {
    if (!putText(keys[i]) || !put(value[keys[i]], levels)) return false;
  }
  return Object.getOwnPropertySymbols(value).length === 0;
}

function putText(value) {
  const length = value.length;
  if (length < 32 && putAscii(value, length)) return true;
  const bytes = Buffer.byteLength(value);
  putHead(bytes, 0xa0, 32, 0xd9, 0xda);
  need(bytes);
  at += buffer.write(value, at, bytes, 'utf8');
  return bytes === length || value.isWellFormed();
}

/** Write a short text, most likely ASCII, without a second pass through Buffer. */
function putAscii(value, length) {
  need(33);
  const start = at;
  buffer[at++] = 0xa0 | length;
  for (let i = 0; i < length; i++) {
    const code = value.charCodeAt(i);
    if (code > 127) {
      at = start;
      return false;
    }
    buffer[at++] = code;
  }
  return true;
}

function putNumber(value) {
  need(9);
  if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
    buffer[at] = 0xcb;
    at = buffer.writeDoubleBE(value, at + 1);
  } else if (value >= 0) putPositive(value);
  else putNegative(value);
  return true;
}

function putPositive(value) {
  if (value < 128) buffer[at++] = value;
  else if (value < 256) at = buffer.writeUInt8(value, tag(0xcc));
  else if (value < 65536) at = buffer.writeUInt16BE(value, tag(0xcd));
  else if (value < 4294967296) at = buffer.writeUInt32BE(value, tag(0xce));
  else at = buffer.writeBigUInt64BE(BigInt(value), tag(0xcf));
}

function putNegative(value) {
  if (value >= -32) buffer[at++] = value & 255;
  else if (value >= -128) at = buffer.writeInt8(value, tag(0xd0));
  else if (value >= -32768) at = buffer.writeInt16BE(value, tag(0xd1));
  else if (value >= -2147483648) at = buffer.writeInt32BE(value, tag(0xd2));
  else at = buffer.writeBigInt64BE(BigInt(value), tag(0xd3));
}

function putBigInt(value) {
  if (value >= -(2n ** 53n) && value <= 2n ** 53n) return putSmallBigInt(value);
  if (value < -(2n ** 63n) || value >= 2n ** 64n) return false;
  need(9);
  at = value < 0n ? buffer.writeBigInt64BE(value, tag(0xd3)) : buffer.writeBigUInt64BE(value, tag(0xcf));
  return true;
}

function putSmallBigInt(value) {
  need(9);
  if (value < 0n) putNegative(Number(value));
  else putPositive(Number(value));
  return true;
}

function putBytes(value) {
  putHead(value.length, 0, 0, 0xc4, 0xc5);
  need(value.length);
  buffer.set(value, at);
  at += value.length;
  return true;
}

function putTime(value) {
  const milliseconds = value.getTime();
  if (Number.isNaN(milliseconds)) return false;
  const seconds = Math.floor(milliseconds / 1000);
  const more = value instanceof Timestamp ? value.nanoseconds : 0;
  need(15);
  at = buffer.writeUInt8(12, tag(0xc7));
  buffer[at++] = 0xff; // extension -1
  at = buffer.writeUInt32BE((milliseconds - seconds * 1000) * 1e6 + more, at);
  at = buffer.writeBigInt64BE(BigInt(seconds), at);
  return true;
}

/** Write a size: in the tag itself below *limit*, else in 8 bits (if *one* is a tag), 16 or 32. */
function putHead(size, fix, limit, one, two) {
  need(5);
  if (size < limit) buffer[at++] = fix | size;
  else if (one && size < 256) at = buffer.writeUInt8(size, tag(one));
  else if (size < 65536) at = buffer.writeUInt16BE(size, tag(two));
  else at = buffer.writeUInt32BE(size, tag(two + 1));
}

function putByte(byte) {
  need(1);
  buffer[at++] = byte;
  return true;
}

function tag(byte) {
  buffer[at++] = byte;
  return at;
}

function need(bytes) {
  if (at + bytes <= buffer.length) return;
  const larger = Buffer.allocUnsafe(Math.max(buffer.length * 2, at + bytes));
  buffer.copy(larger, 0, 0, at);
  buffer = larger;
}

// Reading.

let source = buffer;
let position = 0;
let end = 0;

/** Return the value in *bytes* from *start* to *stop*. Throws DecodeError. */
export function unpack(bytes, start = 0, stop = bytes.length) {
  source = bytes;
  position = start;
  end = stop;
  const value = take();
  if (position !== end) throw new DecodeError(`msgpack of ${position - start} bytes in ${stop - start}`);
  return value;
}

function take() {
  const first = source[skip(1)];
  if (first < 0x80) return first;
  if (first < 0x90) return takeMap(first & 15);
  if (first < 0xa0) return takeList(first & 15);
  if (first < 0xc0) return takeText(first & 31);
  return first >= 0xe0 ? first - 256 : takeTagged(first);
}

function takeTagged(first) {
  const read = READERS[first - 0xc0];
  if (!read) throw new DecodeError(`no msgpack: the byte ${first}`);
  return read();
}

function takeMap(size) {
  const map = {};
  for (let i = 0; i < size; i++) {
    const key = take();
    if (typeof key !== 'string') throw new DecodeError(`a key must be text, not ${typeof key}`);
    if (key === '__proto__') define(map, key, take());
    else map[key] = take();
  }
  return map;
}

function define(map, key, value) {
  Object.defineProperty(map, key, { value, enumerable: true, writable: true, configurable: true });
}

function takeList(size) {
  const list = [];
  for (let i = 0; i < size; i++) list.push(take());
  return list;
}

function takeText(size) {
  const start = skip(size);
  if (size < 24) {
    let short = '';
    let i = start;
    for (let code; i < position && (code = source[i]) < 128; i++) short += String.fromCharCode(code);
    if (i === position) return short;
  }
  const text = source.toString('utf8', start, position);
  if (text.includes('\ufffd') && !isUtf8(source.subarray(start, position))) {
    throw new DecodeError('no valid UTF-8');
  }
  return text;
}

function takeBytes(size) {
  const start = skip(size);
  return Buffer.from(source.subarray(start, position)); // a copy: the source is reused
}

function takeExtension(size) {
  const type = source.readInt8(skip(1));
  if (type !== -1) throw new DecodeError(`the msgpack extension ${type}; only timestamps, -1, are known`);
  if (size === 4) return time(source.readUInt32BE(skip(4)), 0);
  if (size === 8) return packedTime(source.readBigUInt64BE(skip(8)));
  if (size !== 12) throw new DecodeError(`a timestamp of ${size} bytes`);
  const nanoseconds = source.readUInt32BE(skip(4));
  return time(Number(source.readBigInt64BE(skip(8))), nanoseconds);
}

function packedTime(bits) {
  return time(Number(bits & 0x3ffffffffn), Number(bits >> 34n)); // 34 bits of seconds, 30 of ns
}

function time(seconds, nanoseconds) {
  const milliseconds = seconds * 1000 + Math.floor(nanoseconds / 1e6);
  const more = nanoseconds % 1e6;
  const date = more ? new Timestamp(milliseconds, more) : new Date(milliseconds);
  if (Number.isNaN(date.getTime())) throw new DecodeError(`an instant beyond what a Date holds: ${seconds} s`);
  return date;
}

function safe(integer) {
  const number = Number(integer);
  return Number.isSafeInteger(number) ? number : integer;
}

/** Move past the next *size* bytes. Return their beginning. */
function skip(size) {
  const start = position;
  position += size;
  if (position > end) throw new DecodeError('msgpack that is cut off');
  return start;
}

const u8 = () => source[skip(1)];
const u16 = () => source.readUInt16BE(skip(2));
const u32 = () => source.readUInt32BE(skip(4));

/** By the first byte, from 0xc0 to 0xdf. */
const READERS = [
  () => null,
  undefined, // never used
  () => false,
  () => true,
  () => takeBytes(u8()),
  () => takeBytes(u16()),
  () => takeBytes(u32()),
  () => takeExtension(u8()),
  () => takeExtension(u16()),
  () => takeExtension(u32()),
  () => source.readFloatBE(skip(4)),
  () => source.readDoubleBE(skip(8)),
  u8,
  u16,
  u32,
  () => safe(source.readBigUInt64BE(skip(8))),
  () => source.readInt8(skip(1)),
  () => source.readInt16BE(skip(2)),
  () => source.readInt32BE(skip(4)),
  () => safe(source.readBigInt64BE(skip(8))),
  () => takeExtension(1),
  () => takeExtension(2),
  () => takeExtension(4),
  () => takeExtension(8),
  () => takeExtension(16),
  () => takeText(u8()),
  () => takeText(u16()),
  () => takeText(u32()),
  () => takeList(u16()),
  () => takeList(u32()),
  () => takeMap(u16()),
  () => takeMap(u32()),
];
