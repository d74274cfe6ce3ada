/** Emit each word of the text. */
export default function* {{name}}({ text }) {
  for (const word of text.split(' ')) yield { word, length: word.length };
}
