/**
 * Write a node of an Emit graph in JavaScript or TypeScript.
 *
 *     import { node } from 'emit-graph-sdk';
 *
 *     export default node(function* count({ count }) {
 *       for (let n = 0; n < count; n++) yield n;
 *     });
 *
 * The map, which the SDKs of other languages follow: `lib/errors.js`, `lib/nodes.js` and
 * `lib/context.js` (the author's part), `lib/log.js`, `lib/values.js`, `lib/json.js`,
 * `lib/msgpack.js` and `lib/codec.js` (values to bytes and back), `lib/frames.js` (the
 * descriptors), `lib/session.js` (the calls of one process), `lib/plain.js` (by hand),
 * `lib/serve.js`. The wire is described in runtimes/PROTOCOL.md.
 */
export { context } from './lib/context.js';
export { EncodeError, FrameTooLarge, Reject, Retry } from './lib/errors.js';
export { takeWire } from './lib/frames.js';
export { log } from './lib/log.js';
export { Timestamp } from './lib/msgpack.js';
export { boot, node, onStop, serve } from './lib/serve.js';
export { VERSION } from './lib/version.js';
