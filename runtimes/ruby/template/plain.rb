# Emits each word of the text.
def {{name}}(msg, out)
  msg[:text].split.each { |word| out << { word: word, length: word.size } }
end
