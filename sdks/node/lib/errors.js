// Errors that an author throws, errors of the SDK, and the form of any error on the wire.

import { inspect } from 'node:util';

/** Throw it to get the same message again, `after` seconds from now. */
export class Retry extends Error {
  name = 'Retry';

  constructor(message = 'try again', { after, ...options } = {}) {
    super(message, options);
    if (after != null && !(Number.isFinite(after) && after >= 0)) {
      throw new RangeError(`after must be seconds from 0 up, not ${inspect(after)}`);
    }
    this.after = after ?? undefined;
  }
}

/** Throw it when no attempt with this message can succeed. */
export class Reject extends Error {
  name = 'Reject';
}

/** The wire cannot carry a result unchanged. The text says which part of it, and why. */
export class EncodeError extends Error {
  name = 'EncodeError';
}

/** A result, or a frame from the host, beyond `max_frame`. Nothing of it was written. */
export class FrameTooLarge extends EncodeError {
  name = 'FrameTooLarge';
}

/** The reason of a cancelled call's signal, and the answer of a call cancelled while it waited. */
export class Cancelled extends Error {
  name = 'Cancelled';
}

/** The input is not a frame, or not a message. */
export class DecodeError extends Error {
  name = 'DecodeError';
}

const HERE = import.meta.dirname;
const OURS = [`${HERE}/`, `${HERE.slice(0, -'lib'.length)}index.js`];
/**
 * Parts of a stack's line to remove: the scheme of its URL, and the query of load.js's second
 * import.
 */
const NO_PLACE = /file:\/\/|\?(?:again=1|by=tsx)(?=:)/g;
const FOR_US = /node:async_hooks|\/runtimes\/node\/(launch\.cjs|resolve\.mjs)/;

/** Return the fields of an `err` frame: type, message, stack, cause, and the retry, if any. */
export function describe(error, depth = 4) {
  try {
    return describeWell(error, depth);
  } catch {
    return { type: 'Error', message: 'an error whose own text cannot be read' };
  }
}

function describeWell(error, depth) {
  if (!(error instanceof Error)) return { type: 'Thrown', message: text(error) };
  const about = { type: text(typeOf(error)), message: text(error.message), stack: stackOf(error) };
  const cause = error.cause ?? error.errors?.[0]; // an AggregateError has several
  if (cause != null && depth) about.cause = describe(cause, depth - 1);
  if (error instanceof Retry || error instanceof Reject) about.retry = error instanceof Retry;
  if (error instanceof Retry && error.after !== undefined) about.after = error.after;
  return about;
}

const TIMEOUT = /abort|timeout|timedout|cancel/i; // AbortError, ETIMEDOUT, ERR_CANCELED, ...

/**
 * True if *error*, or one that caused it, is *reason* or a timeout. By name: each library has its
 * own.
 */
export function isTimeout(error, reason, depth = 4) {
  if (error == null || !depth) return false;
  try {
    const names = [error.name, error.code, error.constructor?.name];
    if (error === reason || names.some((name) => typeof name === 'string' && TIMEOUT.test(name))) return true;
    return isTimeout(error.cause ?? error.errors?.[0], reason, depth - 1);
  } catch {
    return false; // the parts of the error cannot be read
  }
}

/** Return an error for a program with several nodes but none of this *name*. */
export function absent(name, nodes) {
  return new ReferenceError(`there is no node "${name}" in this program; it has: ${[...nodes.keys()].join(', ')}`);
}

/** A handler has ended the process. */
export class Exit extends Error {
  name = 'Exit';

  constructor(status) {
    super(`the handler ended the process: process.exit(${status})`);
  }
}

function typeOf(error) {
  // `class ShopError extends Error {}` still has the name "Error".
  return error.name === 'Error' ? (error.constructor?.name ?? 'Error') : error.name;
}

/** The author's own lines before those of libraries and of Node, and none of the SDK's. */
function stackOf(error) {
  // A syntax error begins with its place, other errors with their text.
  const lines = String(error.stack ?? '').match(/^ +at .*$|^(?:file:\/\/)?\/.*:\d+$/gm) ?? [];
  const frames = lines.slice(0, 40).map((line) => text(line.replace(/^ +at /, '').replace(NO_PLACE, ''), 400));
  const foreign = frames.filter((frame) => !isOurs(frame));
  const isLibrary = (frame) => /node:|\/node_modules\//.test(frame);
  return [...foreign.filter((f) => !isLibrary(f)), ...foreign.filter(isLibrary)];
}

function isOurs(frame) {
  return OURS.some((path) => frame.includes(path)) || FOR_US.test(frame);
}

/** Text that any codec carries: at most `most` characters, and a note of the full number. */
export function text(value, most = 8192) {
  let string;
  try {
    string = typeof value === 'string' ? value : typeof value === 'object' ? inspect(value) : String(value);
  } catch (error) {
    string = `(no text: making it threw ${error?.name})`;
  }
  const cut = string.length <= most ? string : `${string.slice(0, most)}... (${string.length} characters)`;
  return cut.toWellFormed();
}
