// Frames to bytes and back, in the agreed codec. No I/O here.

import { DecodeError } from './errors.js';
import { decode, parseLines, stringify } from './json.js';
import { pack, unpack } from './msgpack.js';

const CODECS = { json: () => new Json(), msgpack: () => new Msgpack() };

/** Return the first of the *offered* codecs that this SDK has; JSON is always understood. */
export function choose(offered = []) {
  return CODECS[offered.find((name) => Object.hasOwn(CODECS, name)) ?? 'json']();
}

/** One line for each frame. Its parts are texts. */
export class Json {
  name = 'json';
  /** The most bytes of a part for each unit of its length: a character takes up to 3 in UTF-8. */
  width = 3;
  encode = stringify;
  size = (part) => Buffer.byteLength(part);

  // The newline in front keeps a stray print without one from gluing itself to the frame.
  frame(fields) {
    return `\n${stringify(fields)}\n`;
  }

  /** Return the frame with a *list* that is encoded already. */
  results(op, id, list) {
    return `\n{"op":"${op}","id":${id},"msgs":${list}}\n`;
  }

  /** Return the list of one result, encoded. */
  one(value) {
    return `[${stringify(value)}]`;
  }

  /** Return the list of *parts* that are encoded already. */
  list(parts) {
    // Not join(): that would copy each text twice.
    let text = parts.length ? parts[0] : '';
    for (let i = 1; i < parts.length; i++) text += `,${parts[i]}`;
    return `[${text}]`;
  }

  /** Return the bytes of *chunks*, to be written before the next call of this method. */
  join(chunks) {
    let text = '';
    for (let i = 0; i < chunks.length; i++) text += chunks[i];
    if (text.length * this.width > OUT.length) return Buffer.from(text);
    return OUT.subarray(0, OUT.write(text)); // a new Buffer for each would be much garbage
  }

  /** Return the frames in *bytes*, and the number of bytes used. */
  split(bytes) {
    const used = bytes.lastIndexOf(10) + 1;
    return { frames: used ? parseLines(decode(bytes.subarray(0, used))) : [], used };
  }

  /**
   * True if more than a part of one frame has come. This saves copies while a large frame comes in.
   */
  isComplete(last) {
    return last.includes(10);
  }
}

/** A length in 4 bytes, and a map. Its parts are Buffers. */
export class Msgpack {
  name = 'msgpack';
  width = 1;
  encode = pack;
  size = (part) => part.length;

  frame(fields) {
    const body = pack(fields);
    const frame = Buffer.allocUnsafe(4 + body.length);
    frame.writeUInt32BE(body.length);
    frame.set(body, 4);
    return frame;
  }

  // {"op": op, "id": id, "msgs": [...]} around a list that is packed already.
  results(op, id, list) {
    const size = HEADS[op].length + 8 + MSGS.length + list.length;
    const frame = Buffer.allocUnsafe(4 + size);
    let at = frame.writeUInt32BE(size);
    at = putAll(frame, at, HEADS[op]);
    at = frame.writeBigUInt64BE(BigInt(id), at);
    at = putAll(frame, at, MSGS);
    putAll(frame, at, list);
    return frame;
  }

  one(value) {
    return pack(value, ONE);
  }

  list(parts) {
    let size = 5;
    for (let i = 0; i < parts.length; i++) size += parts[i].length;
    const list = Buffer.allocUnsafe(size);
    list[0] = 0xdd;
    let at = list.writeUInt32BE(parts.length, 1);
    for (let i = 0; i < parts.length; i++) at = putAll(list, at, parts[i]);
    return list;
  }

  join(chunks) {
    return chunks.length === 1 ? chunks[0] : Buffer.concat(chunks);
  }

  split(bytes) {
    const frames = [];
    let used = 0;
    while (used + 4 <= bytes.length) {
      const end = used + 4 + bytes.readUInt32BE(used);
      if (end > bytes.length) break;
      frames.push(unpack(bytes, used + 4, end));
      used = end;
    }
    return { frames, used };
  }

  isComplete(last, chunks, total) {
    // The length itself may arrive in up to four chunks.
    return total >= 4 && total >= 4 + Buffer.concat(chunks.slice(0, 4), 4).readUInt32BE(0);
  }
}

const OUT = Buffer.allocUnsafeSlow(64 * 1024);
const HEADS = { out: head('out'), end: head('end'), ends: head('ends') };
const MSGS = Buffer.from([0xa4, ...Buffer.from('msgs')]);
/** A list of one, without its member. */
const ONE = Buffer.from([0x91]);

/** Return a map of three: its op, and the id up to its 8 bytes. */
function head(op) {
  const name = [0xa0 | op.length, ...Buffer.from(op)];
  return Buffer.from([0x83, 0xa2, ...Buffer.from('op'), ...name, 0xa2, ...Buffer.from('id'), 0xcf]);
}

function putAll(frame, at, bytes) {
  frame.set(bytes, at);
  return at + bytes.length;
}

/** Cuts the input into frames. A remainder waits for the rest of its frame. */
export class Splitter {
  #chunks = [];
  #total = 0;

  constructor(codec, most) {
    this.codec = codec;
    this.most = most;
  }

  /** Return the frames that *chunk* completes. The chunk may be reused afterwards. */
  feed(chunk) {
    let bytes = chunk;
    if (this.#total) {
      this.#chunks.push(chunk);
      this.#total += chunk.length;
      if (!this.codec.isComplete(chunk, this.#chunks, this.#total)) return this.#wait();
      bytes = Buffer.concat(this.#chunks);
    }
    const { frames, used } = this.codec.split(bytes);
    this.#total = bytes.length - used;
    this.#chunks = this.#total ? [Buffer.from(bytes.subarray(used))] : [];
    if (this.#total > this.most) this.#refuse();
    return frames;
  }

  #wait() {
    const last = this.#chunks.length - 1;
    this.#chunks[last] = Buffer.from(this.#chunks[last]);
    if (this.#total > this.most) this.#refuse();
    return [];
  }

  #refuse() {
    throw new DecodeError(`a frame beyond the ${this.most} bytes of max_frame`);
  }
}
