type Text = { text: string };
type Word = { word: string; length: number };

/** Emit each word of the text. */
export default function* {{name}}({ text }: Text): Generator<Word> {
  for (const word of text.split(' ')) yield { word, length: word.length };
}
