/** The values of the wire; NaN, infinities, bytes and instants only with the codec msgpack. */
export type Value =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | Date
  | readonly Value[]
  | { readonly [field: string]: Value };

/** The current call: the second argument of a handler. */
export interface Context {
  /** The call's number in this process; null outside of a host. */
  readonly id: number | null;
  /** Name of the node that was called. */
  readonly node: string | null;
  /** Name of the node that emitted the message. */
  readonly origin: string | null;
  /** The number of this attempt, counted by the host from 1. */
  readonly attempt: number;
  /** The W3C trace context of this run, if it is traced at the host, and otherwise the sender's. */
  readonly traceparent: string | null;
  /** The second part of that context. */
  readonly tracestate: string | null;
  /**
   * The node's configuration: its `config` at the host. From a shell and in a test: the map in JSON
   * of the environment variable EMIT_CONFIG. Read it in a handler: while a file loads, the host has
   * not sent it yet.
   */
  readonly config: Readonly<Record<string, any>>;
  /**
   * Aborts when the host cancels the call, and when its deadline has passed. A handler that fails
   * because of it is tried again.
   */
  readonly signal: AbortSignal;
  /** True if the host has cancelled the call; for a handler that never awaits. */
  readonly cancelled: boolean;
  /**
   * Seconds until the deadline, below 0 after it; null without a deadline. The time of a call
   * begins when its handler is called.
   */
  readonly remaining: () => number | null;
  readonly log: Log;
}

/**
 * Nothing (undefined), one result, or a stream of results. A generator's return value is not a
 * result.
 */
export type Results<Out> =
  | Out
  | void
  | PromiseLike<Out | void>
  | Generator<Out, void, void>
  | AsyncIterable<Out>;

export type Handler<In, Out> = (msg: In, context: Context) => Results<Out>;

/** A node is a function: in a test, call it with a message, and it resolves to the results. */
export interface Node<In, Out> {
  (msg: In, context?: Partial<Context>): Promise<Out[]>;
  readonly handler: Handler<In, Out>;
}

/** Define a node of this program. By default it has the function's name, or else the file's. */
export function node<In = Record<string, any>, Out = unknown>(
  handler: Handler<In, Out>,
): Node<In, Out>;
export function node<In = Record<string, any>, Out = unknown>(
  name: string,
  handler: Handler<In, Out>,
): Node<In, Out>;

export interface ServeOptions {
  /** The most calls that run at a time, of all nodes together; 1 by default. */
  concurrency?: number;
}

/** Serve this program's nodes; needed only for options. Does nothing in a file that is imported. */
export function serve(options?: ServeOptions): void;

/** Call *hook* when all calls are answered, before the process ends. */
export function onStop(hook: () => unknown): void;

/** The current call. Outside of one, as in a test, a call that is never cancelled. */
export function context(): Context;

/** Takes the arguments of console.log; the host gets the line with its call. */
export type LogMethod = (format: unknown, ...values: unknown[]) => void;
export type Log = Readonly<
  Record<'debug' | 'info' | 'warn' | 'warning' | 'error' | 'critical', LogMethod>
>;
export const log: Log;

/** Throw it to get the same message again, `after` seconds from now. */
export class Retry extends Error {
  constructor(message?: string, options?: { after?: number; cause?: unknown });
  readonly after: number | undefined;
}

/** Throw it when no attempt with this message can succeed. */
export class Reject extends Error {}

/** The wire cannot carry a result unchanged. The text says which part of it, and why. */
export class EncodeError extends Error {}

/** A result beyond `max_frame`. */
export class FrameTooLarge extends EncodeError {}

/** An instant with more digits than a Date has: `nanoseconds` has those beyond the millisecond. */
export class Timestamp extends Date {
  constructor(milliseconds: number, nanoseconds: number);
  readonly nanoseconds: number;
}

/** For launchers: load *file* and serve it, or its function *name*. */
export function boot(file: string, name?: string, missing?: () => unknown): Promise<void>;

/** For launchers: take descriptors 0 and 1 away from all other code. */
export function takeWire(): unknown;

export const VERSION: string;
