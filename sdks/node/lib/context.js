// The current call: a handler's second argument, and the value of context().

import { AsyncLocalStorage } from 'node:async_hooks';
import { config } from './config.js';
import { Cancelled, isTimeout } from './errors.js';
import { log } from './log.js';

/** The call of the running code, through every `await`, timer and callback of it. */
export const current = new AsyncLocalStorage();

/** Return the current call. Outside of one, as in a test, return a call that is never cancelled. */
export function context() {
  return current.getStore() ?? new Call({});
}

const NONE = [];
/** Milliseconds by which a timer may fire early. */
const EARLY = 5;

/** One message given to a handler. */
export class Call {
  #session;
  #controller;
  #timer;
  #cancelled = false;
  #milliseconds; // the call's time limit, from its turn on
  #deadline = Infinity;

  // For the session: the state of the call; its results that are in no frame yet, and their bytes.
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
    this.tracestate = meta?.tracestate ?? null;
    this.#session = session;
    this.#milliseconds = meta?.deadline_ms;
  }

  /** Begin the call's time at its turn: calls are sent ahead, and wait. */
  begin() {
    if (this.#milliseconds != null) this.#deadline = performance.now() + this.#milliseconds;
  }

  get log() {
    return log;
  }

  get config() {
    return config();
  }

  // Getters that return functions, so that `({ id }, { remaining }) =>` works.

  /** Seconds until the deadline, below 0 after it; null without a deadline. */
  get remaining() {
    return () => (this.#deadline === Infinity ? null : (this.#deadline - performance.now()) / 1000);
  }

  /**
   * True if the host has cancelled this call. A handler that never awaits should check it now and
   * then.
   */
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

  /** True if *error* is of a signal or a timeout, and the deadline has passed. */
  hasTimedOut(error) {
    if (this.#cancelled || performance.now() < this.#deadline - EARLY) return false;
    return isTimeout(error, this.#controller?.signal.reason);
  }

  cancel() {
    this.#cancelled = true;
    this.#controller?.abort(new Cancelled('cancelled by the host'));
  }

  /** Clear all timers of this call. */
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
