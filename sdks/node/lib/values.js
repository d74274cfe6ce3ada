// The values that the wire carries, and the reasons why it can't carry others. No I/O here.

import { EncodeError } from './errors.js';

/** Levels, and members of lists and maps, that a host takes. */
export const DEPTH = 128;
export const MEMBERS = 1_000_000;
const NO_JSON = 'JSON cannot carry it; msgpack can: codec = "msgpack" of the node';
const NAME = /^(?!(?:\P{N}*\p{N}){5})[\p{L}_][\p{L}\p{N}_-]{0,39}$/u;
const LEAST = -(2n ** 63n);
const MOST = 2n ** 64n - 1n;

/** True if JSON.stringify writes *value* unchanged. Other values need a closer look. */
export function isPlain(value, levels = DEPTH) {
  if (typeof value === 'string' || typeof value === 'boolean' || value === null) return true;
  if (typeof value === 'number') return isPlainNumber(value);
  return typeof value === 'object' && levels > 0 && isPlainInside(value, levels - 1);
}

function isPlainNumber(value) {
  if (Number.isSafeInteger(value)) return value !== 0 || 1 / value > 0; // it writes -0 as 0
  return Number.isFinite(value) && !Number.isInteger(value); // and 1e20 as an integer
}

// Most members are texts. Without a call for each, all of a small result takes a tenth less.
function isPlainInside(value, levels) {
  if (typeof value.toJSON === 'function') return false;
  if (Array.isArray(value)) {
    for (let at = 0; at < value.length; at++) {
      if (typeof value[at] !== 'string' && !isPlain(value[at], levels)) return false;
    }
    return true;
  }
  if (!isMap(value)) return false;
  for (const key in value) {
    if (typeof value[key] !== 'string' && !isPlain(value[key], levels)) return false;
  }
  return Object.getOwnPropertySymbols(value).length === 0;
}

/**
 * True for `{}` of any realm and for an object without prototype; false for an instance of a class.
 */
export function isMap(value) {
  const parent = Object.getPrototypeOf(value);
  return parent === Object.prototype || parent === null || Object.getPrototypeOf(parent) === null;
}

/**
 * Throw an EncodeError that says which part of *value* the codec cannot carry.
 * `binary`: the codec is msgpack, which carries bytes, instants, NaN and infinity.
 */
export function check(value, binary, path = 'result', levels = DEPTH) {
  if (typeof value === 'string') checkText(value, path);
  else if (typeof value === 'number') checkNumber(value, binary, path);
  else if (typeof value === 'bigint') checkInteger(value, path);
  else if (typeof value === 'object' && value !== null) checkObject(value, binary, path, levels);
  else if (value !== null && typeof value !== 'boolean') {
    const advice = value === undefined ? '; use null, or leave it out' : '';
    throw new EncodeError(`${path} is ${nameOf(value)}, which no codec carries${advice}`);
  }
}

function checkText(value, path) {
  if (!value.isWellFormed()) throw new EncodeError(`${path} is no valid text: it holds a lone surrogate`);
}

function checkNumber(value, binary, path) {
  if (!binary && !Number.isFinite(value)) throw new EncodeError(`${path} is ${value}: ${NO_JSON}`);
}

function checkInteger(value, path) {
  if (value < LEAST || value > MOST) {
    throw new EncodeError(`${path} is an integer beyond 64 bits; emit it as text`);
  }
}

function checkObject(value, binary, path, levels) {
  if (value instanceof Uint8Array || value instanceof Date) checkBinary(value, binary, path);
  else if (!levels) throw new EncodeError(`${path.slice(0, 80)}... nests deeper than ${DEPTH} levels`);
  else if (Array.isArray(value)) {
    for (let at = 0; at < value.length; at++) check(value[at], binary, `${path}[${at}]`, levels - 1);
  } else if (isMap(value)) checkMap(value, binary, path, levels);
  else throw new EncodeError(`${path} is ${nameOf(value)}, which no codec carries`);
}

function checkBinary(value, binary, path) {
  if (!binary) throw new EncodeError(`${path} is ${nameOf(value)}: ${NO_JSON}`);
  if (value instanceof Date && Number.isNaN(value.getTime())) {
    throw new EncodeError(`${path} is an invalid Date`);
  }
}

function checkMap(value, binary, path, levels) {
  for (const key of Reflect.ownKeys(value)) {
    if (typeof key === 'symbol') {
      throw new EncodeError(`${path} has a key of type symbol; a key must be text`);
    }
    checkText(key, `a key of ${path}`);
  }
  for (const [at, key] of Object.keys(value).entries()) {
    check(value[key], binary, step(path, key, at + 1), levels - 1);
  }
}

/** A key that may be data, such as an address, is replaced by its number: the text ends in logs. */
function step(path, key, at) {
  return NAME.test(key) ? `${path}.${key}` : `${path}[key ${at}]`;
}

function nameOf(value) {
  if (typeof value !== 'object') return value === undefined ? 'undefined' : `a ${typeof value}`;
  return `a ${value.constructor?.name || 'class instance'}`;
}

/** Count the members of the lists and maps in *value*, all levels together. */
export function members(value) {
  if (value === null || typeof value !== 'object') return 0;
  if (value instanceof Uint8Array || value instanceof Date) return 0;
  const inside = Object.values(value);
  return inside.reduce((sum, item) => sum + members(item), inside.length);
}
