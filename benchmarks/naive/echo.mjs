// What one writes without an SDK: a line in, a line out, flushed.
import { createInterface } from 'node:readline';

createInterface({ input: process.stdin }).on('line', (line) => {
  process.stdout.write(`${JSON.stringify(JSON.parse(line))}\n`);
});
