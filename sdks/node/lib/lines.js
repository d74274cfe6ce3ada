// The lines of a stream. The first one shows the kind of input.

/** Return the first line that is not blank, and the input that has arrived from its line end on. */
export function readFirst(stream) {
  let held = Buffer.alloc(0);
  return new Promise((resolve, reject) => {
    const stop = (first, rest) => {
      stream.off('data', take).off('end', end).off('error', reject).pause();
      resolve({ first, rest });
    };
    const take = (chunk) => {
      held = trimStart(held.length ? Buffer.concat([held, chunk]) : chunk);
      const at = held.indexOf(10);
      if (at >= 0) stop(held.subarray(0, at), held.subarray(at));
    };
    const end = () => stop(held, Buffer.alloc(0));
    stream.on('data', take).on('end', end).on('error', reject);
  });
}

const SPACE = [9, 10, 13, 32];

function trimStart(bytes) {
  let at = 0;
  while (SPACE.includes(bytes[at])) at += 1;
  return bytes.subarray(at);
}

/** Yield each line of *chunks*, without its end. */
export async function* readLines(chunks) {
  let held = [];
  for await (const chunk of chunks) {
    let from = 0;
    for (let at; (at = chunk.indexOf(10, from)) >= 0; from = at + 1) {
      yield Buffer.concat([...held, chunk.subarray(from, at)]);
      held = [];
    }
    held.push(chunk.subarray(from));
  }
  if (held.some((part) => part.length)) yield Buffer.concat(held);
}

/** Yield the input that has arrived, and then the input that still comes. */
export async function* chunks(stream, rest) {
  yield rest;
  if (!stream.readableEnded) yield* stream;
}
