// The two private descriptors. Nothing else here reads or writes a descriptor.

import fs from 'node:fs';
import net from 'node:net';
import { Readable } from 'node:stream';

/** Milliseconds, and the number of attempts, to get a descriptor back from another thread. */
const ATTEMPTS = 5000;
const still = new Int32Array(new SharedArrayBuffer(4));

let wire;

/**
 * Take descriptors 0 and 1 away from all other code; return private ones, `{ input, sink }`.
 *
 * Afterwards a read finds the end of input. A print goes to stderr, also one of a child process.
 * A terminal stays, as does any input with EMIT_MSG: they are for a debugger. Node has no dup2():
 * if a descriptor is not a pipe, only `process.stdin` and `process.stdout` can be replaced.
 *
 * `serve` calls this, importing does not: a test imports this file too. The launcher calls it
 * before it loads the author's file; without one the host takes lines before `ready` as prints.
 */
export function takeWire() {
  if (!wire) wire = { input: takeInput(), sink: takeOutput() };
  return wire;
}

function takeInput() {
  if ('EMIT_MSG' in process.env) return null;
  if (!isPipe(0)) return takeStdin();
  const fd = fs.openSync('/dev/fd/0', fs.constants.O_RDONLY);
  reopen(0, '/dev/null', fs.constants.O_RDONLY);
  return { fd, stream: new net.Socket({ fd, readable: true, writable: false }) };
}

function takeStdin() {
  const { stdin } = process;
  if (!stdin.isTTY) {
    const empty = Readable.from([]);
    Object.defineProperty(process, 'stdin', { configurable: true, get: () => empty });
  }
  return { fd: -1, stream: stdin };
}

function takeOutput() {
  let sink = 1;
  // A second opening of a regular file has an offset of its own, and would overwrite the first.
  if (isPipe(1) && (isPipe(2) || statOf(2).isCharacterDevice()) && mayOpen('/dev/fd/2')) {
    sink = fs.openSync('/dev/fd/1', fs.constants.O_WRONLY);
    reopen(1, '/dev/fd/2', fs.constants.O_WRONLY);
  }
  Object.defineProperty(process, 'stdout', { configurable: true, get: () => process.stderr });
  return sink;
}

/**
 * Open *path* as descriptor *fd*: a new descriptor gets the lowest free number. Another thread may
 * have been quicker: Node's own threads open a file for a moment when they give memory back.
 */
function reopen(fd, path, flags) {
  fs.closeSync(fd);
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const opened = fs.openSync(path, flags);
    if (opened === fd) return;
    fs.closeSync(opened);
    sleep(1);
  }
  throw new Error(`descriptor ${fd} was taken by another thread, which keeps it`);
}

function mayOpen(path) {
  try {
    fs.closeSync(fs.openSync(path, fs.constants.O_WRONLY));
    return true;
  } catch {
    return false; // another user's terminal, as after su
  }
}

function isPipe(fd) {
  return statOf(fd).isFIFO();
}

/**
 * Stat with BigInt, whose results Node keeps apart. Node keeps all other results in one place,
 * where its realpath() looks: after the stat of a pipe it does not resolve the links of a package,
 * and the package does not find the files beside the place that it is linked to.
 */
function statOf(fd) {
  return fs.fstatSync(fd, { bigint: true });
}

function sleep(milliseconds) {
  Atomics.wait(still, 0, 0, milliseconds);
}

/** Write all of *data* before returning: a write to a pipe may be cut short. Throws EPIPE. */
export function writeAll(fd, data) {
  for (let at = 0; at < data.length; ) {
    try {
      at += fs.writeSync(fd, data, at);
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
      sleep(1); // a socket or a terminal that is set to non-blocking
    }
  }
}

/**
 * Return up to *size* bytes that are in the pipe now; undefined if there are none. Does not wait.
 */
export function readNow(fd, size) {
  try {
    const bytes = Buffer.allocUnsafe(size);
    const got = fs.readSync(fd, bytes);
    return got ? bytes.subarray(0, got) : undefined;
  } catch (error) {
    if (error.code === 'EAGAIN') return undefined;
    throw error;
  }
}
