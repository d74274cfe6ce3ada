// Two nodes. They know nothing of Emit.

export function count({ text }) {
  const counts = new Map(); // in an object, the word "constructor" would be there already
  for (const [found] of text.matchAll(/[A-Za-z]{3,}/g)) {
    const word = found.toLowerCase();
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return { counts: Object.fromEntries(counts) };
}

export function letters({ word }) {
  return { word, letters: [...word].sort().join('') };
}
