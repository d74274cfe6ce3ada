// The current call: what a handler is given as its second argument, and what context() returns.

import { AsyncLocalStorage } from 'node:async_hooks';
import { Cancelled, isTimeout } from './errors.js';
import { log } from './log.js';

/** Which call the running code belongs to, through every `await`, timer and callback of it. */
export const current = new AsyncLocalStorage();

/** The current call. Outside of one, as in a test: a call that nobody cancels. */
export function context() {
  return current.getStore() ?? new Call({});
}

const NONE = [];
/** Milliseconds by which a timer may go off before its time. */
const EARLY = 5;

/** One message given to a handler. */
export class Call {
  #session;
  #controller;
  #timer;
  #cancelled = false;
  #milliseconds; // that it has, from its turn on
  #deadline = Infinity;

  // The session's: how far it is; its results that are in no frame yet, and their bytes.
  isAsync = false;
  closed = false;
  parts = NONE;
  size = 0;
  oldest = 0;

  constructor({ id = null, node = null, msg, meta }, session) {
    this.id = id;
    this.node = node;
    this.msg = msg;
    this.origin = meta?.origin ?? null;
    this.attempt = meta?.attempt ?? 1;
    this.traceparent = meta?.traceparent ?? null;
    this.#session = session;
    this.#milliseconds = meta?.deadline_ms;
  }

  /** Its turn has come, and so its time begins: calls are sent ahead, and wait. */
  begin() {
    if (this.#milliseconds != null) this.#deadline = performance.now() + this.#milliseconds;
  }

  get log() {
    return log;
  }

  get config() {
    return this.#session?.config ?? {};
  }

  // Getters that return functions, so that `({ id }, { remaining }) =>` works.

  /** The seconds until the deadline, below 0 when it has passed; null without one. */
  get remaining() {
    return () => (this.#deadline === Infinity ? null : (this.#deadline - performance.now()) / 1000);
  }

  /** Whether the host has cancelled this call. A handler that never awaits asks now and then. */
  get cancelled() {
    this.#session?.look();
    return this.#cancelled;
  }

  /** Aborts when the host cancels the call (Cancelled) and at its deadline (TimeoutError). */
  get signal() {
    if (!this.#controller) {
      this.#controller = new AbortController();
      this.#session?.signalling();
      if (this.#cancelled) this.cancel();
      else if (this.#deadline !== Infinity) this.#wake();
    }
    return this.#controller.signal;
  }

  get wasCancelled() {
    return this.#cancelled;
  }

  get hasSignal() {
    return this.#controller !== undefined;
  }

  /** Whether *error* is the deadline's: that of a signal or a timeout, when the deadline has passed. */
  hasTimedOut(error) {
    if (this.#cancelled || performance.now() < this.#deadline - EARLY) return false;
    return isTimeout(error, this.#controller?.signal.reason);
  }

  cancel() {
    this.#cancelled = true;
    this.#controller?.abort(new Cancelled('cancelled by the host'));
  }

  /** No timer of this call is left. */
  close() {
    this.closed = true;
    clearTimeout(this.#timer);
  }

  #wake() {
    const left = Math.max(0, this.#deadline - performance.now());
    const late = () => this.#controller.abort(new DOMException('the deadline has passed', 'TimeoutError'));
    // Node takes timers of up to 2^31 ms, 24 days.
    this.#timer = setTimeout(late, Math.min(left, 2 ** 31 - 1));
    this.#timer.unref();
  }
}
