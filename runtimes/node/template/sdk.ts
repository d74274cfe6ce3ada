import { node, Reject } from 'emit-graph-sdk';

type Text = { text: string };

/** Emit each word of the text. */
export default node(function* {{name}}({ text }: Text, { attempt, log }) {
  if (!text.trim()) throw new Reject('there is no word in it');
  log.info('attempt %d', attempt);
  for (const word of text.split(' ')) yield { word, length: word.length };
});
