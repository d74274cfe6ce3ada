// Frames out: gathered up to a limit of time, and written whole.

import { choose } from './codec.js';
import { describe, EncodeError, FrameTooLarge } from './errors.js';
import { writeAll } from './frames.js';
import { MEMBERS, members } from './values.js';

/** Bytes of results that are worth a write of their own. */
export const ENOUGH = 16 * 1024;
/** The length of an answer that may share a frame with others. */
const SMALL = 512;
/** Milliseconds that a finished result may wait for company. */
export const LINGER = 1;
/**
 * Bytes of a frame: the most that max_frame can be, and the default if the host does not send one.
 */
export const LARGEST = (1 << 24) - 1;

const NONE = [];
/** The text that is cut in each kind of frame if the frame would exceed max_frame. */
const CUT = { err: 'message', log: 'text' };

export class Sender {
  /** True once nobody reads any more. */
  gone = false;
  codec = choose();
  /** True once the host has sent a group: it can take several answers in a frame. */
  groups = false;
  #chunks = [];
  #size = 0;
  #oldest = 0; // when the oldest chunk was put there
  #gathered = []; // the lists of results, encoded, of calls that follow one another
  #first = 0; // the first of these calls
  #length = 0; // of all these lists
  #partial = new Set(); // calls with results that are in no chunk yet
  #immediate;
  #timer;

  constructor(sink, maxFrame) {
    this.sink = sink;
    this.maxFrame = maxFrame;
    this.room = maxFrame - 64; // for results, beside the frame's other fields
  }

  /** True if anything waits to be written. */
  get waits() {
    return this.#size > 0 || this.#gathered.length > 0;
  }

  send(fields) {
    this.#put(this.#fit(fields));
    this.write();
  }

  /** An err or a log over max_frame would be lost whole, so its longest parts are cut. */
  #fit(fields) {
    const frame = this.codec.frame(fields);
    if (this.codec.size(frame) <= this.maxFrame || !CUT[fields.op]) return frame;
    const { stack, cause, ...kept } = fields;
    const part = CUT[fields.op];
    // A character takes up to 6 bytes of JSON.
    const most = Math.floor(Math.max(0, this.maxFrame - 200) / 6);
    return this.codec.frame({ ...kept, [part]: kept[part].slice(0, most).toWellFormed() });
  }

  /** Emit one of several results. */
  emit(call, value) {
    if (call.closed) return;
    const part = this.#encode(call, value);
    const size = this.codec.size(part) + 1; // with its comma
    this.#mustFit(call, size, this.room);
    if (call.size + size > Math.min(ENOUGH, this.room)) {
      this.#putPartial(call);
      this.write();
    }
    if (call.parts.length) call.parts.push(part);
    else {
      call.parts = [part];
      call.oldest = performance.now();
    }
    call.size += size;
    this.#partial.add(call);
    if (call.isAsync) this.#timer ??= setTimeout(() => this.flush(), LINGER);
  }

  #encode(call, value) {
    const part = this.codec.encode(value);
    if (part.length > MEMBERS) checkMembers(call, value);
    return part;
  }

  #mustFit(call, size, most) {
    if (size <= most) return;
    const other = this.maxFrame < LARGEST ? 'raise max_frame of the node' : 'pass a path';
    throw new FrameTooLarge(
      `${call.node} emitted a result of ${size} bytes; a frame holds at most ${this.maxFrame}: ` +
        `emit less at once, or ${other}`,
    );
  }

  end(call) {
    this.#partial.delete(call);
    this.#gather(call.id, this.codec.list(call.parts));
  }

  /** End a call with its only result. Throws if the result cannot be carried. */
  endWith(call, value) {
    const list = this.codec.one(value);
    if (list.length > MEMBERS) checkMembers(call, value);
    if (list.length * this.codec.width > this.room) this.#mustFit(call, this.codec.size(list), this.room);
    this.#gather(call.id, list);
  }

  /** Put the results that end a call beside those of the call before it, if one frame can have both. */
  #gather(id, list) {
    if (!this.waits) this.#oldest = performance.now();
    const length = this.#length + list.length;
    const most = Math.min(ENOUGH, this.room / this.codec.width);
    if (length > most || id !== this.#first + this.#gathered.length) this.#putEnds();
    if (!this.groups || list.length > Math.min(SMALL, most) || typeof id !== 'number') {
      this.#putEnds();
      this.#put(this.codec.results('end', id, list));
      return;
    }
    if (!this.#gathered.length) this.#first = id;
    this.#gathered.push(list);
    this.#length += list.length + 1; // with its comma
  }

  #putEnds() {
    const lists = this.#gathered;
    if (!lists.length) return;
    this.#gathered = [];
    this.#length = 0;
    if (lists.length === 1) this.#put(this.codec.results('end', this.#first, lists[0]));
    else this.#put(this.codec.results('ends', this.#first, this.codec.list(lists)));
  }

  /** End a call with an error. Its results that are in no frame yet are dropped. */
  fail(call, error) {
    this.#partial.delete(call);
    const about = describe(error);
    if (about.retry === undefined && call.hasTimedOut(error)) about.timeout = true;
    this.#putError(call.id, about);
  }

  /** Report that the process itself cannot go on. */
  failAll(error) {
    this.#putError(null, describe(error));
  }

  #putError(id, about) {
    this.#put(this.#fit({ op: 'err', id, ...about }));
  }

  #putPartial(call) {
    if (!this.#partial.delete(call)) return;
    this.#put(this.codec.results('out', call.id, this.codec.list(call.parts)));
    call.parts = NONE;
    call.size = 0;
  }

  #put(chunk) {
    this.#putEnds();
    if (!this.#size) this.#oldest = performance.now();
    this.#chunks.push(chunk);
    this.#size += chunk.length;
  }

  /** Write if there is enough, or if the oldest result has waited long enough by *now*. */
  writeIfDue(now) {
    if (this.#size > ENOUGH || (this.waits && now - this.#oldest > LINGER)) this.write();
  }

  /** Write at the end of this turn of the event loop. */
  writeSoon() {
    this.#immediate ??= setImmediate(() => this.write());
  }

  /** Write everything, including the results of open calls. */
  flush() {
    for (const call of this.#partial) this.#putPartial(call);
    this.write();
  }

  write() {
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
    this.#immediate = undefined;
    this.#timer = this.#partial.size && this.#timer ? setTimeout(() => this.flush(), LINGER) : undefined;
    this.#putEnds();
    if (!this.#size) return;
    const data = this.codec.join(this.#chunks);
    this.#chunks = [];
    this.#size = 0;
    try {
      if (!this.gone) writeAll(this.sink, data);
    } catch {
      this.gone = true; // nobody is left to tell
    }
  }
}

function checkMembers(call, value) {
  // Some for the frame itself.
  if (members(value) <= MEMBERS - 100) return;
  throw new EncodeError(`${call.node} emitted a result of over ${MEMBERS - 100} members`);
}
