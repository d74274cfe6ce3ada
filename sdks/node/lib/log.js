// Everything logged in this program reaches the host, with the id of the call it belongs to.

import { format } from 'node:util';
import { text } from './errors.js';

/** The methods of console that are replaced, and the level of each. */
const CONSOLE = { debug: 'debug', log: 'info', info: 'info', warn: 'warning', error: 'error' };

let send; // sends to the host, once there is one

/** Logs as console does, `log.warn('%d left', 3)`; without a host, to stderr. */
export const log = {
  debug: (...values) => write('debug', values),
  info: (...values) => write('info', values),
  warn: (...values) => write('warning', values),
  warning: (...values) => write('warning', values),
  error: (...values) => write('error', values),
  critical: (...values) => write('critical', values),
};

function write(level, values) {
  const line = format(...values);
  if (send) send(level, text(line));
  else process.stderr.write(`${level}: ${line}\n`);
}

/** Send `log` and console to *sender* from now on. It takes a level and a text. */
export function logThrough(sender) {
  send = sender;
  for (const [method, level] of Object.entries(CONSOLE)) {
    console[method] = (...values) => write(level, values);
  }
}
