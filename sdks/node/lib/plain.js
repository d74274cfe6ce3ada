// No host: messages in, one line per result out.

import { Call, current } from './context.js';
import { absent, Exit } from './errors.js';
import { writeAll } from './frames.js';
import { decode, parse, stringify } from './json.js';
import { readLines } from './lines.js';
import { pack, unpack } from './msgpack.js';
import { drive } from './nodes.js';

const NEWLINE = Buffer.from('\n');

/**
 * Run every message of the input: its first line, and the chunks of the *rest*. Resolve to the exit
 * status.
 *
 * Input that begins with a byte from 0x80 up is a msgpack map; JSON never begins so. A host that
 * has *probed* gets an end after the results, which tells it that no handler ended the process.
 */
export async function runPlain(nodes, sink, first, rest, probed) {
  const isPacked = first[0] >= 0x80;
  const encode = isPacked ? pack : (value) => Buffer.from(stringify(value));
  const emit = (value) => print(sink, encode(value));
  let status = 0;
  for await (const read of isPacked ? packed(first, rest) : documents(first, rest)) {
    if (!(await runOne(nodes, read, emit))) status = 1;
  }
  if (probed && status === 0) emit({ op: 'end', id: null });
  return status;
}

async function runOne(nodes, read, emit) {
  let name = 'the node';
  const unsettled = () => {
    console.error(`${name} never ends: nothing is left to wait for`);
    leave(1);
  };
  process.on('beforeExit', unsettled);
  process.on('exit', left);
  process.on('uncaughtExceptionMonitor', thrown);
  try {
    const node = chosen(nodes);
    name = node.name;
    const call = new Call({ node: name });
    await current.run(call, drive, node, read(), call, emit);
    return true;
  } catch (error) {
    console.error(error);
    return false;
  } finally {
    process.off('beforeExit', unsettled);
    process.off('exit', left);
    process.off('uncaughtExceptionMonitor', thrown);
  }
}

/** Fail if a handler ends the process, whatever its exit code. */
function left(status) {
  process.exitCode = 1;
  writeAll(2, Buffer.from(`${new Exit(status).message}\n`));
}

/** Stay silent about an error that ends the process: Node itself prints it. */
function thrown() {
  process.off('exit', left);
}

function leave(status) {
  process.off('exit', left);
  process.exit(status);
}

function chosen(nodes) {
  if (nodes.size === 1) return nodes.values().next().value;
  const name = process.env.EMIT_NODE;
  if (nodes.has(name)) return nodes.get(name);
  if (name) throw absent(name, nodes);
  throw new ReferenceError(`set EMIT_NODE to one of the program's nodes: ${[...nodes.keys()].join(', ')}`);
}

async function* packed(first, rest) {
  const all = await gather(first, rest);
  yield () => unpack(all);
}

/** Yield one message per line, or one document over several lines. Each is read in its own turn. */
async function* documents(first, rest) {
  if (isJson(first)) {
    yield () => parse(decode(first));
    for await (const line of readLines(rest)) if (line.toString().trim()) yield () => parse(decode(line));
    return;
  }
  const document = await gather(first, rest);
  if (document.toString().trim()) yield () => parse(decode(document));
}

async function gather(first, rest) {
  const all = [first];
  for await (const chunk of rest) all.push(chunk);
  return Buffer.concat(all);
}

function isJson(line) {
  try {
    JSON.parse(line);
    return true;
  } catch {
    return false;
  }
}

function print(sink, data) {
  try {
    writeAll(sink, Buffer.concat([data, NEWLINE]));
  } catch (error) {
    if (error.code === 'EPIPE') leave(0); // as with `| head -1`: the reader has enough
    throw error;
  }
}
