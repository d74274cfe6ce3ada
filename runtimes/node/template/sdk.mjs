import { node, Reject } from 'emit-graph-sdk';

/** Emit each word of the text. */
export default node(function* {{name}}({ text }, { attempt, log }) {
  if (!text.trim()) throw new Reject('there is no word in it');
  log.info('attempt %d', attempt);
  for (const word of text.split(' ')) yield { word, length: word.length };
});
