// The calls of one process under a host: one thread, one event loop.

import { choose, Splitter } from './codec.js';
import { Call, current } from './context.js';
import { absent, Cancelled, describe, Exit, FrameTooLarge } from './errors.js';
import { readNow } from './frames.js';
import { logThrough } from './log.js';
import { isAsyncStream, isStream } from './nodes.js';
import { LARGEST, LINGER, Sender } from './sender.js';
import { isMap } from './values.js';

/** Bytes worked on before a write: the host refills the pipe meanwhile. */
const SLICE = 16 * 1024;
/** Milliseconds from the end of the input to the exit: 5 s in all. */
const GRACE = 4500;
const PARENT = process.ppid;
const PROTOCOL_ERROR = 76; // EX_PROTOCOL of sysexits.h

export class Session {
  // A Map of all open calls would cost more than a simple handler does.
  waiting = [];
  awaited = new Set(); // calls that have begun and wait for something
  running = 0; // those, and the one that has the thread
  signalled = 0; // those of them whose signal is in use
  rest = Buffer.alloc(0); // input that has arrived, but has not been read
  ended = false;
  leaving = false;
  broken = false;

  /** *cleanUp* runs after the last call; it ends the process. */
  constructor(nodes, concurrency, { input, sink }, cleanUp) {
    this.nodes = nodes;
    this.concurrency = concurrency;
    this.source = input.stream;
    this.fd = input.fd;
    this.sink = sink;
    this.cleanUp = cleanUp;
  }

  start(hello, ready) {
    const maxFrame = hello.max_frame ?? LARGEST;
    const codec = choose(hello.codecs);
    // A program with one node serves it under any name.
    this.only = this.nodes.size === 1 ? this.nodes.keys().next().value : undefined;
    this.preferred = hello.node;
    this.sender = new Sender(this.sink, maxFrame);
    this.listen(); // before the host is told: it may send a signal at once
    this.sender.send(fitting({ ...ready, codec: codec.name }, maxFrame));
    this.sender.codec = codec;
    this.splitter = new Splitter(codec, maxFrame + 4);
    logThrough((level, text) => this.log(level, text));
  }

  listen() {
    // Ctrl-C reaches every process of a terminal, and the host decides.
    process.on('SIGINT', () => {});
    process.on('SIGTERM', () => this.leave());
    process.on('beforeExit', () => this.failUnsettled());
    process.on('exit', (status) => this.exit(status));
    process.on('uncaughtExceptionMonitor', (error) => this.thrown(error));
    setInterval(() => this.watch(), 1000).unref();
  }

  watch() {
    // Not 1: in a container the host may be process 1.
    if (process.ppid !== PARENT || this.sender.gone) this.leave();
  }

  log(level, text) {
    const id = current.getStore()?.id;
    this.sender.send({ op: 'log', level, text, ...(id != null && { id }) });
  }

  // Frames in

  receive(chunk) {
    this.rest = this.rest.length ? Buffer.concat([this.rest, chunk]) : chunk;
    do {
      this.feed();
      this.startCalls();
      this.sender.write();
    } while (this.rest.length && !this.ended);
    if (this.ended || this.sender.gone) this.leave();
  }

  feed() {
    const slice = this.rest.subarray(0, SLICE);
    this.rest = this.rest.subarray(slice.length);
    this.takeAll(slice);
  }

  takeAll(bytes) {
    try {
      for (const frame of this.splitter.feed(bytes)) this.take(frame);
    } catch (error) {
      this.breakOff(error); // the input is not a frame
    }
  }

  take(frame) {
    if (!isMap(frame)) throw new TypeError('a frame of the host is no map');
    // An unknown frame comes from a newer host.
    if (frame.op === 'calls') this.acceptGroup(frame);
    else if (frame.op === 'call') this.accept(frame);
    else if (frame.op === 'cancel') this.cancel(frame.id);
    else if (frame.op === 'ping') this.sender.send({ op: 'pong', n: frame.n });
    else if (frame.op === 'bye') this.ended = true;
  }

  accept(frame) {
    const wrong = misfit(frame);
    if (wrong) {
      const error = new TypeError(`a call of the host lacks its ${wrong}, or it is of another type`);
      if (wrong === 'id') throw error;
      this.sender.send({ op: 'err', id: frame.id, ...describe(error) });
      return;
    }
    this.enqueue(frame);
  }

  /** A broken group ends the process: its id is not enough to answer all of its calls. */
  acceptGroup(frame) {
    const wrong = misfitOfGroup(frame);
    if (wrong) throw new TypeError(`calls of the host lack their ${wrong}, or it is of another type`);
    this.sender.groups = true;
    const { id, msgs, node, meta, metas } = frame;
    for (let at = 0; at < msgs.length; at++) {
      const own = metas?.[at];
      const both = own && meta ? { ...meta, ...own } : (own ?? meta);
      const number = typeof id === 'bigint' ? id + BigInt(at) : id + at;
      this.enqueue({ id: number, node, msg: msgs[at], meta: both });
    }
  }

  enqueue(frame) {
    const call = new Call(frame, this);
    call.node = this.only ?? call.node ?? this.preferred;
    this.waiting.push(call);
  }

  cancel(id) {
    const calls = [current.getStore(), ...this.awaited, ...this.waiting];
    calls.find((call) => call?.id === id)?.cancel();
  }

  /** A `cancel` may wait in the pipe while a handler keeps the thread. */
  look() {
    if (this.fd < 0) return;
    while (this.rest.length) this.feed();
    for (let bytes; (bytes = readNow(this.fd, SLICE)); ) this.takeAll(bytes);
  }

  // Calls

  startCalls() {
    let before = performance.now();
    while (this.waiting.length && this.running < this.concurrency) {
      const call = this.waiting.shift();
      const node = this.nodes.get(call.node);
      // Finished results do not wait for a slow node.
      if (this.sender.waits && !(node?.pace < LINGER)) this.sender.write();
      this.run(call, node);
      const now = performance.now();
      node?.keptThread(now - before);
      this.sender.writeIfDue(now);
      before = now;
    }
    current.enterWith(undefined);
    this.holdLoop();
  }

  /** Run one call. A promise ends its call itself. */
  run(call, node) {
    this.running += 1;
    current.enterWith(call); // startCalls leaves it: run() would do so for each call
    call.begin();
    try {
      const result = this.invoke(call, node);
      if (typeof result !== 'object' || result === null) this.finishWith(call, result);
      else if (typeof result.then === 'function' || isAsyncStream(result)) this.settle(call, result);
      else if (isStream(result)) this.drain(call, node, result);
      else this.finishWith(call, result);
    } catch (error) {
      this.finish(call, error ?? nothing(call.node, error));
    }
  }

  invoke(call, node) {
    if (call.wasCancelled) throw new Cancelled('cancelled by the host before it began');
    if (node) return node.invoke(call.msg, call);
    throw absent(call.node, this.nodes);
  }

  drain(call, node, stream) {
    let before = performance.now();
    for (const value of stream) {
      this.sender.emit(call, value);
      const now = performance.now();
      node.keptThread(now - before);
      if (node.pace > LINGER || now - call.oldest > LINGER) this.sender.flush();
      before = now;
    }
    this.finish(call);
  }

  async settle(call, promised) {
    call.isAsync = true;
    this.awaited.add(call);
    try {
      const result = await promised;
      if (isStream(result) || isAsyncStream(result)) {
        for await (const value of result) this.sender.emit(call, value);
        this.finish(call);
      } else this.finishWith(call, result);
    } catch (error) {
      this.finish(call, error ?? nothing(call.node, error));
    }
    this.startCalls();
    this.sender.writeSoon();
    if (this.leaving) this.leave();
  }

  finishWith(call, value) {
    if (call.closed) return; // it was given up before
    if (value === undefined) this.sender.end(call);
    else this.sender.endWith(call, value);
    this.close(call);
  }

  finish(call, error) {
    if (call.closed) return;
    if (error === undefined) this.sender.end(call);
    else this.sender.fail(call, error);
    this.close(call);
  }

  close(call) {
    call.close();
    if (call.hasSignal) this.signalled -= 1;
    if (call.isAsync) this.awaited.delete(call);
    this.running -= 1;
  }

  // The loop

  signalling() {
    this.signalled += 1;
    this.holdLoop();
  }

  /**
   * Keep the loop alive only if the input can help. With the most calls open, only a cancel in the
   * input helps one of them. If they wait for nothing else, they would never end: Node then emits
   * beforeExit.
   */
  holdLoop() {
    const hold = this.running < this.concurrency || this.signalled > 0;
    if (hold === this.held) return;
    this.held = hold;
    if (hold) this.source.ref?.();
    else this.source.unref?.();
  }

  failUnsettled() {
    const text = 'it waits for something that can never happen: nothing is left to wait for';
    for (const call of this.awaited) this.finish(call, new Error(`${call.node} never ends: ${text}`));
    this.startCalls();
    this.sender.write();
    if (this.leaving) this.leave();
  }

  // The end

  /** Accept no more calls. End when all accepted calls are answered. */
  leave() {
    if (!this.leaving) {
      this.leaving = true;
      this.fd = -1;
      this.source.pause();
      this.source.unref?.();
      setTimeout(() => process.exit(1), GRACE).unref();
    }
    if (this.waiting.length || this.running || this.stopping) return;
    this.stopping = true;
    this.sender.write();
    this.cleanUp();
  }

  exit(status) {
    // If Node itself ends the process, `thrown` has reported the error and closed the call.
    const call = current.getStore();
    if (call?.id != null && !call.closed && !this.broken) this.giveUp(new Exit(status));
    this.sender.flush();
  }

  /** Report an error outside of a handler's reach. Node is about to end the process. */
  thrown(error) {
    if (process.listenerCount('uncaughtException')) return; // the author's own
    this.giveUp(error ?? nothing(current.getStore()?.node ?? 'something', error));
    this.sender.write();
  }

  /**
   * Fail the current call, if any: it ends the process. The other calls are not to blame, so the
   * host is told that no results will follow, and tries them elsewhere.
   */
  giveUp(error) {
    const call = current.getStore();
    if (call?.id != null) this.finish(call, error);
    this.sender.failAll(error);
  }

  /**
   * End the process: the host is at fault. A handler that looks for a cancel has an open call, like
   * others.
   */
  breakOff(error) {
    this.broken = true;
    this.sender.failAll(error);
    process.exit(PROTOCOL_ERROR);
  }
}

/**
 * Return a ready frame that fits, if needed without the inputs and outputs. They are for people,
 * and grow with the program.
 */
function fitting({ inputs, outputs, ...ready }, maxFrame) {
  const size = (fields) => Buffer.byteLength(JSON.stringify(fields));
  const whole = { ...ready, inputs, outputs };
  if (size(whole) <= maxFrame) return whole;
  if (size(ready) <= maxFrame) return ready;
  throw new FrameTooLarge(
    `the ready frame of this program takes ${size(ready)} bytes, and a frame holds at most ` +
      `${maxFrame}: raise max_frame of the node`,
  );
}

/** Name the field that breaks a call of the host. The id comes first: it identifies the call. */
function misfit({ id, msg, node, meta }) {
  if (!Number.isInteger(id) && typeof id !== 'bigint') return 'id';
  if (msg == null || !isMap(msg)) return 'msg';
  if (node != null && typeof node !== 'string') return 'node';
  return isMeta(meta) ? '' : 'meta';
}

function misfitOfGroup({ id, msgs, node, meta, metas }) {
  if (!Array.isArray(msgs) || !msgs.length) return 'msgs';
  for (const msg of msgs) if (msg == null || !isMap(msg)) return 'msgs';
  const fits = metas == null || (Array.isArray(metas) && metas.length === msgs.length && metas.every(isMeta));
  return fits ? misfit({ id, msg: msgs[0], node, meta }) : 'metas';
}

function isMeta(meta) {
  if (meta == null) return true;
  return isMap(meta) && (meta.deadline_ms == null || typeof meta.deadline_ms === 'number');
}

/** Return an error for `throw undefined`. */
function nothing(name, thrown) {
  return new TypeError(`${name} threw ${thrown}`);
}
