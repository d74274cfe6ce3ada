import assert from 'node:assert/strict';
import { test } from 'node:test';
import {{name}} from './{{name}}.ts';

test('{{name}} emits each word', async () => {
  const results: unknown[] = [];
  // A generator gives its results one by one, a node of the SDK a promise of them all.
  for await (const result of await {{name}}({ text: 'the rain' })) results.push(result);
  assert.deepEqual(results, [
    { word: 'the', length: 3 },
    { word: 'rain', length: 4 },
  ]);
});
