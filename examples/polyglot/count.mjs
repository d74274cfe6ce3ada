import { readFileSync } from 'node:fs';

const { text } = JSON.parse(readFileSync(0, 'utf8'));
const counts = new Map(); // in an object, the word "constructor" would be there already
for (const [found] of text.matchAll(/[A-Za-z]{3,}/g)) {
  const word = found.toLowerCase();
  counts.set(word, (counts.get(word) ?? 0) + 1);
}
console.log(JSON.stringify({ counts: Object.fromEntries(counts) }));
