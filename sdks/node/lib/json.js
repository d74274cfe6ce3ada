// JSON without silent changes: 64-bit integers, -0 and broken text included. No I/O here.

import { isUtf8 } from 'node:buffer';
import { DecodeError } from './errors.js';
import { check, isPlain } from './values.js';

/** This many digits in a row may be an integer beyond 2^53. */
const LONG = 16;
const SURROGATE = /\\u[dD][89a-fA-F]/;
const NUMBER = /-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g;
/** A text that stands for an integer: no valid text has half a character before a digit. */
const MARKED = /^\ud800-?\d/;

/** Return a value as JSON. Throws EncodeError. */
export function stringify(value) {
  if (isPlain(value)) {
    const json = JSON.stringify(value);
    if (!json.includes('\\ud')) return json; // it writes a lone surrogate as \ud800
  }
  check(value, false);
  return write(value);
}

function write(value) {
  if (typeof value === 'bigint') return String(value);
  if (typeof value === 'number') return writeNumber(value);
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  if (Array.isArray(value)) return `[${Array.from(value, write).join(',')}]`;
  const pair = (key) => `${JSON.stringify(key)}:${write(value[key])}`;
  return `{${Object.keys(value).map(pair).join(',')}}`;
}

function writeNumber(value) {
  // As a float, with a point: as an integer, 1e20 would be beyond 64 bits.
  if (Object.is(value, -0)) return '-0.0';
  const text = String(value);
  return Number.isInteger(value) && !Number.isSafeInteger(value) && !text.includes('e') ? `${text}.0` : text;
}

/** Return the value of *text*; an integer beyond 2^53 is a BigInt. Throws DecodeError. */
export function parse(text) {
  return isSuspect(text) ? parseExactly(text) : parsePlainly(text);
}

/**
 * Return the values of a *text*'s lines. Searching it once for long integers is faster than by
 * line.
 */
export function parseLines(text) {
  const one = isSuspect(text) ? parseExactly : parsePlainly;
  const values = [];
  // With split() it would take half as long again: V8 looks up each line that it makes.
  for (let from = 0, end; from < text.length; from = end + 1) {
    end = text.indexOf('\n', from);
    if (end < 0) end = text.length;
    const line = text.slice(from, end);
    if (line.length > 1 || line.trim()) values.push(one(line));
  }
  return values;
}

function isSuspect(text) {
  return hasLong(text) || (text.includes('\\u') && SURROGATE.test(text));
}

/** Test as /\d{16}/, in a tenth of the time: of 16 in a row, one stands at a multiple of 16. */
function hasLong(text) {
  for (let at = LONG - 1; at < text.length; at += LONG) {
    if (isDigit(text, at) && digitsAround(text, at) >= LONG) return true;
  }
  return false;
}

function digitsAround(text, at) {
  let from = at;
  let end = at;
  while (isDigit(text, from - 1)) from -= 1;
  while (isDigit(text, end)) end += 1;
  return end - from;
}

function isDigit(text, at) {
  const code = text.charCodeAt(at); // NaN before and after the text
  return code >= 48 && code <= 57;
}

function parsePlainly(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new DecodeError(`no JSON: ${error.message}`);
  }
}

function parseExactly(text) {
  const value = parsePlainly(text);
  checkWords(value);
  return hasLong(text) ? restore(JSON.parse(mark(text))) : value;
}

/** Return *bytes* as text. Node would put U+FFFD for invalid UTF-8. */
export function decode(bytes) {
  const text = bytes.toString();
  if (text.includes('\ufffd') && !isUtf8(bytes)) throw new DecodeError('no valid UTF-8');
  return text;
}

function checkWords(value) {
  if (typeof value === 'string' && !value.isWellFormed()) throw new DecodeError('a lone surrogate in a text');
  if (value === null || typeof value !== 'object') return;
  Object.keys(value).forEach(checkWords);
  Object.values(value).forEach(checkWords);
}

/** Replace each integer beyond 2^53 in *text* by a text that MARKED matches. */
function mark(text) {
  let marked = '';
  for (let at = 0; at < text.length; ) {
    const quote = text.indexOf('"', at);
    const end = quote < 0 ? text.length : quote;
    marked += text.slice(at, end).replace(NUMBER, markNumber);
    at = quote < 0 ? end : closing(text, quote);
    marked += text.slice(end, at);
  }
  return marked;
}

function markNumber(number) {
  return /[.eE]/.test(number) || Number.isSafeInteger(Number(number)) ? number : `"\\ud800${number}"`;
}

/** Return the end of the text that begins at *quote*. */
function closing(text, quote) {
  let end = text.indexOf('"', quote + 1);
  while (isEscaped(text, end)) end = text.indexOf('"', end + 1);
  return end + 1;
}

function isEscaped(text, at) {
  let from = at;
  while (text[from - 1] === '\\') from -= 1;
  return (at - from) % 2 === 1;
}

function restore(value) {
  if (typeof value === 'string') return MARKED.test(value) ? integer(value.slice(1)) : value;
  if (value === null || typeof value !== 'object') return value;
  for (const key of Object.keys(value)) {
    const property = { value: restore(value[key]), enumerable: true, writable: true, configurable: true };
    Object.defineProperty(value, key, property); // also if the key is __proto__
  }
  return value;
}

function integer(digits) {
  const value = BigInt(digits);
  if (value < -(2n ** 63n) || value >= 2n ** 64n) {
    throw new DecodeError(`an integer of ${digits.length} digits, beyond 64 bits`);
  }
  return value;
}
