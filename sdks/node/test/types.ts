// Checked by tsc --noEmit, never run: what an author may write, and what he may not.

import { context, log, node, onStop, Reject, Retry, serve, Timestamp } from 'emit-graph-sdk';
import type { Context, Node, Value } from 'emit-graph-sdk';

const double = node((msg: { n: number }) => msg.n * 2);
const doubled: Promise<number[]> = double({ n: 1 });
const named: Node<{ n: number }, number> = node('double', ({ n }: { n: number }) => n * 2);

const words = node('words', function* ({ text }: { text: string }) {
  yield* text.split(' ');
});
const heard: Promise<string[]> = words({ text: 'a b' });

const stream = node(async function* ({ n }: { n: number }, { signal, log: own }) {
  own.info('%d to go', n);
  if (!signal.aborted) yield { n };
});
const streamed: Promise<{ n: number }[]> = stream({ n: 1 }, { attempt: 2 });

const untyped = node(({ count }) => count);
untyped({ count: 3 });
node(() => {});
node(async ({ count }) => {
  if (count > 3) return { count: count as number };
});

const call: Context = context();
const left: number | null = call.remaining();
const value: Value = { list: [1, 2n, null, 'a', new Date(), new Uint8Array(1)] };
log.warn('careful');
serve();
serve({ concurrency: 4 });
onStop(async () => {});
throw new Retry('busy', { after: 2, cause: new Reject('no', { cause: new Timestamp(0, 1).nanoseconds }) });

// @ts-expect-error: a field that the handler does not take
double({ m: 1 });
// @ts-expect-error: another type of result
const texts: Promise<string[]> = double({ n: 1 });
// @ts-expect-error: no handler
node('double');
// @ts-expect-error: a name is a text
node(3, () => {});
// @ts-expect-error: seconds are a number
new Retry('busy', { after: '2' });
// @ts-expect-error: an option that there is not
serve({ threads: 4 });
// @ts-expect-error: the context is read, not written
call.attempt = 3;
// @ts-expect-error: there is no such level
log.loud('careful');
// @ts-expect-error: a function is no value
const bad: Value = { call: () => {} };
// @ts-expect-error: remaining is asked, it changes
const wrong: number = call.remaining;
