// The node's configuration: from the host's hello, or from the environment. No I/O here.

import { parse } from './json.js';
import { isMap } from './values.js';

let known; // once it is in use, or the host has sent it

/** Return the configuration. Before the host has sent it, and without a host: EMIT_CONFIG. */
export function config() {
  known ??= fromEnvironment();
  return known;
}

/** Take the configuration of *hello*. Throws if an author's file has read it before. */
export function configure(hello) {
  if (known) throw new Error('the config comes when the program has loaded: read context().config in a handler');
  known = hello.config ?? {};
}

/** Take the configuration away from the programs that a handler starts. */
export function hideConfig() {
  config();
  delete process.env.EMIT_CONFIG;
}

function fromEnvironment() {
  const text = process.env.EMIT_CONFIG;
  if (!text) return {};
  try {
    const map = parse(text);
    if (map !== null && typeof map === 'object' && isMap(map)) return map;
  } catch {
    // The error's text quotes what may be a secret.
  }
  throw new TypeError('EMIT_CONFIG is not a map in JSON');
}
