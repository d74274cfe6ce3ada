# Two nodes. They know nothing of Emit.

def count(text:)
  { counts: text.scan(/[A-Za-z]{3,}/).map(&:downcase).tally }
end

def letters(word:)
  { word: word, letters: word.chars.sort.join }
end
