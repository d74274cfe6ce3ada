// Nodes: the author's part, and how a node is called with a message. No I/O here.

import { Call, current } from './context.js';
import { check } from './values.js';

const SPACE = /^(\s|\/\/.*|\/\*[^]*?\*\/)*/;
/** The text before the first parameter of any kind of function. */
const HEAD = /^(async\b)?\s*(function\b)?\s*\*?\s*[\w$]*\s*\(/;
const FIELD = /^([\w$]+|'[^'\\]*'|"[^"\\]*")\s*(?:$|[:=])/;

const LONG = 4;

/** A handler with its name and the fields that it destructures, if any. */
export class Handler {
  /** Milliseconds for which this node's code recently kept the thread. Until it is known: long. */
  pace = LONG;

  constructor(name, handler, file = undefined) {
    this.name = name;
    this.file = file; // the path or address of its source, which may state types
    this.handler = handler;
    this.inputs = inputsOf(handler);
  }

  /** Return the handler's own return value: a value, a promise, or a stream of values. */
  invoke(msg, call) {
    this.checkMessage(msg);
    const { handler } = this;
    return handler(msg, call);
  }

  /** Record the slowest of the last dozen times: a quick call does not hide the others. */
  keptThread(milliseconds) {
    this.pace = Math.max(Math.min(milliseconds, LONG), this.pace * 0.9);
  }

  checkMessage(msg) {
    if (msg === null || typeof msg !== 'object' || Array.isArray(msg)) {
      throw new TypeError(`a message is a map of fields, not ${Array.isArray(msg) ? 'a list' : typeof msg}`);
    }
    const lacks = this.inputs?.required.find((field) => !Object.hasOwn(msg, field));
    if (lacks !== undefined) {
      const has = Object.keys(msg).join(', ');
      throw new TypeError(`${this.name} needs "${lacks}"; the message has: ${has}`);
    }
  }
}

/** Return the function for the author: call it with a message, and it resolves to the results. */
export function callable(node) {
  const call = (msg, given) => current.run(given ?? new Call({ node: node.name }), collect, node, msg);
  Object.defineProperty(call, 'name', { value: node.name });
  return Object.assign(call, { handler: node.handler });
}

async function collect(node, msg) {
  const results = [];
  await drive(node, msg, current.getStore(), (value) => {
    check(value, true);
    results.push(value);
  });
  return results;
}

/** Run one call to its end, and pass each result to *emit*. */
export async function drive(node, msg, call, emit) {
  const result = await node.invoke(msg, call);
  if (isStream(result) || isAsyncStream(result)) for await (const value of result) emit(value);
  else if (result !== undefined) emit(result);
}

/** True for a generator or another iterator. Lists, texts and Maps are values. */
export function isStream(result) {
  return typeof result?.next === 'function' && typeof result[Symbol.iterator] === 'function';
}

export function isAsyncStream(result) {
  return typeof result?.[Symbol.asyncIterator] === 'function';
}

/**
 * Return the fields of `({ text, limit = 5, ...rest }) =>`: those a message must have, and may
 * have. Undefined for a handler that takes the whole message, or that cannot be read.
 */
export function inputsOf(handler) {
  const code = Function.prototype.toString.call(handler);
  const head = HEAD.exec(code);
  if (!head) return undefined;
  const rest = trim(code.slice(head[0].length));
  return rest.startsWith('{') ? readFields(rest) : undefined;
}

function readFields(code) {
  const inputs = { required: [], optional: [] };
  for (const part of split(code)) {
    if (part.startsWith('...') || part === '') continue;
    const name = FIELD.exec(part)?.[1];
    if (name === undefined) return undefined; // such as a computed key
    const list = hasDefault(part) ? inputs.optional : inputs.required;
    list.push(name.replace(/^['"]|['"]$/g, ''));
  }
  return inputs;
}

function hasDefault(part) {
  // In `a: b = 1` and `a: { b = 1 } = {}` only the part outside of brackets counts.
  return [...tokens(part)].some(([token, depth]) => token === '=' && depth === 0);
}

/** Return the parts between the commas of `{a, b = f(1, 2)}`, without comments. */
function split(code) {
  const parts = [''];
  for (const [token, depth] of tokens(code)) {
    if (depth === 0) break;
    if (depth === 1 && token === ',') parts.push('');
    else if (!(depth === 1 && token === '{' && parts[0] === '')) parts[parts.length - 1] += token;
  }
  return parts.map(trim);
}

/** Yield each token with the depth of its brackets, its own included. */
function* tokens(code) {
  let depth = 0;
  const pattern = /\/\/.*|\/\*[^]*?\*\/|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|=>|[=!]==?|[^]/g;
  for (const [token] of code.matchAll(pattern)) {
    if (token.startsWith('//') || token.startsWith('/*')) continue;
    if ('{[('.includes(token)) depth += 1;
    if ('}])'.includes(token)) depth -= 1;
    yield [token, depth];
  }
}

function trim(code) {
  return code.replace(SPACE, '').trim();
}
