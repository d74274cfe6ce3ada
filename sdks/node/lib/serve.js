// Serving: the choice of nodes, the time, and the caller.

import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';
import { Json } from './codec.js';
import { configure, hideConfig } from './config.js';
import { describe } from './errors.js';
import { takeWire, writeAll } from './frames.js';
import { callable, Handler } from './nodes.js';
import { chunks, readFirst } from './lines.js';
import { Session } from './session.js';
import { typesIn } from './types.js';
import { VERSION } from './version.js';

const VERSIONS = [1];
const HERE = import.meta.dirname;

const registered = [];
const hooks = [];
let concurrency = 1;
let isServing = false; // or will be: by the file itself, or by boot

/**
 * Define a node, `node(handler)` or `node('name', handler)`, of the calling program. The program
 * serves all its nodes once it has loaded. A file that is only imported serves nothing.
 */
export function node(...given) {
  const [name, handler] = typeof given[0] === 'string' ? given : [undefined, given[0]];
  if (typeof handler !== 'function' || name === '') {
    const types = given.map((value) => typeof value).join(', ') || 'nothing';
    throw new TypeError(`node() takes a name, if any, and a function; not ${types}`);
  }
  const caller = callerFile();
  const own = handler.name === 'default' ? '' : handler.name;
  const made = new Handler(name ?? (own || stem(caller)), handler, caller);
  registered.push(made);
  if (isMain(caller)) serveWhenLoaded(caller);
  return callable(made);
}

/** Serve the program's nodes, up to `concurrency` calls at a time. Does nothing when imported. */
export function serve(options = {}) {
  const { concurrency: wanted = 1 } = options;
  if (!Number.isSafeInteger(wanted) || wanted < 1) {
    throw new RangeError(`concurrency must be a whole number from 1 up, not ${wanted}`);
  }
  const caller = callerFile();
  if (isServing || isMain(caller)) concurrency = wanted;
  if (isMain(caller)) serveWhenLoaded(caller);
}

/** Call *hook* when all calls are answered, before the process ends. It may be async. */
export function onStop(hook) {
  hooks.push(hook);
}

/**
 * Load *file* and serve it, for the launcher. The file need not know of Emit.
 *
 * Serves the nodes that the file defines; else the function *name*; else the default export; else
 * the function with the file's name; else `handler`; else the only function. *missing* is called if
 * the file cannot find this package. It makes the next attempt find it.
 */
export function boot(file, name = '', missing = undefined) {
  isServing = true;
  return run(async () => {
    const { load } = await import('./load.js');
    const handler = await load(path.resolve(file), name, registered, missing);
    if (handler) registered.push(handler);
  });
}

function serveWhenLoaded(caller) {
  if (isServing) return;
  isServing = true;
  takeWire();
  // The file is being evaluated; importing it again waits for that, its top-level await included.
  const loaded = caller.startsWith('file:') ? () => import(caller) : () => {};
  setImmediate(run, loaded);
}

async function run(load) {
  const wire = takeWire();
  let failure;
  let nodes;
  try {
    await load();
    nodes = named(registered);
  } catch (error) {
    failure = error ?? new Error(`loading threw ${error}`);
  }
  const { first, rest } = wire.input ? await readFirst(wire.input.stream) : fromEnvironment();
  // A line that looks like a hello is a message there: it may have a field `op`.
  const isByHand = !wire.input || process.env.EMIT_PROBE === '1';
  const hello = isByHand ? undefined : helloIn(first);
  if (hello && !failure) failure = versionFailure(hello);
  failure ??= configFailure(hello);
  if (failure) refuse(wire.sink, hello, failure);
  else if (hello) converse(nodes, wire, hello, rest);
  else await serveByHand(nodes, wire, first, rest);
}

function fromEnvironment() {
  return { first: Buffer.from(process.env.EMIT_MSG), rest: Buffer.alloc(0) };
}

function named(handlers) {
  const names = handlers.map((handler) => handler.name);
  if (!names.length || new Set(names).size < names.length) {
    throw new Error(`each node needs a name of its own: ${names.join(', ') || 'there is none'}`);
  }
  return new Map(handlers.map((handler) => [handler.name, handler]));
}

function helloIn(line) {
  try {
    const frame = JSON.parse(line);
    return frame?.op === 'hello' ? frame : undefined;
  } catch {
    return undefined;
  }
}

function versionFailure(hello) {
  if (VERSIONS.some((version) => hello.v?.includes?.(version))) return undefined;
  const error = new Error(`this SDK speaks version 1, not any of ${hello.v}`);
  return Object.assign(error, { name: 'VersionError' });
}

function configFailure(hello) {
  try {
    if (hello) configure(hello);
    else hideConfig();
    return undefined;
  } catch (error) {
    return error;
  }
}

function refuse(sink, hello, failure) {
  if (hello) writeAll(sink, Buffer.from(new Json().frame({ op: 'err', id: null, ...describe(failure) })));
  else console.error(failure);
  process.exit(1);
}

function ready(nodes) {
  const told = [...nodes.values()].map((node) => [node.name, tell(node)]);
  const those = (part) => Object.fromEntries(told.filter(([, it]) => it[part]).map(([name, it]) => [name, it[part]]));
  return {
    op: 'ready',
    v: 1,
    sdk: `node/${VERSION}`,
    concurrency,
    nodes: [...nodes.keys()],
    inputs: those('inputs'),
    outputs: those('outputs'),
    caps: ['cancel', 'end', 'groups'],
  };
}

/** Return what the host is told of a node's fields and their types. */
function tell({ inputs, file, handler }) {
  const { message, result: outputs } = typesOf(file, handler.name || 'default');
  const properties = message?.properties;
  if (!properties) return { inputs, outputs };
  const required = message.required;
  const optional = Object.keys(properties).filter((name) => !required.includes(name));
  if (!inputs) return { inputs: { required, optional, properties }, outputs };
  const known = [...inputs.required, ...inputs.optional].filter((name) => name in properties);
  return { inputs: { ...inputs, properties: Object.fromEntries(known.map((name) => [name, properties[name]])) }, outputs };
}

function typesOf(file, name) {
  try {
    const source = fs.readFileSync(file?.startsWith('file:') ? fileURLToPath(file) : file, 'utf8');
    const isTyped = /\.[cm]?ts$/.test(file) || /@(param|returns?|yields?)\s*\{/.test(source);
    return isTyped ? typesIn(source, name) : {};
  } catch {
    return {}; // there is no file, as in a bundle or a test
  }
}

function converse(nodes, wire, hello, rest) {
  const session = new Session(nodes, concurrency, wire, () => shutDown(0));
  if (Error.stackTraceLimit === 10) Error.stackTraceLimit = 40; // for the author's lines in it
  try {
    session.start(hello, ready(nodes));
  } catch (error) {
    session.breakOff(error); // no ready frame fits
  }
  if (rest.length > 1) session.receive(rest.subarray(1)); // after the end of the line
  const { stream } = wire.input;
  stream.on('data', (bytes) => session.receive(bytes));
  stream.on('end', () => session.leave());
  stream.on('error', () => session.leave());
  stream.resume();
}

async function serveByHand(nodes, { input, sink }, first, rest) {
  const probed = process.env.EMIT_PROBE === '1';
  delete process.env.EMIT_PROBE; // hidden from programs that a handler starts
  if (probed) writeAll(sink, Buffer.from(new Json().frame(ready(nodes))));
  const { runPlain } = await import('./plain.js');
  await shutDown(await runPlain(nodes, sink, first, input ? chunks(input.stream, rest) : [], probed));
}

async function shutDown(status) {
  for (const hook of hooks) {
    try {
      await hook();
    } catch (error) {
      console.error(error);
      status = 1;
    }
  }
  process.exit(status);
}

// The calling file

/** Return the file that called this package, as its stack names it: a URL, or a CommonJS path. */
function callerFile() {
  const { prepareStackTrace, stackTraceLimit } = Error;
  Error.prepareStackTrace = (_, sites) => sites.map((site) => site.getFileName());
  Error.stackTraceLimit = 10;
  const { stack } = new Error();
  Object.assign(Error, { prepareStackTrace, stackTraceLimit });
  return stack.find((file) => file && !file.includes(HERE) && !file.startsWith('node:')) ?? '';
}

function isMain(caller) {
  const file = caller.startsWith('file:') ? fileURLToPath(caller) : caller;
  // A test that defines a node is run as a program too.
  if ('NODE_TEST_CONTEXT' in process.env && /^test$|^test-|[._-]test$/.test(stem(file))) return false;
  return isMainThread && file !== '' && file === mainFile();
}

function mainFile() {
  const { main } = createRequire(import.meta.url); // for a CommonJS program; its argv[1] may lack the suffix
  if (main?.filename) return main.filename;
  try {
    return fs.realpathSync(process.argv[1]);
  } catch {
    return undefined; // node -e
  }
}

/** Return `words` for any path or URL of words.mjs. */
function stem(file) {
  return path.basename(file.startsWith('file:') ? fileURLToPath(file) : file).replace(/\.\w+$/, '') || 'node';
}
