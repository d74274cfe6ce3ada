def reverse(word:) = word.reverse
